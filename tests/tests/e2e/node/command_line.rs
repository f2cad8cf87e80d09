//! `husk run` and `husk check`, as a person uses them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use husk_tests::{Bed, Daemon, step};
use tempfile::TempDir;

use crate::faults::parts::without_kvm;

/// A configuration of its own, beside the daemon's.
pub struct Own {
    dir: TempDir,
    config: Daemon,
    bed: Arc<Bed>,
}

impl Own {
    pub fn new(bed: &Arc<Bed>) -> Own {
        // Shorter than /tmp: sockets below it must fit in 107 bytes (unix(7)).
        let dir =
            tempfile::Builder::new().prefix("h").rand_bytes(3).tempdir_in("/run").expect("make a directory");
        let config = Daemon::prepare(dir.path(), &bed.paths, &bed.cni, &bed.registry.url());
        let own = Own { dir, config, bed: bed.clone() };
        own.replace(&own.config.run.clone(), own.dir.path());
        own
    }

    /// Replaces one path of the configuration by another.
    fn replace(&self, old: &Path, new: &Path) {
        let text = fs::read_to_string(&self.config.config).expect("read the configuration");
        let (old, new) = (format!("{old:?}"), format!("{new:?}"));
        assert!(text.contains(&old), "the configuration has no {old}");
        fs::write(&self.config.config, text.replace(&old, &new)).expect("write the configuration");
    }

    /// Runs husk with it.
    pub fn husk(&self, args: &[&str]) -> Output {
        self.under(Command::new(self.bed.paths.program("husk")), args)
    }

    fn without_kvm(&self, args: &[&str]) -> Output {
        let mut command = without_kvm();
        command.arg(self.bed.paths.program("husk"));
        self.under(command, args)
    }

    fn under(&self, mut command: Command, args: &[&str]) -> Output {
        command.arg("--config").arg(&self.config.config).args(args);
        command.stdin(Stdio::null()).output().expect("start husk")
    }

    fn layout(&self, image: &str) -> String {
        format!("oci:{}:{image}", self.bed.paths.images().display())
    }

    /// Nothing of the command's pod may be left in its own directories.
    pub fn check_clean(&self) {
        let run = self.dir.path().join("standalone");
        let root = self.config.root.join("standalone");
        for dir in
            [run.join("pods"), run.join("netns"), run.join("logs"), root.join("scratch"), root.join("cni")]
        {
            let left: Vec<_> =
                fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            assert!(left.is_empty(), "left behind: {left:?}");
        }
        self.bed.check_clean().expect("nothing is left");
    }
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// From a local layout, without a network: streams, exit code, its own kernel, the time of each step.
pub async fn run_passes_output_and_code(bed: Arc<Bed>) {
    let own = Own::new(&bed);
    let script = "echo out; echo err >&2; uname -r; ls /sys/class/net; exit 7";
    let output =
        own.husk(&["run", "--network", "none", "--timings", &own.layout("busybox"), "sh", "-c", script]);
    let (out, err) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(7), "{out}{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.first(), Some(&"out"), "{out}{err}");
    let host = husk_tests::sh("uname -r");
    assert!(lines.len() > 1 && lines[1] != host.trim(), "the kernel is the host's: {out}");
    assert!(!lines.contains(&"eth0"), "{out}");
    assert!(err.lines().any(|line| line == "err") && err.contains(" ms  "), "{err}");
    own.check_clean();

    step("again, and the image's own command");
    let output = own.husk(&["run", "--network", "none", &own.layout("user")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("arguments:entrypoint cmd\n"), "{}", stdout(&output));
    own.check_clean();
}

/// From the registry, on the node's network.
pub async fn run_on_the_network(bed: Arc<Bed>) {
    let own = Own::new(&bed);
    let output = own.husk(&["run", husk_tests::BUSYBOX, "ping", "-c", "1", "-W", "5", "10.88.0.1"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("1 packets received"), "{}", stdout(&output));
    own.check_clean();
}

/// What cannot be run: a code of husk's own, and a text that names it.
pub async fn run_refuses(bed: Arc<Bed>) {
    let own = Own::new(&bed);
    let [layout, absent, arm] = ["busybox", "no-such-image", "arm"].map(|image| own.layout(image));
    for (image, command, name) in [
        ("oci:/no/such/layout:x", "true", "/no/such/layout"),
        (&absent, "true", "no-such-image"),
        (&arm, "true", "arm64"),
        ("husk/UPPER", "true", "husk/UPPER"),
        ("docker.io/husk/nothing", "true", "husk/nothing"),
        (&layout, "no-such-command", "no-such-command"),
    ] {
        step(name);
        let output = own.husk(&["run", "--network", "none", image, command]);
        let code = output.status.code();
        assert!(code.is_some_and(|code| (125..=127).contains(&code)), "{code:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(name), "{name} is not named: {}", stderr(&output));
        assert_eq!(stdout(&output), "");
        own.check_clean();
    }

    step("no KVM");
    let output = own.without_kvm(&["run", "--network", "none", &layout, "true"]);
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains("/dev/kvm"), "{}", stderr(&output));
    own.check_clean();
}

/// Every line says ok.
pub async fn check_of_a_fit_host(bed: Arc<Bed>) {
    let own = Own::new(&bed);
    let output = own.husk(&["check"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
    assert!(text.lines().count() >= 15 && text.lines().all(|line| line.starts_with("ok ")), "{text}");
    for plugin in ["/bridge", "/portmap", "/host-local"] {
        assert!(
            text.lines().any(|line| line.starts_with("ok    CNI plugin") && line.ends_with(plugin)),
            "{text}"
        );
    }

    step("the same for a script");
    let output = own.husk(&["check", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let list: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(list.len(), text.lines().count());
    assert!(list.iter().all(|line| line["verdict"] == "ok" && line["check"].is_string()), "{list:?}");
}

/// What could be better is told, and the host is fit all the same.
pub async fn check_hints(bed: Arc<Bed>) {
    let own = Own::new(&bed);
    let setting =
        |path: &str, value: &str| format!("printf '%s\\n' {value} >/run/hint; mount --bind /run/hint {path}");
    for (line, hint) in [
        (setting("/sys/kernel/mm/transparent_hugepage/enabled", "'always madvise [never]'"), "echo madvise"),
        (setting("/proc/sys/net/ipv4/ip_forward", "0"), "ip_forward"),
        (setting("/proc/sys/net/bridge/bridge-nf-call-iptables", "0"), "bridge-nf-call-iptables"),
        ("mount -t tmpfs tmpfs /sys/fs/cgroup".into(), "cgroup2"),
        ("ulimit -n 1024".into(), "LimitNOFILE"),
    ] {
        let mut command = Command::new("unshare");
        let script = format!("{line}; exec \"$@\"");
        command.args(["--mount", "--propagation", "private", "sh", "-ec", &script, "sh"]);
        command.arg(bed.paths.program("husk"));
        let output = own.under(command, &["check"]);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{text}{}", stderr(&output));
        let hints: Vec<&str> = text.lines().filter(|line| line.starts_with("hint ")).collect();
        assert!(matches!(hints.as_slice(), [only] if only.contains(hint)), "{hint}:\n{text}");
    }
    fs::remove_file("/run/hint").expect("remove the file of settings");
}

/// A line that says what is wrong, and how to mend it.
pub async fn check_names_what_is_missing(bed: Arc<Bed>) {
    let failing = |output: &Output, name: &str| {
        let text = stdout(output);
        assert_eq!(output.status.code(), Some(1), "{text}{}", stderr(output));
        let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAIL")).collect();
        assert!(failed.iter().any(|line| line.contains(name)), "{name} is not named:\n{text}");
        assert!(text.lines().any(|line| line.starts_with("ok ")), "{text}");
    };
    let own = Own::new(&bed);
    failing(&own.without_kvm(&["check"]), "/dev/kvm");
    own.replace(&bed.paths.kernel(), Path::new("/no/such/vmlinux"));
    failing(&own.husk(&["check"]), "/no/such/vmlinux");
    own.replace(&bed.paths.initramfs(), Path::new("/no/such/initramfs"));
    failing(&own.husk(&["check"]), "/no/such/initramfs");
    let list = bed.cni.configure("00-absent", &[bed.cni.bridge(), serde_json::json!({"type": "absent"})]);
    let output = own.husk(&["check"]);
    fs::remove_file(list).expect("remove the configuration");
    failing(&output, "\"absent\"");
    let program = own.dir.path().join("virtiofsd");
    fs::write(&program, "").expect("write a file that is no program");
    own.replace(&bed.paths.tool("virtiofsd"), &program);
    failing(&own.husk(&["check"]), "chmod 755");
    own.replace(&bed.cni.conf_dir, Path::new("/no/such/net.d"));
    failing(&own.husk(&["check"]), "/no/such/net.d");
}

/// A daemon that could serve nothing does not start.
pub async fn serve_refuses(bed: Arc<Bed>) {
    let own = Own::new(&bed);
    own.replace(&bed.paths.kernel(), Path::new("/no/such/vmlinux"));
    let output = own.husk(&["serve"]);
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains("/no/such/vmlinux"), "{}", stderr(&output));

    step("a second daemon on one root");
    let own = Own::new(&bed);
    own.replace(&own.config.root, &bed.daemon.root);
    let output = own.husk(&["serve"]);
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));

    step("a key that is not known");
    fs::write(&own.config.config, "sokcet = \"/x\"").expect("write the configuration");
    let output = own.husk(&["serve"]);
    assert_eq!(output.status.code(), Some(125), "{}", stderr(&output));
    assert!(stderr(&output).contains("sokcet"), "{}", stderr(&output));
}
