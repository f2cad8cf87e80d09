//! The container's OCI spec: what the host sent, checked, with what only the guest knows filled in.

use std::path::Path;

use husk_proto::agent::ResolvedUser;
use oci_spec::runtime::{LinuxNamespaceType, LinuxSeccomp, Process, Root, Spec};

use crate::cgroup::Cgroup;
use crate::error::{Error, Result};
use crate::sandbox;

/// It is there when the kernel runs programs of i386 as well (IA32_EMULATION). For x32 there is no sign; where it is on
/// without the other, its calls are refused.
const OTHER_CALLS: &str = "/proc/sys/abi/vsyscall32";

/// Kinds of file systems that come from the kernel alone.
const KERNEL_MOUNTS: [&str; 6] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup"];

/// Parses and checks a spec; the names of bind mounts' sources become paths.
pub fn parse(json: &[u8]) -> Result<Spec> {
    let mut spec: Spec = serde_json::from_slice(json)
        .map_err(|e| Error::Invalid(format!("the OCI spec cannot be read: {e}")))?;
    let process = spec.process().as_ref().ok_or_else(|| invalid("has no process"))?;
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(invalid("has no command (process.args)"));
    }
    if !process.cwd().is_absolute() {
        return Err(invalid("process.cwd is not an absolute path"));
    }
    if spec.hooks().is_some() {
        return Err(invalid("has hooks, which would run outside the container"));
    }
    let linux = spec.linux().as_ref().ok_or_else(|| invalid("has no linux part"))?;
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    if !namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount) {
        return Err(invalid("does not ask for a mount namespace"));
    }
    if namespaces.iter().any(|namespace| namespace.path().is_some()) {
        return Err(invalid("names the path of a namespace: the pod's are the guest's own"));
    }
    for mount in spec.mounts_mut().iter_mut().flatten() {
        let bound = mount.options().iter().flatten().any(|option| option == "bind" || option == "rbind");
        match mount.typ().as_deref() {
            Some("bind") => {
                let source = mount.source().as_ref().and_then(|source| source.to_str()).unwrap_or_default();
                let file = sandbox::provided(source)?;
                mount.set_source(Some(file));
            }
            Some(kind) if KERNEL_MOUNTS.contains(&kind) && !bound => {}
            kind => {
                return Err(Error::Invalid(format!(
                    "the OCI spec mounts {kind:?} on {}: the kinds are bind, {}",
                    mount.destination().display(),
                    KERNEL_MOUNTS.join(", ")
                )));
            }
        }
    }
    Ok(spec)
}

fn invalid(why: &str) -> Error {
    Error::Invalid(format!("the OCI spec {why}"))
}

/// Fills in what only the guest knows.
pub fn complete(spec: &mut Spec, id: &str, user: &ResolvedUser, home: &str, read_only: bool) {
    if let Some(process) = spec.process_mut() {
        let oci_user = process.user_mut();
        oci_user.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups.clone()));
        if process.no_new_privileges() == Some(false) {
            // The library takes any value for a yes when it decides whether to load the seccomp filter before it
            // gives up the capability that this needs.
            process.set_no_new_privileges(None);
        }
        let env = process.env_mut().get_or_insert_default();
        if value(env, "HOME").is_none_or(str::is_empty) {
            set(env, "HOME", home);
        }
    }
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path(Some(Cgroup::spec_path(id)));
        if let Some(filter) = linux.seccomp_mut() {
            judge_what_there_is(filter, Path::new(OTHER_CALLS).exists());
        }
    }
    let read_only = read_only || spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true));
    let mut root = Root::default();
    // Relative to the bundle.
    root.set_path("rootfs".into()).set_readonly(Some(read_only));
    spec.set_root(Some(root));
}

/// Leaves architectures out of a filter whose calls the kernel does not know: with them its making takes three times as
/// long, for which each new process waits.
fn judge_what_there_is(filter: &mut LinuxSeccomp, other_calls: bool) {
    if !other_calls {
        // The kernel's own is always in it.
        filter.set_architectures(None);
    }
}

/// One more process of a container whose own is like `template`.
pub fn exec_process(template: &Process, args: Vec<String>, env: &[String], terminal: bool) -> Process {
    let mut process = template.clone();
    process.set_args(Some(args)).set_terminal(Some(terminal)).set_console_size(None);
    let all = process.env_mut().get_or_insert_default();
    for variable in env {
        match variable.split_once('=') {
            Some((name, value)) => set(all, name, value),
            None => all.push(variable.clone()),
        }
    }
    if terminal && value(all, "TERM").is_none() {
        set(all, "TERM", "xterm");
    }
    process
}

fn value<'a>(env: &'a [String], name: &str) -> Option<&'a str> {
    env.iter().find_map(|variable| variable.strip_prefix(name)?.strip_prefix('='))
}

fn set(env: &mut Vec<String>, name: &str, value: &str) {
    env.retain(|variable| variable.split_once('=').is_none_or(|(known, _)| known != name));
    env.push(format!("{name}={value}"));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn good() -> Value {
        json!({
            "ociVersion": "1.1.0",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "env": ["PATH=/bin"], "cwd": "/"},
            "root": {"path": "rootfs"},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/etc/hosts", "type": "bind", "source": "husk:hosts", "options": ["bind"]},
            ],
            "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
        })
    }

    fn parsed(spec: &Value) -> Result<Spec> {
        parse(spec.to_string().as_bytes())
    }

    #[test]
    fn filters_have_the_architectures_that_the_kernel_runs() {
        let filter = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        });
        let of = |other_calls| {
            let mut filter: LinuxSeccomp = serde_json::from_value(filter.clone()).unwrap();
            judge_what_there_is(&mut filter, other_calls);
            filter.architectures().as_ref().map_or(0, Vec::len)
        };
        assert_eq!((of(true), of(false)), (2, 0));
    }

    #[test]
    fn a_good_spec_is_taken_and_completed() {
        let mut spec = parsed(&good()).unwrap();
        let mounts = spec.mounts().as_ref().unwrap();
        assert_eq!(mounts[1].source().as_ref().unwrap().to_str(), Some("/run/husk/etc/hosts"));
        let user = ResolvedUser { uid: 7, gid: 8, groups: vec![8, 9] };
        complete(&mut spec, "c1", &user, "/home/x", true);
        let process = spec.process().as_ref().unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (7, 8));
        assert_eq!(process.env().as_ref().unwrap(), &["PATH=/bin", "HOME=/home/x"]);
        assert_eq!(spec.root().as_ref().unwrap().readonly(), Some(true));
        assert_eq!(
            spec.linux().as_ref().unwrap().cgroups_path().as_ref().unwrap().to_str(),
            Some("/pods/c1")
        );
    }

    #[test]
    fn what_reaches_outside_the_container_is_refused() {
        let cases: [(&str, Value); 8] = [
            ("/mounts/1/source", json!("/dev")),
            ("/mounts/0/type", json!("ext4")),
            ("/mounts/1/type", json!("tmpfs")),
            ("/linux/namespaces", json!([{"type": "pid"}])),
            ("/linux/namespaces/0", json!({"type": "pid", "path": "/proc/1/ns/pid"})),
            ("/process/args", json!([])),
            ("/process/cwd", json!("tmp")),
            ("/process", json!("none")),
        ];
        for (pointer, value) in cases {
            let mut spec = good();
            *spec.pointer_mut(pointer).unwrap() = value;
            assert!(matches!(parsed(&spec), Err(Error::Invalid(_))), "{pointer}");
        }
        let mut spec = good();
        spec["hooks"] = json!({"prestart": [{"path": "/bin/sh"}]});
        assert!(parsed(&spec).is_err());
        assert!(parse(b"not json").is_err());
    }

    #[test]
    fn an_execd_process_is_as_the_container_with_its_own_command() {
        let spec = parsed(&good()).unwrap();
        let template = spec.process().as_ref().unwrap();
        let process = exec_process(template, vec!["ls".into()], &["PATH=/x".into(), "A=1".into()], true);
        assert_eq!(process.args().as_ref().unwrap(), &["ls"]);
        assert_eq!(process.env().as_ref().unwrap(), &["PATH=/x", "A=1", "TERM=xterm"]);
        assert_eq!(process.terminal(), Some(true));
    }
}
