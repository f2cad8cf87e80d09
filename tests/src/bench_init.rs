//! What the init of a benchmark's bare VM and the host agree upon.

/// Variable of the guest's command line: the MiB that it sends over vsock and then over the network.
pub const MIB_VARIABLE: &str = "HUSK_BENCH_MIB";

/// The host's port for both.
pub const PORT: u32 = 7000;

/// The host's address.
pub const HOST: &str = "fe80::1";

/// What the init says, first of all.
pub const UP: &str = "husk-bench: up";

/// Variable of the guest's command line: once it is up, the init sleeps for good.
pub const IDLE_VARIABLE: &str = "HUSK_BENCH_IDLE";
