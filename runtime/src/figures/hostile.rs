//! Answers of a guest that lies, for tests.

use husk_proto::agent::{DeviceUsage, FileSystem, Pressure, PressureShare, StatsResponse};

/// Everything at its worst.
pub fn answer() -> StatsResponse {
    let (worst, some) = (u64::MAX, Some(u64::MAX));
    let pressure = |average: f64| {
        let share = PressureShare { total_nanos: worst, avg10: average, avg60: -average, avg300: f64::NAN };
        Some(Pressure { some: Some(share), full: Some(share) })
    };
    StatsResponse {
        time_nanos: i64::MIN,
        cpu_usage_nanos: worst,
        memory_usage_bytes: worst,
        memory_working_set_bytes: worst,
        memory_rss_bytes: worst,
        page_faults: worst,
        major_page_faults: worst,
        pids: worst,
        writable_bytes: worst,
        writable_inodes: worst,
        cpu_user_nanos: some,
        cpu_system_nanos: some,
        cpu_periods: some,
        cpu_throttled_periods: some,
        cpu_throttled_nanos: some,
        memory_cache_bytes: some,
        memory_mapped_file_bytes: some,
        memory_active_file_bytes: some,
        memory_inactive_file_bytes: some,
        memory_kernel_bytes: some,
        memory_swap_bytes: some,
        memory_max_usage_bytes: some,
        memory_limit_hits: some,
        oom_kills: some,
        processes: some,
        pids_max: some,
        cpu_pressure: pressure(f64::INFINITY),
        memory_pressure: pressure(f64::MAX),
        io_pressure: pressure(f64::NEG_INFINITY),
        devices: vec![device(); 1000],
        writable_filesystem: Some(FileSystem {
            device: "/".repeat(10_000),
            bytes: worst,
            inodes: worst,
            free_inodes: worst,
        }),
    }
}

/// One of its devices.
pub fn device() -> DeviceUsage {
    let worst = u64::MAX;
    DeviceUsage {
        major: u32::MAX,
        minor: u32::MAX,
        name: "../\0".repeat(1000),
        read_bytes: worst,
        written_bytes: worst,
        reads: worst,
        writes: worst,
    }
}
