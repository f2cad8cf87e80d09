//! Runs one plugin: configuration on standard input, parameters in the environment, JSON back.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::super::NetworkError;
use super::Attachment;

/// The longest answer of a plugin, in bytes.
const MAX_OUTPUT: u64 = 1 << 20;

/// How much of a plugin's standard error is kept, in bytes.
const MAX_DIAGNOSTICS: u64 = 64 << 10;

/// How much of a plugin's message an error carries, in characters.
const MAX_MESSAGE: usize = 1024;

/// Where plugins are, and how long one may take.
#[derive(Clone, Debug)]
pub(super) struct Plugins {
    pub(super) bin_dirs: Vec<PathBuf>,
    pub(super) timeout: Duration,
}

/// One call of a plugin.
pub(super) struct Invocation<'a> {
    pub(super) command: &'static str,
    pub(super) plugin: &'a str,
    pub(super) to: &'a Attachment,
    pub(super) stdin: Vec<u8>,
}

/// A plugin's error object (spec, "Error").
#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorObject {
    code: u32,
    msg: String,
    details: String,
}

/// What a plugin that has ended left.
struct Output {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Plugins {
    /// The first executable file named `plugin`.
    pub(super) fn find(&self, plugin: &str) -> Result<PathBuf, NetworkError> {
        let named = self.bin_dirs.iter().map(|dir| dir.join(plugin));
        // A name from a configuration; with a slash in it, it would not be of these directories.
        let mut named = named.filter(|_| !plugin.contains('/'));
        named.find(|path| is_executable(path)).ok_or_else(|| NetworkError::PluginNotFound {
            plugin: plugin.to_owned(),
            dirs: self.bin_path(", "),
        })
    }

    fn bin_path(&self, separator: &str) -> String {
        self.bin_dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(separator)
    }

    /// Runs the plugin to its end; its standard output.
    pub(super) async fn run(&self, call: Invocation<'_>) -> Result<Vec<u8>, NetworkError> {
        let binary = self.find(call.plugin)?;
        let failed = |source| NetworkError::PluginRun {
            plugin: call.plugin.to_owned(),
            command: call.command,
            source,
        };
        let mut command = Command::new(binary);
        command
            .env("CNI_COMMAND", call.command)
            .env("CNI_CONTAINERID", &call.to.container_id)
            .env("CNI_NETNS", &call.to.netns)
            .env("CNI_IFNAME", &call.to.interface)
            .env("CNI_ARGS", &call.to.args)
            .env("CNI_PATH", self.bin_path(":"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what the plugin starts (iptables, an address plugin) can be
            // killed with it.
            .process_group(0)
            .kill_on_drop(true);
        if std::env::var_os("PATH").is_none() {
            command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        }
        let mut child = Group::new(command.spawn().map_err(failed)?);
        let Ok(done) = tokio::time::timeout(self.timeout, child.talk(&call.stdin)).await else {
            return Err(NetworkError::PluginTimeout {
                plugin: call.plugin.to_owned(),
                command: call.command,
                seconds: self.timeout.as_secs(),
            });
        };
        let output = done.map_err(failed)?;
        if !output.status.success() {
            return Err(call.failure(&output));
        }
        if output.stdout.len() as u64 > MAX_OUTPUT {
            return Err(NetworkError::PluginOutput {
                plugin: call.plugin.to_owned(),
                why: format!("the answer is longer than {MAX_OUTPUT} bytes"),
            });
        }
        if !output.stderr.is_empty() {
            let stderr = shorten(&String::from_utf8_lossy(&output.stderr));
            tracing::debug!(plugin = call.plugin, command = call.command, stderr, "CNI plugin");
        }
        Ok(output.stdout)
    }
}

impl Invocation<'_> {
    /// The error of a plugin that ended with a status other than 0.
    fn failure(&self, output: &Output) -> NetworkError {
        let object: ErrorObject = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let (code, message) = if object.msg.is_empty() && object.code == 0 {
            let stderr = String::from_utf8_lossy(&output.stderr);
            let code = output.status.code().and_then(|code| u32::try_from(code).ok()).unwrap_or(0);
            (code, format!("{}, without an error object; it wrote \"{}\"", output.status, stderr.trim()))
        } else if object.details.is_empty() {
            (object.code, object.msg)
        } else {
            (object.code, format!("{}: {}", object.msg, object.details))
        };
        NetworkError::PluginFailed {
            plugin: self.plugin.to_owned(),
            command: self.command,
            code,
            message: shorten(&message),
        }
    }
}

/// A plugin with all that it started; killed together when this is dropped before the end.
struct Group {
    child: Child,
    /// The group's id, until the plugin has been reaped.
    id: Option<Pid>,
}

impl Group {
    fn new(child: Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        Self { child, id }
    }

    async fn talk(&mut self, input: &[u8]) -> std::io::Result<Output> {
        let (stdin, stdout, stderr) =
            (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take());
        let write = async {
            if let Some(mut stdin) = stdin {
                match stdin.write_all(input).await {
                    // A plugin need not read its input to say that it failed.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                    done => return done,
                }
            }
            Ok(())
        };
        // One byte past the limit tells an answer that is too long.
        let (_, stdout, stderr) =
            tokio::try_join!(write, drain(stdout, MAX_OUTPUT + 1), drain(stderr, MAX_DIAGNOSTICS))?;
        let status = self.child.wait().await?;
        self.id = None;
        Ok(Output { status, stdout, stderr })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            // Not reaped yet, so the id is still the group's. It may be empty already.
            let _ = killpg(id, Signal::SIGKILL);
        }
    }
}

/// Reads to the end and keeps the first `limit` bytes.
async fn drain(source: Option<impl AsyncRead + Unpin>, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut source) = source {
        (&mut source).take(limit).read_to_end(&mut kept).await?;
        tokio::io::copy(&mut source, &mut tokio::io::sink()).await?;
    }
    Ok(kept)
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').take(MAX_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(script: &str) -> (tempfile::TempDir, Plugins) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        husk_tests::install_script(&path, script);
        let plugins = Plugins { bin_dirs: vec![dir.path().to_owned()], timeout: Duration::from_secs(20) };
        (dir, plugins)
    }

    async fn run(plugins: &Plugins) -> Result<Vec<u8>, NetworkError> {
        let to = Attachment {
            container_id: "c".into(),
            netns: "/n".into(),
            interface: "eth0".into(),
            args: "A=1".into(),
            port_mappings: Vec::new(),
        };
        plugins.run(Invocation { command: "ADD", plugin: "p", to: &to, stdin: b"in".to_vec() }).await
    }

    #[tokio::test]
    async fn parameters_and_input_arrive() {
        let (_dir, plugins) =
            plugin(r#"echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS $(cat)""#);
        assert_eq!(run(&plugins).await.unwrap(), b"ADD c /n eth0 A=1 in\n");
    }

    #[tokio::test]
    async fn an_error_object_names_code_and_reason() {
        let (_dir, plugins) = plugin(r#"echo '{"code":11,"msg":"try again","details":"busy"}'; exit 1"#);
        let error = run(&plugins).await.unwrap_err();
        assert_eq!(error.to_string(), r#"CNI plugin "p", ADD failed with code 11: try again: busy"#);
        let (_dir, plugins) = plugin("echo broken >&2; exit 3");
        let error = run(&plugins).await.unwrap_err().to_string();
        assert!(error.contains("code 3") && error.contains("broken"), "{error}");
    }

    #[tokio::test]
    async fn a_plugin_that_hangs_is_killed_with_its_children() {
        let (dir, mut plugins) = plugin(r#"sleep 1000 & echo $! >"$0.pid"; wait"#);
        plugins.timeout = Duration::from_secs(2);
        let ended = run(&plugins).await;
        assert!(matches!(ended, Err(NetworkError::PluginTimeout { .. })), "{ended:?}");
        let pid = std::fs::read_to_string(dir.path().join("p.pid")).unwrap();
        let stat = PathBuf::from(format!("/proc/{}/stat", pid.trim()));
        for _ in 0..100 {
            // Gone, or a zombie that waits for whoever adopted it.
            let state = std::fs::read_to_string(&stat).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the child {pid} lives on");
    }

    #[tokio::test]
    async fn a_flood_is_bounded() {
        let (_dir, plugins) = plugin("head -c 50000000 /dev/zero; head -c 5000000 /dev/zero >&2");
        let ended = run(&plugins).await;
        assert!(matches!(ended, Err(NetworkError::PluginOutput { .. })), "{ended:?}");
    }

    #[test]
    fn a_missing_plugin_is_named_with_where_it_was_sought() {
        let plugins = Plugins { bin_dirs: vec!["/nowhere".into()], timeout: Duration::from_secs(1) };
        let error = plugins.find("bridge").unwrap_err().to_string();
        assert!(error.contains("bridge") && error.contains("/nowhere"), "{error}");
        assert!(plugins.find("../bin/sh").is_err());
    }
}
