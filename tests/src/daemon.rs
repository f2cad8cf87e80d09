//! `husk serve` with directories of its own.

use std::fs::{self, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use husk_proto::cri;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid as ProcessId;

use crate::{Client, Cni, Paths, entries, wait_for};

/// How long the daemon may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(120);
/// How long it may take to come to the failpoint that ends it.
const KILL_LIMIT: Duration = Duration::from_secs(60);

/// The registries whose images the tests' own has: the default one, and those of critest.
const MIRRORED: [&str; 4] = ["docker.io", "registry.k8s.io", "k8s.gcr.io", "gcr.io"];

/// A daemon that can be killed and started again.
#[derive(Debug)]
pub struct Daemon {
    /// Its configuration file.
    pub config: PathBuf,
    /// Its state, as `root` in the configuration.
    pub root: PathBuf,
    /// Its run-time files, as `run` in the configuration.
    pub run: PathBuf,
    socket: PathBuf,
    log: PathBuf,
    program: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Daemon {
    /// Writes a configuration below `dir`; nothing runs yet. `mirror`: the URL that stands for every registry.
    pub fn prepare(dir: &Path, paths: &Paths, cni: &Cni, mirror: &str) -> Daemon {
        // Short names: sockets below `run` are limited to 107 bytes (unix(7)).
        let daemon = Daemon {
            config: dir.join("config.toml"),
            root: dir.join("lib"),
            run: dir.join("run"),
            socket: dir.join("husk.sock"),
            log: dir.join("daemon.log"),
            program: paths.program("husk"),
            child: Mutex::new(None),
        };
        let mirrors: String = MIRRORED.iter().map(|host| format!("{host:?} = [{mirror:?}]\n")).collect();
        let text = format!(
            "socket = {:?}\nroot = {:?}\nrun = {:?}\n\n[vm]\nmax_vcpus = 2\nvmm = {:?}\nkernel = {:?}\ninitramfs = {:?}\n\n\
             [network]\nconf_dir = {:?}\nbin_dirs = [\"/usr/lib/cni\", {:?}]\n\n\
             [volumes]\nvirtiofsd = {:?}\n\n[registry.mirrors]\n\"unreachable.test\" = [\"http://127.0.0.1:1\"]\n{mirrors}",
            daemon.socket,
            daemon.root,
            daemon.run,
            paths.program("husk-vmm"),
            paths.kernel(),
            paths.initramfs(),
            cni.conf_dir,
            cni.bin_dir,
            paths.tool("virtiofsd"),
        );
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&daemon.config, text))
            .expect("write the configuration");
        daemon
    }

    /// Lets every pod boot: a template's VM, which may be in the making when this ends, is nobody's then.
    pub fn without_templates(self) -> Daemon {
        let text = fs::read_to_string(&self.config).expect("read the configuration");
        let text = text.replacen("[vm]\n", "[vm]\ntemplates = false\n", 1);
        fs::write(&self.config, text).expect("write the configuration");
        self
    }

    /// Kills it, and starts it with these lines in its configuration instead of those of an earlier call: the first belong
    /// to its table `[vm]`, the others are tables.
    pub async fn restart_with(&self, vm: &str, tables: &str) {
        const BEGIN: &str = "# added\n";
        const END: &str = "# end\n";
        let text = fs::read_to_string(&self.config).expect("read the configuration");
        let mut plain = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once(BEGIN) {
            plain.push_str(before);
            rest = after.split_once(END).expect("the end of what was added").1;
        }
        plain.push_str(rest);
        let text = plain.replacen("[vm]\n", &format!("[vm]\n{BEGIN}{vm}{END}"), 1);
        self.kill();
        fs::write(&self.config, format!("{text}{BEGIN}{tables}{END}")).expect("write the configuration");
        self.start().await;
    }

    /// Kills it, and starts it with another text in the place of one in its configuration.
    pub async fn restart_with_instead(&self, text: &str, instead: &str) {
        self.kill_and_configure(text, instead);
        self.start().await;
    }

    /// Kills it, and puts another text in the place of one in its configuration.
    pub fn kill_and_configure(&self, text: &str, instead: &str) {
        let config = fs::read_to_string(&self.config).expect("read the configuration");
        assert!(config.contains(text), "{text:?} is not in {config}");
        self.kill();
        fs::write(&self.config, config.replacen(text, instead, 1)).expect("write the configuration");
    }

    /// Starts it and waits for its first answer.
    pub async fn start(&self) {
        self.start_as(Command::new(&self.program)).await;
    }

    /// Starts it with its failpoints as `plan` says ([`husk_failpoint`]). False if it has ended before it could answer.
    pub async fn start_with_failpoint(&self, plan: &str) -> bool {
        let mut command = Command::new(&self.program);
        command.env(husk_failpoint::VARIABLE, plan);
        self.spawn(command);
        self.answers().await
    }

    /// Starts it where it must refuse to run, and answers why it did.
    ///
    /// # Panics
    /// When it runs.
    pub async fn start_refused(&self) -> String {
        self.spawn(Command::new(&self.program));
        assert!(!self.answers().await, "the daemon runs");
        let status = self.child().take().expect("it was started").wait().expect("wait for the daemon");
        assert!(status.code().is_some_and(|code| code != 0), "{status}");
        self.log_tail()
    }

    /// Waits until it has ended by SIGKILL.
    ///
    /// # Panics
    /// When it lives on, or ends otherwise.
    pub async fn killed(&self) {
        let status = wait_for("the daemon's end", KILL_LIMIT, || async {
            self.child().as_mut().expect("it was started").try_wait().expect("wait for the daemon")
        })
        .await;
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}:\n{}", self.log_tail());
        self.child().take();
    }

    /// As [`Daemon::start`], through another program that takes `husk`'s own command line as its arguments.
    pub async fn start_under(&self, mut wrapper: Command) {
        wrapper.arg(&self.program);
        self.start_as(wrapper).await;
    }

    /// As [`Daemon::start_under`], where it may end instead: whether it answers.
    pub async fn try_start_under(&self, mut wrapper: Command) -> bool {
        wrapper.arg(&self.program);
        self.spawn(wrapper);
        self.answers().await
    }

    /// Starts another build of it.
    pub async fn start_build(&self, program: &Path) {
        self.start_as(Command::new(program)).await;
    }

    /// The endpoint's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    async fn start_as(&self, command: Command) {
        self.spawn(command);
        assert!(self.answers().await, "the daemon ended at once:\n{}", self.log_tail());
    }

    fn spawn(&self, mut command: Command) {
        let log =
            OpenOptions::new().create(true).append(true).open(&self.log).expect("open the daemon's log");
        let child = command
            .args(["serve", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate the log's descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", self.program.display()));
        *self.child() = Some(child);
    }

    /// Waits for its first answer; false if it ends before that.
    async fn answers(&self) -> bool {
        let client = self.client();
        wait_for("the daemon's first answer", START_LIMIT, || {
            let ended =
                self.child().as_mut().and_then(|child| child.try_wait().expect("wait for the daemon"));
            let mut runtime = client.runtime();
            async move {
                match ended {
                    Some(_) => Some(false),
                    None => runtime.version(cri::VersionRequest::default()).await.ok().map(|_| true),
                }
            }
        })
        .await
    }

    /// Where it keeps templates: a directory for each build.
    pub fn templates(&self) -> Vec<PathBuf> {
        entries(&self.root.join("templates"))
    }

    /// A client of its socket; it connects when it is used, and again after a restart.
    pub fn client(&self) -> Client {
        Client::new(&self.socket)
    }

    /// Its endpoint as crictl wants it.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child().as_ref().expect("the daemon runs").id()
    }

    /// SIGKILL, at once.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            child.kill().and_then(|()| child.wait()).expect("kill the daemon");
        }
    }

    /// SIGTERM, and how long its end took.
    ///
    /// # Panics
    /// When it does not end well.
    pub async fn terminate(&self) -> Duration {
        let begun = Instant::now();
        kill(ProcessId::from_raw(self.pid() as i32), Signal::SIGTERM).expect("end the daemon");
        let status = wait_for("the daemon's end", KILL_LIMIT, || async {
            self.child().as_mut().expect("it was started").try_wait().expect("wait for the daemon")
        })
        .await;
        assert!(status.success(), "{status}:\n{}", self.log_tail());
        self.child().take();
        begun.elapsed()
    }

    /// Its log, that of earlier processes included.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}
