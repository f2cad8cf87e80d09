//! Figures of a cgroup, from its files (kernel's admin-guide/cgroup-v2.rst).

use std::fs;

use husk_proto::agent::{DeviceUsage, Pressure, PressureShare, StatsResponse};

use super::{Cgroup, keyed};
use crate::block;
use crate::clock;
use crate::error::{Error, Result};

/// The most devices that are told of.
const MAX_DEVICES: usize = 64;

/// The most cgroups in which processes are counted: a privileged container can make any number below its own.
const MAX_CGROUPS: usize = 1000;

impl Cgroup {
    /// Figures of the cgroup; those of the writable layer are left out.
    pub fn stats(&self) -> Result<StatsResponse> {
        if !self.0.exists() {
            return Err(Error::State("the container does not run".into()));
        }
        let cpu = self.read("cpu.stat")?;
        let memory = self.read("memory.stat").unwrap_or_default();
        let events = self.read("memory.events").unwrap_or_default();
        let usage = self.number("memory.current").unwrap_or(0);
        let nanos = |key| Some(keyed(&cpu, key)?.saturating_mul(1000));
        Ok(StatsResponse {
            time_nanos: clock::now_nanos(),
            cpu_usage_nanos: nanos("usage_usec").unwrap_or(0),
            memory_usage_bytes: usage,
            // What kubelet evicts by: usage without the page cache that can be dropped at once.
            memory_working_set_bytes: usage.saturating_sub(keyed(&memory, "inactive_file").unwrap_or(0)),
            memory_rss_bytes: keyed(&memory, "anon").unwrap_or(0),
            page_faults: keyed(&memory, "pgfault").unwrap_or(0),
            major_page_faults: keyed(&memory, "pgmajfault").unwrap_or(0),
            pids: self.number("pids.current").unwrap_or(0),
            writable_bytes: 0,
            writable_inodes: 0,
            cpu_user_nanos: nanos("user_usec"),
            cpu_system_nanos: nanos("system_usec"),
            cpu_periods: keyed(&cpu, "nr_periods"),
            cpu_throttled_periods: keyed(&cpu, "nr_throttled"),
            cpu_throttled_nanos: nanos("throttled_usec"),
            memory_cache_bytes: keyed(&memory, "file"),
            memory_mapped_file_bytes: keyed(&memory, "file_mapped"),
            memory_active_file_bytes: keyed(&memory, "active_file"),
            memory_inactive_file_bytes: keyed(&memory, "inactive_file"),
            memory_kernel_bytes: keyed(&memory, "kernel"),
            memory_swap_bytes: self.number("memory.swap.current"),
            memory_max_usage_bytes: self.number("memory.peak"),
            memory_limit_hits: keyed(&events, "max"),
            oom_kills: keyed(&events, "oom_kill"),
            processes: self.count_processes(),
            pids_max: self.limit("pids.max"),
            cpu_pressure: self.pressure("cpu.pressure"),
            memory_pressure: self.pressure("memory.pressure"),
            io_pressure: self.pressure("io.pressure"),
            devices: self.read("io.stat").map(|text| devices(&text)).unwrap_or_default(),
            writable_filesystem: None,
        })
    }

    fn number(&self, file: &str) -> Option<u64> {
        self.read(file).ok()?.trim().parse().ok()
    }

    /// A limit; 0: none.
    fn limit(&self, file: &str) -> Option<u64> {
        match self.read(file).ok()?.trim() {
            "max" => Some(0),
            text => text.parse().ok(),
        }
    }

    fn pressure(&self, file: &str) -> Option<Pressure> {
        let text = self.read(file).ok()?;
        let of = |tasks| text.lines().find_map(|line| share(line.strip_prefix(tasks)?));
        Some(Pressure { some: of("some "), full: of("full ") })
    }

    /// Its processes and those of the cgroups below it.
    fn count_processes(&self) -> Option<u64> {
        let mut count = 0;
        let mut cgroups = vec![self.clone()];
        for _ in 0..MAX_CGROUPS {
            let Some(cgroup) = cgroups.pop() else { break };
            // What is below may have been removed meanwhile.
            if let Ok(processes) = cgroup.read("cgroup.procs") {
                count += processes.lines().count() as u64;
            } else if cgroup.0 == self.0 {
                return None;
            }
            let entries = fs::read_dir(&cgroup.0).into_iter().flatten().flatten();
            let below = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            cgroups.extend(below.take(MAX_CGROUPS).map(|entry| Cgroup(entry.path())));
        }
        Some(count)
    }
}

/// "avg10=0.00 avg60=0.00 avg300=0.00 total=0", the total in microseconds.
fn share(line: &str) -> Option<PressureShare> {
    let field = |name: &str| line.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let average = |name| field(name)?.parse().ok();
    Some(PressureShare {
        total_nanos: field("total")?.parse::<u64>().ok()?.saturating_mul(1000),
        avg10: average("avg10")?,
        avg60: average("avg60")?,
        avg300: average("avg300")?,
    })
}

/// Lines of "MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N ...".
fn devices(text: &str) -> Vec<DeviceUsage> {
    text.lines().filter_map(device).take(MAX_DEVICES).collect()
}

fn device(line: &str) -> Option<DeviceUsage> {
    let (number, figures) = line.split_once(' ')?;
    let (major, minor) = number.split_once(':')?;
    let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    let figure = |name: &str| {
        let text = figures.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))?;
        text.parse().ok()
    };
    Some(DeviceUsage {
        major,
        minor,
        name: block::name(major.into(), minor.into()),
        read_bytes: figure("rbytes")?,
        written_bytes: figure("wbytes")?,
        reads: figure("rios")?,
        writes: figure("wios")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_files() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        for (file, content) in [
            ("cpu.stat", "usage_usec 1500\nuser_usec 1\nsystem_usec 2\nnr_periods 3\nnr_throttled 2\n"),
            ("memory.stat", "anon 10\nfile 40\ninactive_file 30\npgfault 5\npgmajfault 1\n"),
            ("memory.current", "100\n"),
            ("memory.peak", "120\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            ("memory.events", "max 7\noom_kill 1\n"),
            ("cgroup.procs", "1\n2\n"),
            ("below/cgroup.procs", "3\n"),
            ("cpu.pressure", "some avg10=1.50 avg60=0.00 avg300=0.00 total=12\n"),
            ("io.stat", "253:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:0 \n"),
        ] {
            fs::write(dir.path().join(file), content).unwrap();
        }
        let cgroup = Cgroup(dir.path().to_owned());
        let stats = cgroup.stats().unwrap();
        assert_eq!(stats.cpu_usage_nanos, 1_500_000);
        assert_eq!((stats.cpu_user_nanos, stats.cpu_system_nanos), (Some(1000), Some(2000)));
        assert_eq!((stats.cpu_periods, stats.cpu_throttled_periods), (Some(3), Some(2)));
        assert_eq!(stats.memory_working_set_bytes, 70);
        assert_eq!((stats.memory_cache_bytes, stats.memory_max_usage_bytes), (Some(40), Some(120)));
        assert_eq!((stats.memory_limit_hits, stats.oom_kills), (Some(7), Some(1)));
        assert_eq!((stats.memory_rss_bytes, stats.pids), (10, 3));
        assert_eq!((stats.processes, stats.pids_max), (Some(3), Some(0)));
        let pressure = stats.cpu_pressure.unwrap();
        let some = pressure.some.unwrap();
        assert_eq!((some.total_nanos, some.avg10, pressure.full), (12_000, 1.5, None));
        let [device] = &stats.devices[..] else { panic!("{:?}", stats.devices) };
        assert_eq!((device.major, device.minor), (253, 0));
        assert_eq!((device.read_bytes, device.written_bytes, device.reads, device.writes), (1, 2, 3, 4));
        assert!(cgroup.oom_killed());
        // What the kernel does not count is not zero.
        assert_eq!((stats.cpu_throttled_nanos, stats.memory_swap_bytes), (None, None));
        assert_eq!((stats.memory_kernel_bytes, stats.io_pressure), (None, None));
    }
}
