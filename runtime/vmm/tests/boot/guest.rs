//! The guest's side: a first process that runs shell commands for the host over vsock.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockListener, VsockStream};

/// A line is a shell command, with the connection as its input and output.
pub const SHELL_PORT: u32 = 1000;
/// The shell command at which the first process ends, and the kernel with it.
pub const END_INIT: &str = "end init";
/// What comes goes back.
pub const ECHO_PORT: u32 = 1001;
/// A line is a port of the host: the rest goes there, and back what it answers.
pub const CONNECT_PORT: u32 = 1002;
/// Where the host hears that the guest is up.
pub const READY_PORT: u32 = 1024;

/// Never returns: the kernel panics when its first process ends.
pub fn main() -> ! {
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        let status = Command::new("/bin/busybox").args(["mount", "-t", kind, kind, place]).status();
        assert!(status.unwrap().success(), "mounting {place}");
    }
    // All listen before the host hears that the guest is up.
    serve(ECHO_PORT, |stream| copy_and_end(&stream, &stream));
    serve(CONNECT_PORT, connect);
    let shell = serve(SHELL_PORT, run);
    drop(VsockStream::connect_with_cid_port(VMADDR_CID_HOST, READY_PORT));
    shell.join().unwrap();
    unreachable!("the shell's listener does not end");
}

fn serve(port: u32, each: fn(VsockStream) -> io::Result<()>) -> JoinHandle<()> {
    let listener = VsockListener::bind_with_cid_port(VMADDR_CID_ANY, port).unwrap();
    std::thread::spawn(move || listen(&listener, port, each))
}

fn listen(listener: &VsockListener, port: u32, each: fn(VsockStream) -> io::Result<()>) {
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        std::thread::spawn(move || {
            if let Err(error) = each(stream) {
                eprintln!("port {port}: {error}");
            }
        });
    }
}

fn copy_and_end(mut from: impl Read, mut to: &VsockStream) -> io::Result<()> {
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)
}

/// One byte at a time: nothing behind the line is taken.
fn line(stream: &VsockStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::with_capacity(1, stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn run(mut stream: VsockStream) -> io::Result<()> {
    let command = line(&stream)?;
    if command == END_INIT {
        std::process::exit(1);
    }
    let copy = || -> io::Result<Stdio> { Ok(stream.as_fd().try_clone_to_owned()?.into()) };
    let (input, output, errors) = (copy()?, copy()?, copy()?);
    let status = Command::new("/bin/busybox")
        .args(["sh", "-c", &command])
        .stdin(input)
        .stdout(output)
        .stderr(errors)
        .status()?;
    writeln!(stream, "\nstatus {}", status.code().unwrap_or(-1))
}

fn connect(stream: VsockStream) -> io::Result<()> {
    let port = line(&stream)?.parse().map_err(io::Error::other)?;
    let host = VsockStream::connect_with_cid_port(VMADDR_CID_HOST, port)?;
    std::thread::scope(|scope| {
        let there = scope.spawn(|| copy_and_end(&stream, &host));
        let back = copy_and_end(&host, &stream);
        there.join().unwrap()?;
        back
    })
}
