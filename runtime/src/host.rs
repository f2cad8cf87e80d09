//! What the host must have before a VM can run on it. Each answer is a fact, or a problem with the way out.

use std::path::Path;

use crate::error::Error;

/// A usable KVM: the device, and hardware behind it.
pub fn kvm() -> Result<(), Error> {
    open_kvm()?;
    kvm_hardware().map(drop).map_err(Error::Unavailable)
}

/// `/dev/kvm` opens.
pub fn kvm_device() -> Result<String, String> {
    open_kvm().map(|()| "/dev/kvm opens".into()).map_err(|e| e.to_string())
}

fn open_kvm() -> Result<(), Error> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.map(drop).map_err(|e| {
        let text = format!("/dev/kvm: {e}");
        let missing = || {
            Error::Unavailable(format!(
                "{text}; load kvm_intel or kvm_amd, and run as root or in the group kvm"
            ))
        };
        Error::of_host(&text, &e).unwrap_or_else(missing)
    })
}

/// A /dev/kvm without virtualization extensions underneath opens, but boots no kernel.
pub fn kvm_hardware() -> Result<String, String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").map_err(|e| format!("/proc/cpuinfo: {e}"))?;
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    match flags.split_whitespace().find(|flag| matches!(*flag, "vmx" | "svm")) {
        Some(flag) => Ok(format!("the CPU has {flag}")),
        None => {
            Err("the CPU shows neither vmx nor svm: switch virtualization on in the firmware, or nested \
                     virtualization on the host above"
                .into())
        }
    }
}

/// The host's memory, MiB.
pub fn memory_mib() -> u32 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    u32::try_from(of_meminfo(&text, "MemTotal").unwrap_or(0) >> 10).unwrap_or(u32::MAX)
}

/// The number of a line of `/proc/meminfo`: "HugePages_Total:     70"; of memory it is KiB.
pub fn of_meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A regular file.
pub fn file(path: &Path, mend: &str) -> Result<String, String> {
    if path.is_file() { Ok(path.display().to_string()) } else { Err(absent(path, mend)) }
}

/// Anything of that name.
pub fn exists(path: &Path, mend: &str) -> Result<String, String> {
    if path.exists() { Ok(path.display().to_string()) } else { Err(absent(path, mend)) }
}

/// A program on the PATH or where administrators' programs are.
pub fn program(name: &str, mend: &str) -> Result<String, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/sbin".into(), "/usr/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
        .map(|path| path.display().to_string())
        .ok_or_else(|| format!("{name} is not there; {mend}"))
}

fn absent(path: &Path, mend: &str) -> String {
    format!("{} is not there; {mend}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_by_its_keys() {
        let text = "MemTotal:  24 kB\nHugePages_Total:      70\nHugepagesize:       2048 kB\n";
        assert_eq!(of_meminfo(text, "MemTotal"), Some(24));
        assert_eq!(of_meminfo(text, "HugePages_Total"), Some(70));
        assert_eq!(of_meminfo(text, "Hugepagesize"), Some(2048));
        assert_eq!(of_meminfo(text, "HugePages"), None);
    }
}
