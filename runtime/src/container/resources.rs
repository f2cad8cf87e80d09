//! Limits of a container, in the OCI's form.

use husk_proto::cri;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// As [`oci`], with what has no limit said to have none: for a container that may have others.
///
/// # Errors
/// As [`oci`].
pub fn oci_in_full(limits: &cri::LinuxContainerResources) -> Result<Value> {
    let mut all = oci(limits)?;
    for (part, name) in [("memory", "limit"), ("cpu", "quota")] {
        let limit = &mut all[part][name];
        if limit.is_null() {
            *limit = json!(-1);
        }
    }
    Ok(all)
}

/// `linux.resources` of the OCI spec, with what the request names.
///
/// # Errors
/// Values that no kernel takes.
pub fn oci(limits: &cri::LinuxContainerResources) -> Result<Value> {
    for (name, value) in [
        ("cpu_period", limits.cpu_period),
        ("cpu_shares", limits.cpu_shares),
        ("memory_limit_in_bytes", limits.memory_limit_in_bytes),
    ] {
        if value < 0 {
            return Err(Error::Invalid(format!("{name} is {value}: it must not be negative")));
        }
    }
    let (memory, both) = (limits.memory_limit_in_bytes, limits.memory_swap_limit_in_bytes);
    if both > 0 && both < memory {
        return Err(Error::Invalid(format!(
            "memory_swap_limit_in_bytes is {both}, memory and swap together, which is less than \
             memory_limit_in_bytes, {memory}; change both at once"
        )));
    }
    let mut memory = Map::new();
    if limits.memory_limit_in_bytes > 0 {
        memory.insert("limit".into(), json!(limits.memory_limit_in_bytes));
    }
    if limits.memory_swap_limit_in_bytes > 0 {
        memory.insert("swap".into(), json!(limits.memory_swap_limit_in_bytes));
    }
    let mut cpu = Map::new();
    if limits.cpu_shares > 0 {
        cpu.insert("shares".into(), json!(limits.cpu_shares));
    }
    if limits.cpu_quota != 0 {
        // CRI: any negative number is no limit.
        cpu.insert("quota".into(), json!(limits.cpu_quota.max(-1)));
    }
    if limits.cpu_period > 0 {
        cpu.insert("period".into(), json!(limits.cpu_period));
    }
    for (name, set) in [("cpus", &limits.cpuset_cpus), ("mems", &limits.cpuset_mems)] {
        if !set.is_empty() {
            cpu.insert(name.into(), json!(set));
        }
    }
    let mut all = Map::new();
    let huge = huge_pages(limits)?;
    if !huge.is_empty() {
        all.insert("hugepageLimits".into(), huge.into());
    }
    for (name, part) in [("memory", memory), ("cpu", cpu)] {
        if !part.is_empty() {
            all.insert(name.into(), part.into());
        }
    }
    if !limits.unified.is_empty() {
        all.insert("unified".into(), unified(limits)?.into());
    }
    Ok(all.into())
}

/// The most parameters by name, and the most bytes of a name and of a value.
const MAX_UNIFIED: (usize, usize, usize) = (64, 64, 1024);

/// Parameters of version 2's cgroups by the names of their files, such as kubelet's `memory.oom.group`: those of the
/// guest's kernel, in the container's own cgroup.
fn unified(limits: &cri::LinuxContainerResources) -> Result<Map<String, Value>> {
    let (most, name_bytes, value_bytes) = MAX_UNIFIED;
    if limits.unified.len() > most {
        let count = limits.unified.len();
        return Err(Error::Invalid(format!("unified has {count} cgroup parameters; the most is {most}")));
    }
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_');
    let good = |name: &str| {
        let (controller, rest) = name.split_once('.').unwrap_or_default();
        !controller.is_empty() && !rest.is_empty() && name.len() <= name_bytes && name.bytes().all(known)
    };
    let mut named = Map::new();
    for (name, value) in &limits.unified {
        // "cgroup.procs" and its like are no limits.
        if !good(name) || name.starts_with("cgroup.") {
            return Err(Error::Invalid(format!(
                "unified names {name:?}: use a parameter of a controller, as \"memory.high\""
            )));
        }
        if value.len() > value_bytes {
            let count = value.len();
            return Err(Error::Invalid(format!(
                "unified: {name} has {count} bytes; the most is {value_bytes}"
            )));
        }
        named.insert(name.clone(), json!(value));
    }
    Ok(named)
}

/// The huge pages that a guest has, as kubelet names them.
pub const HUGE_PAGE: &str = "2MB";

/// Limits of huge pages. kubelet names all sizes of the host: those that the guest has not must not be wanted.
fn huge_pages(limits: &cri::LinuxContainerResources) -> Result<Vec<Value>> {
    let mut named = Vec::new();
    for limit in &limits.hugepage_limits {
        if limit.page_size == HUGE_PAGE {
            named.push(json!({"pageSize": HUGE_PAGE, "limit": limit.limit}));
        } else if limit.limit > 0 {
            return Err(Error::Unsupported(format!(
                "huge pages of {:?} ({} bytes of them) are not served: a pod's VM has those of {HUGE_PAGE:?}",
                limit.page_size, limit.limit
            )));
        }
    }
    Ok(named)
}

/// New limits over old ones: what is named replaces what was.
pub fn merge(old: &mut cri::LinuxContainerResources, new: cri::LinuxContainerResources) {
    let number = |old: &mut i64, new: i64| {
        if new != 0 {
            *old = new;
        }
    };
    number(&mut old.cpu_period, new.cpu_period);
    number(&mut old.cpu_quota, new.cpu_quota);
    number(&mut old.cpu_shares, new.cpu_shares);
    number(&mut old.memory_limit_in_bytes, new.memory_limit_in_bytes);
    number(&mut old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes);
    if !new.hugepage_limits.is_empty() {
        old.hugepage_limits = new.hugepage_limits;
    }
    old.unified.extend(new.unified);
    for (old, new) in [(&mut old.cpuset_cpus, new.cpuset_cpus), (&mut old.cpuset_mems, new.cpuset_mems)] {
        if !new.is_empty() {
            *old = new;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_full_what_has_no_limit_is_said_to_have_none() {
        let none = json!({"memory": {"limit": -1}, "cpu": {"quota": -1}});
        assert_eq!(oci_in_full(&Default::default()).unwrap(), none);
        let limits = cri::LinuxContainerResources {
            memory_limit_in_bytes: 5,
            cpu_quota: 6,
            cpu_period: 7,
            ..Default::default()
        };
        assert_eq!(oci_in_full(&limits).unwrap(), oci(&limits).unwrap());
    }

    #[test]
    fn what_is_not_asked_for_is_not_there() {
        assert_eq!(oci(&Default::default()).unwrap(), json!({}));
        let limits = cri::LinuxContainerResources {
            memory_limit_in_bytes: 1 << 20,
            cpu_quota: -5,
            cpu_shares: 2,
            cpuset_cpus: "0".into(),
            ..Default::default()
        };
        let expected = json!({"memory": {"limit": 1 << 20}, "cpu": {"shares": 2, "quota": -1, "cpus": "0"}});
        assert_eq!(oci(&limits).unwrap(), expected);
    }

    #[test]
    fn impossible_values_are_named() {
        let limits = cri::LinuxContainerResources { memory_limit_in_bytes: -1, ..Default::default() };
        assert!(oci(&limits).unwrap_err().to_string().contains("memory_limit_in_bytes is -1"));
        let limits = cri::LinuxContainerResources {
            memory_limit_in_bytes: 2,
            memory_swap_limit_in_bytes: 1,
            ..Default::default()
        };
        assert!(oci(&limits).unwrap_err().to_string().contains("memory_swap_limit_in_bytes is 1"));
        let of = |size: &str, limit| cri::LinuxContainerResources {
            hugepage_limits: vec![cri::HugepageLimit { page_size: size.into(), limit }],
            ..Default::default()
        };
        assert_eq!(oci(&of("1GB", 0)).unwrap(), json!({}));
        let expected = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 7}]});
        assert_eq!(oci(&of("2MB", 7)).unwrap(), expected);
        assert!(matches!(oci(&of("1GB", 1)), Err(Error::Unsupported(text)) if text.contains("1GB")));
    }

    #[test]
    fn parameters_by_name_are_those_of_controllers() {
        let of = |name: &str, value: &str| cri::LinuxContainerResources {
            unified: [(name.to_owned(), value.to_owned())].into(),
            ..Default::default()
        };
        let expected = json!({"unified": {"memory.oom.group": "1"}});
        assert_eq!(oci(&of("memory.oom.group", "1")).unwrap(), expected);
        for bad in
            ["", "memory", "memory.", ".high", "../memory.high", "memory./x", "Memory.high", "cgroup.procs"]
        {
            let refused = oci(&of(bad, "1")).unwrap_err().to_string();
            assert!(refused.contains(&format!("{bad:?}")), "{refused}");
        }
        assert!(oci(&of("memory.high", &"1".repeat(2000))).is_err());
        let mut many = of("memory.high", "1");
        many.unified.extend((0..64).map(|n| (format!("memory.x{n}"), String::new())));
        assert!(oci(&many).unwrap_err().to_string().contains("65 cgroup parameters"));
    }
}
