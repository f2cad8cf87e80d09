//! New limits for a cgroup that is in use.

use std::fs;

use oci_spec::runtime::LinuxResources;

use super::Cgroup;
use crate::error::{Context, Error, Result};

impl Cgroup {
    /// Sets the limits that are given and leaves all others. Without the cgroup there is nothing to do.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        let files = files(resources)?;
        if !self.0.exists() {
            return Ok(());
        }
        for (file, value) in files {
            let path = self.0.join(&file);
            fs::write(&path, &value).context(|| format!("writing {value:?} to {}", path.display()))?;
        }
        Ok(())
    }
}

/// The cgroup's files (kernel's cgroup-v2.rst) and what to write to them.
fn files(resources: &LinuxResources) -> Result<Vec<(String, String)>> {
    let mut files = Vec::new();
    let mut set = |file: &str, value: String| files.push((file.to_owned(), value));
    if let Some(memory) = resources.memory() {
        if let Some(limit) = memory.limit() {
            set("memory.max", bytes(limit));
        }
        if let Some(swap) = memory.swap() {
            // The OCI counts memory and swap together, version 2 each alone.
            let alone =
                memory.limit().filter(|limit| swap > 0 && *limit > 0).map_or(swap, |limit| swap - limit);
            if alone < -1 {
                return Err(Error::Invalid(format!(
                    "memory and swap of {swap} bytes are less than memory alone"
                )));
            }
            set("memory.swap.max", bytes(alone));
        }
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|shares| *shares > 0) {
            set("cpu.weight", weight(shares).to_string());
        }
        let quota = cpu.quota().map(bytes);
        match (quota, cpu.period()) {
            (None, None) => {}
            (quota, None) => set("cpu.max", quota.unwrap_or_default()),
            (quota, Some(period)) => {
                set("cpu.max", format!("{} {period}", quota.as_deref().unwrap_or("max")))
            }
        }
        for (file, cpus) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
            if let Some(cpus) = cpus.as_ref().filter(|cpus| !cpus.is_empty()) {
                set(file, cpus.clone());
            }
        }
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let size = huge.page_size();
        // It becomes a part of a file's name.
        if !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(Error::Invalid(format!("huge pages of the size {size:?}: use one such as \"2MB\"")));
        }
        set(&format!("hugetlb.{size}.max"), huge.limit().to_string());
    }
    if let Some(pids) = resources.pids() {
        set("pids.max", bytes(pids.limit()));
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') || !file.contains('.') {
            return Err(Error::Invalid(format!(
                "cgroup parameter {file:?}: use a name such as \"memory.high\""
            )));
        }
        set(file, value.clone());
    }
    Ok(files)
}

/// A number, or "max" where the OCI says -1 for none.
fn bytes(number: i64) -> String {
    if number < 0 { "max".to_owned() } else { number.to_string() }
}

/// Shares of version 1, 2 to 262144, as a weight of version 2, 1 to 10000: the OCI's own conversion.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(json: &str) -> Vec<(String, String)> {
        files(&serde_json::from_str(json).unwrap()).unwrap()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(file, value)| ((*file).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_what_is_given_is_written() {
        assert!(written("{}").is_empty());
        assert_eq!(
            written(
                r#"{"memory":{"limit":100,"swap":150},"cpu":{"shares":1024,"quota":50000,"period":100000}}"#
            ),
            pairs(&[
                ("memory.max", "100"),
                ("memory.swap.max", "50"),
                ("cpu.weight", "39"),
                ("cpu.max", "50000 100000")
            ])
        );
        assert_eq!(
            written(
                r#"{"memory":{"limit":-1},"cpu":{"quota":-1,"cpus":"0-1","mems":""},"pids":{"limit":7}}"#
            ),
            pairs(&[("memory.max", "max"), ("cpu.max", "max"), ("cpuset.cpus", "0-1"), ("pids.max", "7")])
        );
        let huge = r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#;
        assert_eq!(written(huge), pairs(&[("hugetlb.2MB.max", "4194304")]));
        assert_eq!(written(r#"{"unified":{"memory.high":"9"}}"#), pairs(&[("memory.high", "9")]));
        let elsewhere = r#"{"unified":{"../memory.high":"9"}}"#;
        assert!(matches!(files(&serde_json::from_str(elsewhere).unwrap()), Err(Error::Invalid(_))));
        let outside = huge.replace("2MB", "../2MB");
        assert!(matches!(files(&serde_json::from_str(&outside).unwrap()), Err(Error::Invalid(_))));
    }

    #[test]
    fn weights_span_their_range() {
        assert_eq!((weight(0), weight(2), weight(262_144), weight(u64::MAX)), (1, 1, 10_000, 10_000));
    }

    #[test]
    fn limits_reach_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = Cgroup(dir.path().to_owned());
        cgroup.update(&serde_json::from_str(r#"{"memory":{"limit":5}}"#).unwrap()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("memory.max")).unwrap(), "5");
        Cgroup("/nonexistent/cgroup".into()).update(&LinuxResources::default()).unwrap();
    }
}
