//! Opens a log below the pod's log directory, whatever its name tries.

use std::fs::File;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use crate::error::{Error, Result};

/// The absolute path of a container's log; empty when either part is, as the CRI allows.
///
/// # Errors
/// When the directory is not absolute, or `log_path` is absolute or has a `..`.
pub fn join(log_directory: &str, log_path: &str) -> Result<String> {
    if log_directory.is_empty() || log_path.is_empty() {
        return Ok(String::new());
    }
    let (directory, relative) = (Path::new(log_directory), Path::new(log_path));
    let plain = |path: &Path| path.components().all(|c| !matches!(c, Component::ParentDir));
    if !directory.is_absolute() || !plain(directory) {
        return Err(Error::Invalid(format!(
            "log_directory {log_directory:?} must be absolute, without \"..\""
        )));
    }
    if relative.is_absolute() || !plain(relative) {
        return Err(Error::Invalid(format!(
            "log_path {log_path:?} must be relative to log_directory, without \"..\""
        )));
    }
    Ok(directory.join(relative).to_string_lossy().into_owned())
}

/// Opens a log for appending, made if it is not there; no symbolic link below `directory` is followed.
pub fn open(directory: &str, log: &str) -> Result<File> {
    let path = PathBuf::from(log);
    let relative = path
        .strip_prefix(directory)
        .map_err(|_| Error::Invalid(format!("the log {log:?} is not below {directory:?}")))?;
    let fail = |e: rustix::io::Errno| Error::io("open the log", &path, e.into());
    std::fs::create_dir_all(directory)
        .map_err(|e| Error::io("make the log directory", Path::new(directory), e))?;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut at = rustix::fs::openat(CWD, directory, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(fail)?;
    if let Some(parent) = relative.parent() {
        for part in parent.components() {
            match rustix::fs::mkdirat(&at, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(fail(e)),
            }
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            at = openat2(&at, part.as_os_str(), flags, Mode::empty(), resolve).map_err(fail)?;
        }
    }
    let name =
        relative.file_name().ok_or_else(|| Error::Invalid(format!("the log {log:?} has no file name")))?;
    let flags = OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat2(&at, name, flags, Mode::from_raw_mode(0o640), resolve).map(File::from).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_cannot_be_put_elsewhere() {
        assert_eq!(join("/var/log/pods/x", "c/0.log").unwrap(), "/var/log/pods/x/c/0.log");
        assert_eq!(join("", "c/0.log").unwrap(), "");
        for bad in ["../0.log", "/etc/passwd", "c/../../0.log"] {
            assert!(matches!(join("/var/log", bad), Err(Error::Invalid(_))), "{bad}");
        }
        assert!(join("var/log", "0.log").is_err());
    }

    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().to_str().unwrap();
        let canary = dir.path().join("canary");
        std::fs::write(&canary, "untouched").unwrap();
        let logs = format!("{base}/logs");
        std::fs::create_dir(&logs).unwrap();
        std::os::unix::fs::symlink(&canary, format!("{logs}/0.log")).unwrap();
        std::os::unix::fs::symlink("/tmp", format!("{logs}/sub")).unwrap();
        assert!(open(&logs, &format!("{logs}/0.log")).is_err());
        assert!(open(&logs, &format!("{logs}/sub/0.log")).is_err());
        assert!(open(&logs, &format!("{logs}/new/0.log")).is_ok());
        assert_eq!(std::fs::read_to_string(canary).unwrap(), "untouched");
    }
}
