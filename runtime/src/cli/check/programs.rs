//! Programs that husk starts, and its own server.

use std::net::{TcpListener, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::config::StreamingConfig;
use crate::host;

/// The first virtiofsd with all the flags that are used.
const OLDEST_VIRTIOFSD: (u32, u32) = (1, 7);
/// Flags of virtiofsd that are used.
const FLAGS: [&str; 9] = [
    "--shared-dir",
    "--fd",
    "--sandbox",
    "--announce-submounts",
    "--cache",
    "--log-level",
    "--modcaps",
    "--inode-file-handles",
    "--rlimit-nofile",
];

/// One of husk's own programs.
pub fn own(path: &Path, mend: &str) -> Result<String, String> {
    host::file(path, mend)?;
    executable(path)
}

/// The server of volumes: there, new enough, with the flags that it is started with.
pub fn virtiofsd(path: &Path) -> Result<String, String> {
    let mend = "install virtiofsd 1.7 or later, or set volumes.virtiofsd";
    host::file(path, mend)?;
    executable(path)?;
    let said = said(path, "--version")?;
    match version(&said) {
        Some(found) if found >= OLDEST_VIRTIOFSD => {}
        _ => return Err(format!("{} says it is {said:?}; {mend}", path.display())),
    }
    let help = self::said(path, "--help")?;
    match FLAGS.iter().find(|flag| !help.contains(*flag)) {
        Some(flag) => Err(format!("{} does not know {flag}; {mend}", path.display())),
        None => Ok(format!("{}, {said}", path.display())),
    }
}

/// The address of exec, attach and port-forward can be listened on.
pub fn streaming(config: &StreamingConfig) -> Result<String, String> {
    let address = &config.address;
    let wrong = |why: String| format!("streaming.address {address:?}: {why}");
    for file in [&config.tls_certificate, &config.tls_key].into_iter().flatten() {
        std::fs::read(file)
            .map_err(|e| format!("{}: {e}; see streaming in the configuration", file.display()))?;
    }
    let addresses: Vec<_> = address.to_socket_addrs().map_err(|e| wrong(e.to_string()))?.collect();
    match TcpListener::bind(addresses.as_slice()) {
        Ok(_) => Ok(address.clone()),
        // Most likely by husk itself.
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Ok(format!("{address}, in use already")),
        Err(e) => Err(wrong(format!("{e}; use an address of this host"))),
    }
}

fn executable(path: &Path) -> Result<String, String> {
    let mode = path.metadata().map_err(|e| format!("{}: {e}", path.display()))?.permissions().mode();
    if mode & 0o111 == 0 {
        return Err(format!("{0} is not executable: chmod 755 {0}", path.display()));
    }
    Ok(path.display().to_string())
}

/// The first standard output of a program that was asked by `flag`, at most a few lines of it.
fn said(path: &Path, flag: &str) -> Result<String, String> {
    let output = Command::new(path)
        .arg(flag)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run {}: {e}", path.display()))?;
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} {flag} fails ({}): {}", path.display(), output.status, why.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// "virtiofsd 1.14.0": 1, 14.
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_whitespace().last()?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(dir: &Path, script: &str) -> std::path::PathBuf {
        let path = dir.join("virtiofsd");
        husk_tests::install_script(&path, script);
        path
    }

    #[test]
    fn a_server_of_volumes_must_know_its_flags() {
        let dir = tempfile::tempdir().unwrap();
        let all = FLAGS.join(" ");
        let answers = |version: &str, flags: &str| {
            format!("case $1 in --version) echo virtiofsd {version} ;; --help) echo '{flags}' ;; esac")
        };
        let path = program(dir.path(), &answers("1.10.1", &all));
        assert!(virtiofsd(&path).unwrap().ends_with("virtiofsd 1.10.1"));
        let path = program(dir.path(), &answers("1.6.0", &all));
        assert!(virtiofsd(&path).unwrap_err().contains("1.6.0"));
        let path = program(dir.path(), &answers("1.10.1", "--fd"));
        assert!(virtiofsd(&path).unwrap_err().contains("--shared-dir"));
        let path = program(dir.path(), "echo no such thing >&2; exit 1");
        assert!(virtiofsd(&path).unwrap_err().contains("no such thing"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(virtiofsd(&path).unwrap_err().contains("chmod"));
        assert!(virtiofsd(&dir.path().join("none")).unwrap_err().contains("install"));
    }

    #[test]
    fn an_address_must_be_of_this_host() {
        let with = |address: &str| StreamingConfig { address: address.into(), ..Default::default() };
        streaming(&with("127.0.0.1:0")).unwrap();
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(streaming(&with(&held.local_addr().unwrap().to_string())).unwrap().contains("in use"));
        // TEST-NET-1 (RFC 5737) is no host's.
        assert!(streaming(&with("192.0.2.1:0")).unwrap_err().contains("192.0.2.1"));
        assert!(streaming(&with("nonsense")).is_err());
        let tls = StreamingConfig { tls_key: Some("/nonexistent/key".into()), ..with("127.0.0.1:0") };
        assert!(streaming(&tls).unwrap_err().contains("/nonexistent/key"));
    }
}
