//! The OCI runtime spec of a container, from the CRI request and the image's configuration.

use husk_proto::{agent, cri};
use oci_spec::image::ImageConfiguration;
use oci_spec::runtime as oci;
use serde_json::json;

use super::volumes::Volumes;
use super::{mounts, resources, seccomp};
use crate::error::{Error, Result};
use crate::id_mappings::IdMappings;

/// What the guest sees as `PATH` when the image says nothing.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The capabilities of a container that asks for nothing else, as containerd's and Docker's.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

const MASKED_PATHS: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The command line: the request's where it says something, else the image's (CRI: `command` replaces the
/// entrypoint and, alone, drops the image's arguments).
fn arguments(config: &cri::ContainerConfig, image: &ImageConfiguration) -> Result<Vec<String>> {
    let image = image.config().as_ref();
    let entrypoint = image.and_then(|c| c.entrypoint().clone()).unwrap_or_default();
    let cmd = image.and_then(|c| c.cmd().clone()).unwrap_or_default();
    let (command, args) = match (config.command.is_empty(), config.args.is_empty()) {
        (true, true) => (entrypoint, cmd),
        (true, false) => (entrypoint, config.args.clone()),
        (false, _) => (config.command.clone(), config.args.clone()),
    };
    let all: Vec<String> = command.into_iter().chain(args).collect();
    if all.is_empty() {
        return Err(Error::Invalid("no command: neither the request nor the image names one".into()));
    }
    Ok(all)
}

/// The environment: the image's, then the request's, a later value replacing an earlier one.
fn environment(
    config: &cri::ContainerConfig,
    image: &ImageConfiguration,
    hostname: &str,
) -> Result<Vec<String>> {
    let mut env = vec![DEFAULT_PATH.to_owned()];
    if !hostname.is_empty() {
        set(&mut env, "HOSTNAME", hostname);
    }
    if config.tty {
        set(&mut env, "TERM", "xterm");
    }
    for line in image.config().as_ref().and_then(|c| c.env().clone()).unwrap_or_default() {
        if let Some((name, value)) = line.split_once('=') {
            set(&mut env, name, value);
        }
    }
    for pair in &config.envs {
        if pair.key.is_empty() || pair.key.contains('=') {
            return Err(Error::Invalid(format!("{:?} is no name of an environment variable", pair.key)));
        }
        let value = std::str::from_utf8(&pair.value)
            .map_err(|_| Error::Invalid(format!("the environment variable {:?} is not UTF-8", pair.key)))?;
        set(&mut env, &pair.key, value);
    }
    Ok(env)
}

fn set(env: &mut Vec<String>, name: &str, value: &str) {
    let line = format!("{name}={value}");
    match env.iter_mut().find(|old| old.split_once('=').is_some_and(|(n, _)| n == name)) {
        Some(old) => *old = line,
        None => env.push(line),
    }
}

/// Capabilities after the request's additions and removals.
fn capabilities(security: &cri::LinuxContainerSecurityContext) -> Vec<String> {
    let full = |name: &String| {
        let name = name.to_uppercase();
        if name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
    };
    let all = || all_capabilities().iter().map(|name| format!("CAP_{name}")).collect::<Vec<_>>();
    if security.privileged {
        return all();
    }
    let asked = security.capabilities.clone().unwrap_or_default();
    let added: Vec<String> = asked.add_capabilities.iter().map(full).collect();
    let dropped: Vec<String> = asked.drop_capabilities.iter().map(full).collect();
    let mut granted: Vec<String> = if added.iter().any(|c| c == "CAP_ALL") {
        all()
    } else if dropped.iter().any(|c| c == "CAP_ALL") {
        Vec::new()
    } else {
        CAPABILITIES.iter().map(|c| (*c).to_owned()).collect()
    };
    granted.extend(added.into_iter().filter(|c| c != "CAP_ALL"));
    granted.retain(|c| !dropped.contains(c));
    granted.sort();
    granted.dedup();
    granted
}

/// Every capability of Linux 6.12 (capability.h).
fn all_capabilities() -> Vec<&'static str> {
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE \
     DAC_READ_SEARCH FOWNER FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE \
     MKNOD NET_ADMIN NET_BIND_SERVICE NET_BROADCAST NET_RAW PERFMON SETGID SETFCAP SETPCAP SETUID SYS_ADMIN \
     SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME \
     SYS_TTY_CONFIG SYSLOG WAKE_ALARM"
        .split_whitespace()
        .collect()
}

/// The user as the agent shall resolve it.
///
/// # Errors
/// [`Error::Invalid`] for ids that no kernel knows, and for a group without a user (CRI: `run_as_group`).
pub fn user(config: &cri::ContainerConfig, image: &ImageConfiguration) -> Result<agent::User> {
    let security = security(config);
    let asked = security.run_as_username.as_str();
    let name = match &security.run_as_user {
        Some(uid) => numeric_id("run_as_user", uid.value)?.to_string(),
        None if asked.is_empty() && security.run_as_group.is_some() => {
            return Err(Error::Invalid(
                "run_as_group is set without run_as_user or run_as_username: name the user as well".into(),
            ));
        }
        None if asked.is_empty() => {
            image.config().as_ref().and_then(|c| c.user().clone()).unwrap_or_default()
        }
        None => asked.to_owned(),
    };
    let gid = security.run_as_group.as_ref();
    let more = security.supplemental_groups.iter();
    Ok(agent::User {
        name,
        gid: gid.map(|gid| numeric_id("run_as_group", gid.value)).transpose()?,
        supplemental_groups: more
            .map(|gid| numeric_id("supplemental_groups", *gid))
            .collect::<Result<_>>()?,
        strict_groups: security.supplemental_groups_policy() == cri::SupplementalGroupsPolicy::Strict,
    })
}

/// An id of a user or group: 0 to 2^32 - 2, as the highest number means none.
fn numeric_id(field: &str, value: i64) -> Result<u32> {
    u32::try_from(value).ok().filter(|id| *id != u32::MAX).ok_or_else(|| {
        Error::Invalid(format!("{field} is {value}: an id is a number from 0 to {}", u32::MAX - 1))
    })
}

fn security(config: &cri::ContainerConfig) -> cri::LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|linux| linux.security_context.clone()).unwrap_or_default()
}

/// Is the root without a writable layer?
pub fn read_only_root(config: &cri::ContainerConfig) -> bool {
    security(config).readonly_rootfs
}

/// The spec, as JSON, after a check that the OCI's own types accept it.
pub fn build(
    id: &str,
    config: &cri::ContainerConfig,
    image: &ImageConfiguration,
    pod: &cri::PodSandboxConfig,
    volumes: &Volumes,
    users: Option<&IdMappings>,
) -> Result<Vec<u8>> {
    let security = security(config);
    let privileged = security.privileged;
    let limits = config.linux.as_ref().and_then(|linux| linux.resources.clone()).unwrap_or_default();
    let image_cwd = image.config().as_ref().and_then(|c| c.working_dir().clone()).unwrap_or_default();
    let cwd = [config.working_dir.as_str(), image_cwd.as_str(), "/"].into_iter().find(|s| !s.is_empty());
    let caps = capabilities(&security);
    let paths = |asked: &[String], default: &[&str]| -> Vec<String> {
        match (privileged, asked.is_empty()) {
            (true, _) => Vec::new(),
            (false, false) => asked.to_vec(),
            (false, true) => default.iter().map(|path| (*path).to_owned()).collect(),
        }
    };
    let mounts = mounts::all(id, privileged, volumes);
    // Within the guest: a privileged container may use all that the VM has, which is no host's device.
    let mut linux_resources = resources::oci(&limits)?;
    linux_resources["devices"] = json!([{"allow": privileged, "access": "rwm"}]);
    let filter = seccomp::filter(&security, &caps)?;
    let mut spec = json!({
        "ociVersion": "1.1.0",
        "process": {
            "terminal": config.tty,
            "user": {"uid": 0, "gid": 0},
            "args": arguments(config, image)?,
            "env": environment(config, image, &pod.hostname)?,
            "cwd": cwd,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": security.no_new_privs,
            "oomScoreAdj": limits.oom_score_adj.clamp(-1000, 1000),
        },
        "root": {"path": "rootfs", "readonly": security.readonly_rootfs},
        "mounts": mounts,
        "linux": {
            "resources": linux_resources,
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}],
            "maskedPaths": paths(&security.masked_paths, &MASKED_PATHS),
            "readonlyPaths": paths(&security.readonly_paths, &READONLY_PATHS),
        },
    });
    if let Some(users) = users {
        users.put_into(&mut spec["linux"]);
    }
    if let Some(filter) = filter {
        spec["linux"]["seccomp"] = filter;
    }
    let checked: oci::Spec = serde_json::from_value(spec)
        .map_err(|e| Error::Invalid(format!("the request does not make a valid OCI spec: {e}")))?;
    serde_json::to_vec(&checked).map_err(|e| Error::Internal(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(json: &str) -> ImageConfiguration {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[]}},"config":{json}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn command_and_args_follow_the_cri() {
        let image = image(r#"{"Entrypoint":["/e"],"Cmd":["c"]}"#);
        let args = |command: &[&str], args: &[&str]| {
            let config =
                cri::ContainerConfig { command: strings(command), args: strings(args), ..Default::default() };
            arguments(&config, &image).unwrap()
        };
        assert_eq!(args(&[], &[]), ["/e", "c"]);
        assert_eq!(args(&[], &["x"]), ["/e", "x"]);
        assert_eq!(args(&["/r"], &[]), ["/r"]);
        assert_eq!(args(&["/r"], &["x"]), ["/r", "x"]);
    }

    #[test]
    fn an_image_without_a_command_is_refused() {
        assert!(arguments(&Default::default(), &image("{}")).is_err());
    }

    #[test]
    fn the_request_overrides_the_images_environment() {
        let image = image(r#"{"Env":["A=1","B=2","PATH=/x"]}"#);
        let config = cri::ContainerConfig {
            envs: vec![cri::KeyValue { key: "A".into(), value: "9".into() }],
            ..Default::default()
        };
        assert_eq!(environment(&config, &image, "h").unwrap(), ["PATH=/x", "HOSTNAME=h", "A=9", "B=2"]);
        for (key, value) in [("", &b"x"[..]), ("A=B", b"x"), ("A", b"\xff")] {
            let envs = vec![cri::KeyValue { key: key.into(), value: value.into() }];
            let config = cri::ContainerConfig { envs, ..Default::default() };
            assert!(matches!(environment(&config, &image, ""), Err(Error::Invalid(_))), "{key:?}");
        }
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let caps = |add: &[&str], drop: &[&str]| {
            capabilities(&cri::LinuxContainerSecurityContext {
                capabilities: Some(cri::Capability {
                    add_capabilities: strings(add),
                    drop_capabilities: strings(drop),
                    ..Default::default()
                }),
                ..Default::default()
            })
        };
        assert_eq!(caps(&["NET_ADMIN"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert!(!caps(&[], &["CHOWN"]).contains(&"CAP_CHOWN".to_owned()));
        assert_eq!(caps(&["ALL"], &[]).len(), 41);
    }

    #[test]
    fn impossible_users_are_refused_by_name() {
        type Change = fn(&mut cri::LinuxContainerSecurityContext);
        let asked = |change: Change| {
            let mut config = cri::ContainerConfig::default();
            change(config.linux.get_or_insert_default().security_context.get_or_insert_default());
            user(&config, &image(r#"{"User":"app"}"#))
        };
        assert_eq!(asked(|_| {}).unwrap().name, "app");
        assert_eq!(asked(|s| s.run_as_user = Some(cri::Int64Value { value: 7 })).unwrap().name, "7");
        let refused: [(&str, Change); 4] = [
            ("run_as_user is -1", |s| s.run_as_user = Some(cri::Int64Value { value: -1 })),
            ("run_as_group is set without", |s| s.run_as_group = Some(cri::Int64Value { value: 1 })),
            ("run_as_group is 4294967295", |s| {
                s.run_as_username = "app".into();
                s.run_as_group = Some(cri::Int64Value { value: i64::from(u32::MAX) });
            }),
            ("supplemental_groups is -2", |s| s.supplemental_groups = vec![1, -2]),
        ];
        for (says, change) in refused {
            assert!(asked(change).unwrap_err().to_string().contains(says), "{says}");
        }
    }

    #[test]
    fn the_spec_is_valid_and_whole() {
        let image = image(r#"{"Cmd":["sh"],"WorkingDir":"/w"}"#);
        let json =
            build("c", &Default::default(), &image, &Default::default(), &Volumes::default(), None).unwrap();
        let spec: oci::Spec = serde_json::from_slice(&json).unwrap();
        assert_eq!(spec.process().as_ref().unwrap().cwd().to_str(), Some("/w"));
    }
}
