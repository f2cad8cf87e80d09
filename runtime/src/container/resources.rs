//! Limits of a container, in the OCI's form.

use husk_proto::cri;
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

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
    if let Some((name, _)) = limits.unified.iter().next() {
        return Err(Error::Unsupported(format!(
            "cgroup parameters by name (unified: {name:?}) are not served"
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
    Ok(all.into())
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
        let unified = [("memory.high".to_owned(), "1".to_owned())].into();
        let limits = cri::LinuxContainerResources { unified, ..Default::default() };
        assert!(matches!(oci(&limits), Err(Error::Unsupported(_))));
    }
}
