//! The seccomp filter of a container's OCI spec.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use husk_proto::cri;
use husk_proto::cri::security_profile::ProfileType;
use oci_spec::runtime::LinuxSeccomp;
use serde_json::{Value, json};

use crate::error::{Error, Result};

/// The longest profile, bytes; Docker's own has 20 KiB.
const MAX_PROFILE: u64 = 1 << 20;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// System calls that RuntimeDefault keeps from containers, by the capability that lets them through. They work
/// on what namespaces do not divide (the guest's clock, modules, swap), on other processes' memory, or have been
/// the way into more kernels than others.
///
/// All else is let through: a container's own kernel bounds what it can reach, and a list of what is allowed
/// would break programs with every new kernel.
const GUARDED: [(&str, &[&str]); 13] = [
    (
        "CAP_SYS_ADMIN",
        &[
            "bpf",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "swapoff",
            "swapon",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_SYS_BOOT", &["kexec_file_load", "kexec_load", "reboot"]),
    ("CAP_SYS_MODULE", &["create_module", "delete_module", "finit_module", "init_module", "query_module"]),
    ("CAP_SYS_PACCT", &["acct"]),
    ("CAP_SYS_PTRACE", &["kcmp", "process_madvise", "process_vm_readv", "process_vm_writev", "userfaultfd"]),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    ("CAP_SYS_TIME", &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    // For nobody: keys are not divided by namespaces, io_uring goes past filters, the rest is history.
    ("", &["add_key", "io_uring_enter", "io_uring_register", "io_uring_setup", "keyctl", "request_key"]),
    (
        "",
        &[
            "_sysctl",
            "afs_syscall",
            "get_kernel_syms",
            "nfsservctl",
            "sysfs",
            "uselib",
            "ustat",
            "vm86",
            "vm86old",
        ],
    ),
];

/// `CLONE_NEW*`: namespaces that `clone` would make.
const NAMESPACE_FLAGS: u64 = 0x7e02_0000;

/// The filter that the request asks for; None: none. Without a word about it there is none, as with other
/// runtimes (kubelet's `seccompDefault` makes a word of it).
///
/// # Errors
/// A profile on the host that is not there or is none.
pub fn filter(
    security: &cri::LinuxContainerSecurityContext,
    capabilities: &[String],
) -> Result<Option<Value>> {
    let Some(profile) = security.seccomp.as_ref().filter(|_| !security.privileged) else { return Ok(None) };
    match profile.profile_type() {
        ProfileType::Unconfined => Ok(None),
        ProfileType::RuntimeDefault => Ok(Some(runtime_default(capabilities))),
        ProfileType::Localhost => local(Path::new(&profile.localhost_ref)).map(Some),
    }
}

fn runtime_default(capabilities: &[String]) -> Value {
    let has = |capability: &str| capabilities.iter().any(|each| each == capability);
    let names: Vec<&str> = GUARDED
        .iter()
        .filter(|(capability, _)| !has(capability))
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    let refuse =
        |names: Value, errno: u32| json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno});
    let mut rules = vec![refuse(json!(names), EPERM)];
    if !has("CAP_SYS_ADMIN") {
        // One rule a flag: a rule's conditions hold together. clone3 hides its flags in memory; libraries take
        // ENOSYS for "use clone".
        for bit in (0..64).map(|n| 1u64 << n).filter(|bit| bit & NAMESPACE_FLAGS != 0) {
            let mut rule = refuse(json!(["clone"]), EPERM);
            rule["args"] = json!([{"index": 0, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"}]);
            rules.push(rule);
        }
        rules.push(refuse(json!(["clone3"]), ENOSYS));
    }
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": rules,
    })
}

/// A profile that an administrator has put on the host, in the OCI's form.
fn local(path: &Path) -> Result<Value> {
    let wrong = |why: String| Error::Invalid(format!("seccomp profile {}: {why}", path.display()));
    if !path.is_absolute() {
        return Err(wrong("localhost_ref must be an absolute path".into()));
    }
    // Before it is opened: a FIFO would wait for its writer.
    if !path.metadata().map_err(|e| wrong(e.to_string()))?.is_file() {
        return Err(wrong("is not a file".into()));
    }
    let mut text = String::new();
    let file = File::open(path).map_err(|e| wrong(e.to_string()))?;
    file.take(MAX_PROFILE + 1).read_to_string(&mut text).map_err(|e| wrong(e.to_string()))?;
    if text.len() as u64 > MAX_PROFILE {
        return Err(wrong(format!("is longer than {MAX_PROFILE} bytes")));
    }
    let profile: LinuxSeccomp =
        serde_json::from_str(&text).map_err(|e| wrong(format!("is not an OCI seccomp profile: {e}")))?;
    serde_json::to_value(&profile).map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(kind: ProfileType, path: &str) -> cri::LinuxContainerSecurityContext {
        cri::LinuxContainerSecurityContext {
            seccomp: Some(cri::SecurityProfile { profile_type: kind.into(), localhost_ref: path.into() }),
            ..Default::default()
        }
    }

    #[test]
    fn the_default_follows_capabilities() {
        let text = |capabilities: &[String]| {
            let value = filter(&asked(ProfileType::RuntimeDefault, ""), capabilities).unwrap().unwrap();
            serde_json::from_value::<LinuxSeccomp>(value.clone()).unwrap();
            value.to_string()
        };
        let plain = text(&[]);
        assert!(plain.contains("\"mount\"") && plain.contains("clone3") && plain.contains("keyctl"));
        let admin = text(&["CAP_SYS_ADMIN".to_owned()]);
        assert!(!admin.contains("\"mount\"") && !admin.contains("clone3") && admin.contains("keyctl"));
    }

    #[test]
    fn none_where_none_is_wanted() {
        assert_eq!(filter(&Default::default(), &[]).unwrap(), None);
        assert_eq!(filter(&asked(ProfileType::Unconfined, ""), &[]).unwrap(), None);
        let mut privileged = asked(ProfileType::RuntimeDefault, "");
        privileged.privileged = true;
        assert_eq!(filter(&privileged, &[]).unwrap(), None);
    }

    #[test]
    fn profiles_of_the_host_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("profile.json");
        let load = |path: &Path| filter(&asked(ProfileType::Localhost, &path.display().to_string()), &[]);
        assert!(load(&path).unwrap_err().to_string().contains("profile.json"));
        std::fs::write(&path, r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO"}]}"#)
            .unwrap();
        assert_eq!(load(&path).unwrap().unwrap()["syscalls"][0]["names"][0], "chmod");
        std::fs::write(&path, "nonsense").unwrap();
        assert!(matches!(load(&path), Err(Error::Invalid(_))));
        assert!(load(Path::new("relative.json")).unwrap_err().to_string().contains("absolute"));
        assert!(load(dir.path()).unwrap_err().to_string().contains("not a file"));
    }
}
