//! Commands of the host.

use std::process::{Command, Stdio};

/// Runs a command to its end and answers its standard output.
///
/// # Panics
/// When it cannot be started or fails, with all that it said.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| {
        panic!("{command:?} could not be started: {e}; tests/deps/install installs what is needed")
    });
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// Runs a line of shell, as [`run`].
#[track_caller]
pub fn sh(line: &str) -> String {
    run(Command::new("sh").args(["-ec", line]).env("PATH", admin_path()))
}

/// PATH with the administrator's directories, where iptables and the like are.
fn admin_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}
