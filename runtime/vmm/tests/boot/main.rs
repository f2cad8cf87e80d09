//! Boots guests and looks at them from both sides. Needs a host with real KVM and the guest kernel:
//!
//! ```sh
//! guest-kernel/build
//! CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/tests/testbed/run \
//!     cargo test --release -p husk-vmm --test boot -- [PART OF A NAME]
//! ```
//!
//! The program is its own guest: as a first process it is the init that does what the host asks.

mod disks;
mod ends;
mod figures;
mod guest;
mod initramfs;
mod life;
mod machine;
mod network;
mod refusals;
mod sockets;

type Test = (&'static str, fn());

const TESTS: &[&[Test]] = &[
    refusals::TESTS,
    life::TESTS,
    disks::TESTS,
    sockets::TESTS,
    network::TESTS,
    ends::TESTS,
    figures::TESTS,
];

fn main() {
    if std::process::id() == 1 {
        guest::main();
    }
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let tests = TESTS.concat();
    let mut failed = Vec::new();
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(&wanted)) {
        let began = std::time::Instant::now();
        let result = std::panic::catch_unwind(test);
        let word = if result.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({:.1} s)", began.elapsed().as_secs_f64());
        if result.is_err() {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
        std::process::exit(1);
    }
}
