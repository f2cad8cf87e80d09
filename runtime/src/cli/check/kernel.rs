//! What the host's kernel can do and how it is set.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

use crate::host::of_meminfo;

/// The first with all that husk calls: mount_setattr(2).
const OLDEST: (u32, u32) = (5, 12);
/// Open files with which some two hundred pods can run.
const ENOUGH_FILES: u64 = 4096;
const LARGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
const MEMORY: &str = "/proc/meminfo";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
const BRIDGE_FILTER: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// A kernel that is new enough.
pub fn version() -> Result<String, String> {
    let release = setting("/proc/sys/kernel/osrelease")?;
    if number(&release).is_some_and(|version| version >= OLDEST) {
        Ok(release)
    } else {
        Err(format!("Linux {release} is too old: use {}.{} or later", OLDEST.0, OLDEST.1))
    }
}

/// "6.1.0-13-amd64": 6, 1.
fn number(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Guests' memory in large pages.
pub fn large_pages() -> Result<String, String> {
    let text = setting(LARGE_PAGES)?;
    match chosen(&text) {
        Some(value @ ("madvise" | "always")) => Ok(format!("{LARGE_PAGES}: {value}")),
        _ => Err(format!(
            "guests' memory comes in small pages, and they boot slowly: echo madvise >{LARGE_PAGES}"
        )),
    }
}

/// The value in brackets: "always [advise] never".
fn chosen(text: &str) -> Option<&str> {
    text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

/// Huge pages that the host has set aside, where pods are to have some.
pub fn huge_pages() -> Result<String, String> {
    let text = setting(MEMORY)?;
    match (of_meminfo(&text, "HugePages_Total"), of_meminfo(&text, "Hugepagesize")) {
        (Some(total @ 1..), Some(2048)) => Ok(format!("{total} of 2 MiB")),
        (_, Some(2048)) => Err(
            "none are set aside, and a handler's pods need them (huge_pages): sysctl -w vm.nr_hugepages=N, \
                 one for each 2 MiB of their memory"
                .into(),
        ),
        _ => {
            Err("the host's are not of 2 MiB by default, and a handler's pods need these (huge_pages)".into())
        }
    }
}

/// How many files the daemon may open, if it is started from here.
pub fn open_files() -> Result<String, String> {
    // It takes what it may.
    match getrlimit(Resource::Nofile).maximum {
        Some(limit) if limit < ENOUGH_FILES => Err(format!(
            "a process that is started from here may open {limit} files, too few for many pods: ulimit -n 1048576, or \
             LimitNOFILE as in husk.service"
        )),
        limit => Ok(limit.map_or("no limit".into(), |limit| limit.to_string())),
    }
}

/// Packets between pods and elsewhere.
pub fn forwarding() -> Result<String, String> {
    match setting(FORWARDING)?.as_str() {
        "0" => Err("pods reach nothing beyond this host: sysctl -w net.ipv4.ip_forward=1".into()),
        _ => Ok("net.ipv4.ip_forward is on".into()),
    }
}

/// Services reached by pods of the same bridge.
pub fn bridge_filter() -> Result<String, String> {
    match setting(BRIDGE_FILTER).as_deref() {
        Ok("1") => Ok("net.bridge.bridge-nf-call-iptables is on".into()),
        Ok(_) => Err("kube-proxy's rules do not see what crosses a bridge: \
                      sysctl -w net.bridge.bridge-nf-call-iptables=1"
            .into()),
        Err(_) => Err("kube-proxy's rules do not see what crosses a bridge: modprobe br_netfilter".into()),
    }
}

/// systemd, where kubelet is told to leave its cgroups to it.
pub fn systemd() -> Result<String, String> {
    if Path::new("/run/systemd/system").is_dir() {
        Ok("runs".into())
    } else {
        Err("cgroup.driver is \"systemd\", but systemd does not run here: use \"cgroupfs\"".into())
    }
}

fn setting(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|e| format!("{path}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_by_number() {
        assert_eq!(number("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(number("5.15-rc1"), Some((5, 15)));
        assert!(number("5.4.0").unwrap() < OLDEST && number("10.0").unwrap() > OLDEST);
        assert_eq!(number("x"), None);
    }

    #[test]
    fn the_value_in_brackets_is_the_one() {
        assert_eq!(chosen("always within_size [advise] never deny force"), Some("advise"));
        assert_eq!(chosen("always never"), None);
    }
}
