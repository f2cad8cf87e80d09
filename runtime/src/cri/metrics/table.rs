//! All metrics. Containers' figures are those of their cgroups in the guest, pods' what all that serves them costs the
//! host.

use husk_proto::agent::{DeviceUsage, Pressure};
use husk_proto::cri::LinuxContainerResources;

use super::metric::{Metric, Sample, counter, gauge, labelled, one, seconds, time};
use crate::figures::{ContainerFigures, PodFigures};
use crate::network::InterfaceCounters;

const DEVICE: &[&str] = &["device"];
const INTERFACE: &[&str] = &["interface"];

/// Every metric that is measured, and none that is not.
pub static TABLE: &[Metric] = &[
    counter("container_cpu_usage_seconds_total", "CPU time that was used, seconds.")
        .container(|c| seconds(c.told.cpu_usage_nanos))
        .pod(|p| seconds(p.cost.cpu.total_nanos)),
    counter("container_cpu_user_seconds_total", "CPU time that was used in user mode, seconds.")
        .container(|c| seconds(c.told.cpu_user_nanos))
        .pod(|p| seconds(p.cost.cpu.user_nanos)),
    counter("container_cpu_system_seconds_total", "CPU time that was used in kernel mode, seconds.")
        .container(|c| seconds(c.told.cpu_system_nanos))
        .pod(|p| seconds(p.cost.cpu.system_nanos)),
    counter("container_cpu_cfs_periods_total", "Periods of the CPU limit that have passed.")
        .container(|c| one(c.told.cpu_periods)),
    counter("container_cpu_cfs_throttled_periods_total", "Periods in which the CPU limit was used up.")
        .container(|c| one(c.told.cpu_throttled_periods)),
    counter("container_cpu_cfs_throttled_seconds_total", "Time spent waiting for the CPU limit, seconds.")
        .container(|c| seconds(c.told.cpu_throttled_nanos)),
    gauge("container_memory_usage_bytes", "Memory that is used, all of it.")
        .container(|c| one(c.told.memory_usage_bytes))
        .pod(|p| one(p.cost.memory.usage)),
    gauge(
        "container_memory_working_set_bytes",
        "Memory that is used, without page cache that can be dropped.",
    )
    .container(|c| one(c.told.memory_working_set_bytes))
    .pod(|p| one(p.cost.memory.working_set)),
    gauge("container_memory_rss", "Memory that is no file's, bytes; of a pod with its guest's.")
        .container(|c| one(c.told.memory_rss_bytes))
        .pod(|p| one(p.cost.memory.resident)),
    gauge("container_memory_cache", "Page cache, bytes.").container(|c| one(c.told.memory_cache_bytes)),
    gauge("container_memory_mapped_file", "Mapped files, bytes.")
        .container(|c| one(c.told.memory_mapped_file_bytes)),
    gauge("container_memory_total_active_file_bytes", "Page cache that was used of late.")
        .container(|c| one(c.told.memory_active_file_bytes)),
    gauge("container_memory_total_inactive_file_bytes", "Page cache that was not used of late.")
        .container(|c| one(c.told.memory_inactive_file_bytes)),
    gauge("container_memory_kernel_usage", "Memory of the kernel, bytes.")
        .container(|c| one(c.told.memory_kernel_bytes)),
    gauge("container_memory_swap", "Swap space that is used, bytes.")
        .container(|c| one(c.told.memory_swap_bytes)),
    gauge("container_memory_max_usage_bytes", "The most memory that was used at a time.")
        .container(|c| one(c.told.memory_max_usage_bytes)),
    counter("container_memory_failcnt", "How often the memory limit was hit.")
        .container(|c| one(c.told.memory_limit_hits)),
    counter(
        "container_memory_failures_total",
        "Page faults (pgfault), and those that needed a disk (pgmajfault).",
    )
    .labels(&["failure_type", "scope"])
    .container(|c| faults(c.told.page_faults, c.told.major_page_faults))
    .pod(|p| faults(p.cost.memory.faults, p.cost.memory.major_faults)),
    counter("container_oom_events_total", "Processes that were killed for want of memory.")
        .container(|c| one(c.told.oom_kills)),
    gauge("container_processes", "Processes.").container(|c| one(c.told.processes)),
    gauge("container_threads", "Threads of all processes.").container(|c| one(c.told.pids)),
    gauge("container_threads_max", "The limit of threads; 0: none.").container(|c| one(c.told.pids_max)),
    counter("container_pressure_cpu_waiting_seconds_total", "Time that some task waited for a CPU, seconds.")
        .container(|c| waiting(&c.told.cpu_pressure)),
    counter("container_pressure_cpu_stalled_seconds_total", "Time that all tasks waited for a CPU, seconds.")
        .container(|c| stalled(&c.told.cpu_pressure)),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Time that some task waited for memory, seconds.",
    )
    .container(|c| waiting(&c.told.memory_pressure)),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Time that all tasks waited for memory, seconds.",
    )
    .container(|c| stalled(&c.told.memory_pressure)),
    counter("container_pressure_io_waiting_seconds_total", "Time that some task waited for a disk, seconds.")
        .container(|c| waiting(&c.told.io_pressure)),
    counter("container_pressure_io_stalled_seconds_total", "Time that all tasks waited for a disk, seconds.")
        .container(|c| stalled(&c.told.io_pressure)),
    counter("container_network_receive_bytes_total", "Bytes that the pod received.")
        .labels(INTERFACE)
        .pod(|p| interfaces(p, |i| i.rx_bytes)),
    counter("container_network_receive_packets_total", "Packets that the pod received.")
        .labels(INTERFACE)
        .pod(|p| interfaces(p, |i| i.rx_packets)),
    counter("container_network_receive_packets_dropped_total", "Packets to the pod that were dropped.")
        .labels(INTERFACE)
        .pod(|p| interfaces(p, |i| i.rx_dropped)),
    counter("container_network_receive_errors_total", "Packets to the pod that were damaged.")
        .labels(INTERFACE)
        .pod(|p| interfaces(p, |i| i.rx_errors)),
    counter("container_network_transmit_bytes_total", "Bytes that the pod sent.")
        .labels(INTERFACE)
        .pod(|p| interfaces(p, |i| i.tx_bytes)),
    counter("container_network_transmit_packets_total", "Packets that the pod sent.")
        .labels(INTERFACE)
        .pod(|p| interfaces(p, |i| i.tx_packets)),
    counter("container_network_transmit_packets_dropped_total", "Packets of the pod that were dropped.")
        .labels(INTERFACE)
        .pod(|p| interfaces(p, |i| i.tx_dropped)),
    counter("container_network_transmit_errors_total", "Packets of the pod that could not be sent.")
        .labels(INTERFACE)
        .pod(|p| interfaces(p, |i| i.tx_errors)),
    gauge("container_fs_usage_bytes", "What was written to the container's root and takes room, bytes.")
        .labels(DEVICE)
        .container(|c| layer(c, c.told.writable_bytes)),
    gauge("container_fs_limit_bytes", "The size of the file system that all containers of the pod write to.")
        .labels(DEVICE)
        .container(|c| layer(c, c.told.writable_filesystem.as_ref().map(|fs| fs.bytes))),
    gauge("container_fs_inodes_total", "Inodes of that file system.")
        .labels(DEVICE)
        .container(|c| layer(c, c.told.writable_filesystem.as_ref().map(|fs| fs.inodes))),
    gauge("container_fs_inodes_free", "Inodes of that file system that are free.")
        .labels(DEVICE)
        .container(|c| layer(c, c.told.writable_filesystem.as_ref().map(|fs| fs.free_inodes))),
    counter("container_fs_reads_bytes_total", "Bytes that were read from a disk; of a pod from all of them.")
        .labels(DEVICE)
        .container(|c| devices(c, |d| d.read_bytes))
        .pod(|p| vec![labelled([""], p.statistics.block_read_bytes)]),
    counter("container_fs_writes_bytes_total", "Bytes that were written to a disk; of a pod to all of them.")
        .labels(DEVICE)
        .container(|c| devices(c, |d| d.written_bytes))
        .pod(|p| vec![labelled([""], p.statistics.block_write_bytes)]),
    counter("container_fs_reads_total", "Requests that read from a disk.")
        .labels(DEVICE)
        .container(|c| devices(c, |d| d.reads)),
    counter("container_fs_writes_total", "Requests that wrote to a disk.")
        .labels(DEVICE)
        .container(|c| devices(c, |d| d.writes)),
    counter("container_blkio_device_usage_total", "Bytes that were read from and written to a disk.")
        .labels(&["device", "major", "minor", "operation"])
        .container(blkio),
    gauge("container_last_seen", "When these figures were read, seconds since the Unix epoch.")
        .container(|c| time(c.at))
        .pod(|p| time(p.at)),
    gauge("container_start_time_seconds", "When it was started, seconds since the Unix epoch.")
        .container(|c| time(c.record.started_at))
        .pod(|p| time(p.record.created_at)),
    gauge("container_spec_cpu_period", "The period of the CPU limit, microseconds.")
        .container(|c| limit(c, |l| l.cpu_period)),
    gauge("container_spec_cpu_quota", "The CPU limit, microseconds in a period.")
        .container(|c| limit(c, |l| l.cpu_quota)),
    gauge("container_spec_cpu_shares", "The CPU shares.").container(|c| limit(c, |l| l.cpu_shares)),
    gauge("container_spec_memory_limit_bytes", "The memory limit; 0: none.")
        .container(|c| one(limits(c).map_or(0, |l| l.memory_limit_in_bytes.max(0) as u64))),
    gauge("container_spec_memory_swap_limit_bytes", "The limit of memory and swap space together.")
        .container(|c| limit(c, |l| l.memory_swap_limit_in_bytes)),
];

/// The CRI's counters are of the container as a whole: both scopes are the same.
fn faults(all: u64, major: u64) -> Vec<Sample> {
    let of = |scope| [labelled(["pgfault", scope], all), labelled(["pgmajfault", scope], major)];
    ["container", "hierarchy"].into_iter().flat_map(of).collect()
}

fn waiting(pressure: &Option<Pressure>) -> Vec<Sample> {
    seconds(pressure.as_ref().and_then(|pressure| Some(pressure.some.as_ref()?.total_nanos)))
}

fn stalled(pressure: &Option<Pressure>) -> Vec<Sample> {
    seconds(pressure.as_ref().and_then(|pressure| Some(pressure.full.as_ref()?.total_nanos)))
}

fn interfaces(pod: &PodFigures, figure: fn(&InterfaceCounters) -> u64) -> Vec<Sample> {
    pod.interfaces.iter().map(|interface| labelled([&interface.name], figure(interface))).collect()
}

/// A figure of the writable layer, with the device that it is on.
fn layer(container: &ContainerFigures, value: impl Into<Option<u64>>) -> Vec<Sample> {
    let device = container.told.writable_filesystem.as_ref().map(|fs| node(&fs.device)).unwrap_or_default();
    value.into().map(|value| labelled([&device], value)).into_iter().collect()
}

fn devices(container: &ContainerFigures, figure: fn(&DeviceUsage) -> u64) -> Vec<Sample> {
    let devices = container.told.devices.iter();
    devices.map(|device| labelled([&node(&device.name)], figure(device))).collect()
}

fn blkio(container: &ContainerFigures) -> Vec<Sample> {
    let of = |device: &DeviceUsage| {
        let (name, major, minor) = (node(&device.name), device.major.to_string(), device.minor.to_string());
        [("Read", device.read_bytes), ("Write", device.written_bytes)]
            .map(|(operation, bytes)| labelled([&name, &major, &minor, operation], bytes))
    };
    container.told.devices.iter().flat_map(of).collect()
}

/// The path of a guest's device; empty for one without a name.
fn node(name: &str) -> String {
    if name.is_empty() { String::new() } else { format!("/dev/{name}") }
}

fn limits(container: &ContainerFigures) -> Option<&LinuxContainerResources> {
    container.record.config.as_ref()?.linux.as_ref()?.resources.as_ref()
}

/// A limit that is set.
fn limit(container: &ContainerFigures, of: fn(&LinuxContainerResources) -> i64) -> Vec<Sample> {
    one(limits(container).map(of).and_then(|value| u64::try_from(value).ok()).filter(|value| *value > 0))
}
