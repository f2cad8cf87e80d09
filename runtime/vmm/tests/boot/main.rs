//! Boots guests and looks at them from both sides. Needs a host with real KVM and the guest kernel:
//!
//! ```sh
//! guest-kernel/build
//! CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/tests/testbed/run \
//!     cargo test --release -p husk-vmm --test boot -- [PART OF A NAME]
//! ```
//!
//! The program is its own guest: as a first process it is the init that does what the host asks.

mod confinement;
mod disks;
mod ends;
mod figures;
mod guest;
mod initramfs;
mod life;
mod limits;
mod machine;
mod network;
mod refusals;
mod resize;
mod returns;
mod slow_disks;
mod snapshot;
mod sockets;

type Test = (&'static str, fn());

const TESTS: &[&[Test]] = &[
    refusals::TESTS,
    life::TESTS,
    disks::TESTS,
    slow_disks::TESTS,
    sockets::TESTS,
    network::TESTS,
    limits::TESTS,
    resize::TESTS,
    returns::TESTS,
    snapshot::TESTS,
    ends::TESTS,
    confinement::TESTS,
    figures::TESTS,
];

fn main() {
    if std::process::id() == 1 {
        guest::main();
    }
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let tests = TESTS.concat();
    // Emulated KVM loses a guest now and then, about one in a hundred; on real KVM every test has one chance.
    let emulated = std::env::var_os("HUSK_TESTBED_EMULATED").is_some();
    let mut second_chances = if emulated { 2 } else { 0 };
    let mut failed = Vec::new();
    for (name, test) in tests.iter().filter(|(name, _)| name.contains(&wanted)) {
        let mut passed = passes(name, *test);
        if !passed && second_chances > 0 {
            second_chances -= 1;
            println!("test {name} ... once more: emulated KVM may have lost the guest");
            passed = passes(name, *test);
        }
        if !passed {
            failed.push(*name);
        }
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
        std::process::exit(1);
    }
}

fn passes(name: &str, test: fn()) -> bool {
    let began = std::time::Instant::now();
    let passed = std::panic::catch_unwind(test).is_ok();
    let word = if passed { "ok" } else { "FAILED" };
    println!("test {name} ... {word} ({:.1} s)", began.elapsed().as_secs_f64());
    passed
}
