//! Figures of the daemon's own process, by the names that Prometheus' client libraries give them.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

use crate::vm::{process_start, process_usage};

/// This process's.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let pid = std::process::id() as i32;
        let mut gauge = |name: &str, help: &str, value: Option<u64>| -> fmt::Result {
            // What the kernel does not tell is not told.
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("process_open_fds", "Open descriptors", open_descriptors())?;
        gauge("process_max_fds", "The most open descriptors", getrlimit(Resource::Nofile).current)?;
        let usage = process_usage(pid);
        let resident = usage.map(|usage| usage.resident_bytes);
        gauge("process_resident_memory_bytes", "Resident memory", resident)?;
        gauge("process_start_time_seconds", "When the process started, since the Unix epoch", started(pid))?;
        let Some(usage) = usage else { return Ok(()) };
        let cpu = ConstCounter::new(usage.cpu_nanos() as f64 / 1e9);
        let help = "CPU time, in user and system mode";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)
    }
}

fn open_descriptors() -> Option<u64> {
    // The one that it is read with is not counted.
    Some((std::fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

/// Seconds since the Unix epoch (`btime` of /proc/stat, proc(5)).
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/stat").ok()?;
    let booted: u64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted.saturating_add(process_start(pid).ok()?? / rustix::param::clock_ticks_per_second().max(1)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::{SystemTime, UNIX_EPOCH};

    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn this_process_is_told_of() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        let text = super::super::encode(&registry);
        let value =
            |line: &str| Some((line.split_once(' ')?.0.to_owned(), line.split_once(' ')?.1.parse().ok()?));
        let told: HashMap<String, f64> = text.lines().filter_map(value).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - told["process_start_time_seconds"];
        assert!((-2.0..3600.0).contains(&age), "{age}: {text}");
        assert!(
            told["process_open_fds"] >= 3.0 && told["process_open_fds"] < told["process_max_fds"],
            "{text}"
        );
        assert!(told["process_resident_memory_bytes"] > 1e6, "{text}");
        assert!(told["process_cpu_seconds_total"] >= 0.0, "{text}");
    }
}
