//! Reading a VM's description, with every mistake named by its key.

use std::path::{Path, PathBuf};

use crate::config::{HOTPLUG_SLOT_MIB, LateDevices, Limits, MAX_NET_QUEUES, Rate, VmConfig};
use crate::devices::fs;
use crate::devices::net::parse_mac;
use crate::layout;

/// The most vCPUs of a VM.
const MAX_VCPUS: u8 = 32;
/// The least memory in which a kernel and the agent find room.
const MIN_MEMORY_MIB: u32 = 32;
/// The least MTU that IPv4 works with.
const MIN_MTU: u16 = 68;
/// Ids 0 to 2 are the hypervisor, the local machine and the host.
const MIN_CID: u32 = 3;
/// The most pluggable memory: guest addresses must stay below what processors have.
const MAX_HOTPLUG_MIB: u32 = 1 << 20;
/// The most CPUs of a host that can be named (`CpuSet`).
const MAX_CPUS: usize = rustix::thread::CpuSet::MAX_CPU;
/// Devices besides slots and interfaces: rng, vsock, fs, balloon and pluggable memory.
const FIXED_DEVICES: usize = 5;

/// Why a description is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file.
    #[error("reading the configuration {path}: {source}", path = path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not JSON, or not with the right keys.
    #[error("the configuration {path}: {source}", path = path.display())]
    Json {
        /// Its path.
        path: PathBuf,
        /// Names the key and the place.
        source: serde_json::Error,
    },
    /// A value.
    #[error("the configuration's {key} is {value}: {wanted}")]
    Value {
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What it may be.
        wanted: String,
    },
}

/// Reads and checks the file at `path`.
///
/// # Errors
/// [`ConfigError`].
pub fn load_config(path: &Path) -> Result<VmConfig, ConfigError> {
    let text = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let config: VmConfig = serde_json::from_slice(&text)
        .map_err(|source| ConfigError::Json { path: path.to_owned(), source })?;
    check(&config)?;
    Ok(config)
}

fn value(
    key: impl Into<String>,
    value: impl std::fmt::Display,
    wanted: impl Into<String>,
) -> Result<(), ConfigError> {
    Err(ConfigError::Value { key: key.into(), value: value.to_string(), wanted: wanted.into() })
}

fn check(config: &VmConfig) -> Result<(), ConfigError> {
    if config.id.is_empty() || config.id.contains(char::is_control) {
        return value("id", format!("{:?}", config.id), "a name without control characters");
    }
    if !(1..=MAX_VCPUS).contains(&config.vcpus) {
        return value("vcpus", config.vcpus, format!("1 to {MAX_VCPUS}"));
    }
    if !(config.vcpus..=MAX_VCPUS).contains(&config.max_vcpus) {
        return value("max_vcpus", config.max_vcpus, format!("vcpus to {MAX_VCPUS}"));
    }
    if let Some(hotplug) = &config.hotplug {
        let limit = hotplug.limit_mib;
        if limit == 0 || limit > MAX_HOTPLUG_MIB || !limit.is_multiple_of(HOTPLUG_SLOT_MIB) {
            let wanted = format!("a multiple of {HOTPLUG_SLOT_MIB}, at most {MAX_HOTPLUG_MIB}");
            return value("hotplug.limit_mib", limit, wanted);
        }
        if hotplug.requested_mib > limit {
            return value("hotplug.requested_mib", hotplug.requested_mib, "no more than hotplug.limit_mib");
        }
    }
    if let Some(cpu) = config.vcpu_cpus.iter().find(|cpu| usize::from(**cpu) >= MAX_CPUS) {
        return value("vcpu_cpus", cpu, format!("numbers of the host's CPUs, below {MAX_CPUS}"));
    }
    if !(-20..20).contains(&config.nice) {
        return value("nice", config.nice, "-20 to 19");
    }
    if config.huge_pages && (config.savable || config.restore.is_some()) {
        return value("huge_pages", true, "false where the VM can be saved, or was");
    }
    if config.huge_pages && !config.memory_mib.is_multiple_of(2) {
        return value("memory_mib", config.memory_mib, "a multiple of 2, with huge_pages");
    }
    if config.memory_mib < MIN_MEMORY_MIB {
        return value("memory_mib", config.memory_mib, format!("at least {MIN_MEMORY_MIB}"));
    }
    let slots = layout::MAX_DEVICES - FIXED_DEVICES;
    let devices = usize::from(config.block_slots) + config.nets.len();
    if devices > slots {
        let wanted = format!("with the {} of nets at most {slots} devices", config.nets.len());
        return value("block_slots", config.block_slots, wanted);
    }
    let LateDevices { slots, fs, memory } = &config.late;
    for (key, id) in [
        ("late.slots.acpi_id", slots.as_ref().map(|slots| &slots.acpi_id)),
        ("late.fs", fs.as_ref()),
        ("late.memory", memory.as_ref()),
    ] {
        if let Some(id) = id.filter(|id| !is_acpi_id(id)) {
            let wanted = "four capital letters and four hexadecimal digits, such as \"HUSK0001\"";
            return value(key, format!("{id:?}"), wanted);
        }
    }
    if let Some(late) = slots.as_ref().filter(|late| late.first > config.block_slots) {
        let wanted = format!("at most block_slots ({})", config.block_slots);
        return value("late.slots.first", late.first, wanted);
    }
    if let Some(tag) = config.fs_tag.as_ref().filter(|tag| !(1..=fs::TAG_BYTES).contains(&tag.len())) {
        return value("fs_tag", format!("{tag:?}"), format!("1 to {} bytes", fs::TAG_BYTES));
    }
    for (index, net) in config.nets.iter().enumerate() {
        if parse_mac(&net.mac).is_none() {
            let wanted = "a unicast address such as \"02:42:ac:11:00:02\"";
            return value(format!("nets[{index}].mac"), format!("{:?}", net.mac), wanted);
        }
        if !(1..=MAX_NET_QUEUES).contains(&net.queues) {
            return value(format!("nets[{index}].queues"), net.queues, format!("1 to {MAX_NET_QUEUES}"));
        }
        if ![0, usize::from(net.queues)].contains(&net.tap_fds.len()) {
            let wanted = format!("{} descriptors, one for each of the queues, or none", net.queues);
            return value(format!("nets[{index}].tap_fds"), format!("{:?}", net.tap_fds), wanted);
        }
        if net.mtu < MIN_MTU {
            return value(format!("nets[{index}].mtu"), net.mtu, format!("at least {MIN_MTU}"));
        }
    }
    if let Some(jail) = &config.jail {
        for (key, id) in [("jail.uid", jail.uid), ("jail.gid", jail.gid)] {
            if id == 0 || id == u32::MAX {
                return value(key, id, "1 to 4294967294, and nobody else's");
            }
        }
    }
    check_descriptors(config)?;
    check_limits(&config.limits)?;
    if config.vsock.cid < MIN_CID || config.vsock.cid == u32::MAX {
        return value("vsock.cid", config.vsock.cid, format!("{MIN_CID} to {}", u32::MAX - 1));
    }
    Ok(())
}

/// ACPI specification 6.5, section 6.1.5.
fn is_acpi_id(id: &str) -> bool {
    let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    matches!(id.as_bytes().split_at_checked(4), Some((vendor, device)) if device.len() == 4
        && vendor.iter().all(u8::is_ascii_uppercase)
        && device.iter().copied().all(hexadecimal))
}

fn check_limits(limits: &Limits) -> Result<(), ConfigError> {
    for (device, limit) in [("block", limits.block), ("net_rx", limits.net_rx), ("net_tx", limits.net_tx)] {
        for (what, rate) in [("operations", limit.operations), ("bytes", limit.bytes)] {
            let Some(Rate { per_second, burst }) = rate else { continue };
            for (part, number) in [("per_second", per_second), ("burst", burst)] {
                if number == 0 {
                    return value(format!("limits.{device}.{what}.{part}"), number, "1 or more");
                }
            }
        }
    }
    Ok(())
}

/// Each is taken once, and those below 3 are standard input, output and error.
fn check_descriptors(config: &VmConfig) -> Result<(), ConfigError> {
    let taps = config.nets.iter().enumerate().flat_map(|(n, net)| {
        let fds = net.tap_fds.iter().enumerate();
        fds.map(move |(queue, fd)| (format!("nets[{n}].tap_fds[{queue}]"), *fd))
    });
    let network = config.jail.iter().filter_map(|jail| Some(("jail.network_fd".into(), jail.network_fd?)));
    let host = config.vsock.host_fd.map(|fd| ("vsock.host_fd".into(), fd));
    let listener = config.vsock.listener_fd.map(|fd| ("vsock.listener_fd".into(), fd));
    let mut seen = Vec::new();
    for (key, fd) in taps.chain(network).chain(host).chain(listener) {
        if fd < 3 || seen.contains(&fd) {
            return value(key, fd, "an inherited descriptor from 3 on that is named once");
        }
        seen.push(fd);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn good() -> Value {
        json!({
            "id": "pod", "jail": {"uid": 5000, "gid": 5000, "network_fd": 4}, "vcpus": 2, "max_vcpus": 4, "memory_mib": 128,
            "hotplug": {"limit_mib": 256, "requested_mib": 100}, "kernel": "/k", "initramfs": "/i", "cmdline": "",
            "console_log": "/c", "console_log_limit": 65536, "block_slots": 4,
            "late": {"slots": {"acpi_id": "HUSK0001", "first": 1}, "fs": "HUSK0002", "memory": "HUSK0003"},
            "nets": [{"tap_fds": [3], "queues": 1, "mac": "02:42:ac:11:00:02", "mtu": 1500}],
            "vsock": {"cid": 3, "socket": "/v", "host_fd": 5, "listener_fd": 6}, "control_socket": "/s", "fs_tag": "husk",
            "limits": {"block": {"bytes": {"per_second": 1 << 20, "burst": 1}}}
        })
    }

    fn load(json: &Value) -> Result<VmConfig, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), json.to_string()).unwrap();
        load_config(file.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_good_one_is_read() {
        assert_eq!(load(&good()).unwrap().nets[0].mtu, 1500);
    }

    #[test]
    fn every_mistake_names_its_key() {
        for (pointer, bad, named) in [
            ("/id", json!("a\nb"), "id is \"a\\nb\""),
            ("/vcpus", json!(0), "vcpus is 0"),
            ("/vcpus", json!(33), "vcpus is 33"),
            ("/vcpus", json!(300), "300"),
            ("/max_vcpus", json!(1), "max_vcpus is 1"),
            ("/max_vcpus", json!(33), "max_vcpus is 33"),
            ("/hotplug/limit_mib", json!(0), "hotplug.limit_mib is 0"),
            ("/hotplug/limit_mib", json!(200), "hotplug.limit_mib is 200"),
            ("/hotplug/limit_mib", json!(2 << 20), "hotplug.limit_mib is 2097152"),
            ("/hotplug/requested_mib", json!(257), "hotplug.requested_mib is 257"),
            ("/memory_mib", json!(31), "memory_mib is 31"),
            ("/block_slots", json!(15), "block_slots is 15"),
            ("/late/slots/acpi_id", json!("HUSK001"), "late.slots.acpi_id is \"HUSK001\""),
            ("/late/fs", json!("HUSK000g"), "late.fs is \"HUSK000g\""),
            ("/late/memory", json!("HUSK00030"), "such as \"HUSK0001\""),
            ("/late/memory", json!("\u{e9}\u{e9}0001"), "four capital letters"),
            ("/late/slots/first", json!(5), "late.slots.first is 5"),
            ("/fs_tag", json!(""), "fs_tag is \"\""),
            ("/fs_tag", json!("t".repeat(37)), "1 to 36 bytes"),
            ("/nets/0/mac", json!("nonsense"), "nets[0].mac is \"nonsense\""),
            ("/nets/0/mtu", json!(10), "nets[0].mtu is 10"),
            ("/nets/0/queues", json!(0), "nets[0].queues is 0"),
            ("/nets/0/queues", json!(5), "nets[0].queues is 5: 1 to 4"),
            ("/nets/0/queues", json!(2), "nets[0].tap_fds is [3]"),
            ("/nets/0/tap_fds", json!([3, 5]), "nets[0].tap_fds is [3, 5]"),
            ("/nets/0/tap_fds", json!([-1]), "nets[0].tap_fds[0] is -1"),
            ("/nets/0/tap_fds", json!([2]), "nets[0].tap_fds[0] is 2"),
            ("/jail/uid", json!(0), "jail.uid is 0"),
            ("/jail/gid", json!(u32::MAX), "jail.gid is 4294967295"),
            ("/jail/network_fd", json!(3), "jail.network_fd is 3"),
            ("/vsock/host_fd", json!(4), "vsock.host_fd is 4"),
            ("/vsock/listener_fd", json!(5), "vsock.listener_fd is 5"),
            ("/vsock/cid", json!(2), "vsock.cid is 2"),
            ("/limits/block/bytes/burst", json!(0), "limits.block.bytes.burst is 0"),
            ("/limits/block/bytes/per_second", json!(0), "limits.block.bytes.per_second is 0"),
            ("/limits/block/bytes/per_second", json!(-1), "-1"),
        ] {
            let mut json = good();
            *json.pointer_mut(pointer).unwrap() = bad;
            let error = load(&json).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        let mut unknown = good();
        unknown["colour"] = json!("blue");
        assert!(load(&unknown).unwrap_err().contains("unknown field `colour`"));
        let mut missing = good();
        missing.as_object_mut().unwrap().remove("kernel");
        assert!(load(&missing).unwrap_err().contains("missing field `kernel`"));
    }
}
