//! The init of the benchmarks' bare VMs: says that it runs, sends what it is asked to, and powers off; or sleeps.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddrV6, TcpStream};
use std::time::{Duration, Instant};

use husk_tests::bench_init::{HOST, IDLE_VARIABLE, MIB_VARIABLE, PORT, UP};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use vsock::{VMADDR_CID_HOST, VsockStream};

/// Of one write.
const BYTES: usize = 256 << 10;
/// How long the host's end of the network may take.
const LIMIT: Duration = Duration::from_secs(20);

fn main() {
    println!("{UP}");
    // The kernel gives its init what it does not know of its command line.
    while std::env::var_os(IDLE_VARIABLE).is_some() {
        std::thread::park();
    }
    let mib = std::env::var(MIB_VARIABLE).ok().and_then(|text| text.parse().ok());
    if let Some(mib) = mib
        && let Err(error) = streams(mib)
    {
        println!("husk-bench: {error}");
    }
    let error = reboot(RebootMode::RB_POWER_OFF);
    println!("husk-bench: cannot power off: {error:?}");
}

/// So many MiB over vsock, and then over the network.
fn streams(mib: usize) -> io::Result<()> {
    for kind in ["proc", "sysfs"] {
        let place = if kind == "proc" { "/proc" } else { "/sys" };
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)?;
    }
    let vsock = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, PORT)?;
    send(&vsock, mib)?;
    vsock.shutdown(Shutdown::Write)?;
    until_closed(&vsock)?;
    let network = network()?;
    send(&network, mib)?;
    network.shutdown(Shutdown::Write)?;
    until_closed(&network)
}

fn send(mut to: impl Write, mib: usize) -> io::Result<()> {
    let bytes = vec![0x5a; BYTES];
    (0..mib * ((1 << 20) / BYTES)).try_for_each(|_| to.write_all(&bytes))
}

fn until_closed(mut from: impl Read) -> io::Result<()> {
    from.read(&mut [0]).map(drop)
}

/// IPv6 gives the interface an address of its own as soon as it is up: nothing but files is needed.
fn network() -> io::Result<TcpStream> {
    const UP_BROADCAST_MULTICAST: &str = "0x1003";
    fs::write("/proc/sys/net/ipv6/conf/eth0/dad_transmits", "0")?;
    fs::write("/sys/class/net/eth0/flags", UP_BROADCAST_MULTICAST)?;
    let index = fs::read_to_string("/sys/class/net/eth0/ifindex")?;
    let index = index.trim().parse().map_err(io::Error::other)?;
    let host: Ipv6Addr = HOST.parse().map_err(io::Error::other)?;
    let begun = Instant::now();
    loop {
        match TcpStream::connect(SocketAddrV6::new(host, PORT as u16, 0, index)) {
            Err(error) if begun.elapsed() > LIMIT => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
            connected => return connected,
        }
    }
}
