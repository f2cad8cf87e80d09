//! Shell scripts that tests run as programs.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes `path` the program `text`, a script for sh.
///
/// A process of its own writes it. Tests run side by side, and a child that another test starts has this process's open
/// files until it executes its program: one open for writing would make running the script fail with ETXTBSY
/// (execve(2)) for as long.
///
/// # Panics
/// When it cannot be written.
pub fn install(path: &Path, text: &str) {
    let mut writer = Command::new("sh")
        .args(["-c", r#"cat >"$0" && chmod 755 "$0""#])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("sh: {error}"));
    let mut stdin = writer.stdin.take().unwrap();
    stdin.write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
    drop(stdin);
    let status = writer.wait().unwrap();
    assert!(status.success(), "{} cannot be written: {status}", path.display());
}
