//! Devices of a container's request: block devices of the host, which become disks of the guest, and those that
//! mean the same in every kernel, which are the guest's own.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use husk_proto::{GUEST_DEVICES, cri};
use rustix::fs::{major, minor};

use crate::error::{Error, Result};
use crate::store::{ContainerRecord, HostDevice, Medium};
use crate::volume;

/// Those of the guest's devices that every container has.
const EVERYWHERE: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
/// What else is in every container's /dev (OCI runtime spec, "Default Devices" and "/dev symbolic links").
const LINKS: [&str; 7] = ["console", "ptmx", "fd", "stdin", "stdout", "stderr", "core"];
/// A node that anybody may use; what counts is the cgroup's rule.
const OPEN_MODE: u32 = 0o666;

/// A device that is to be in a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// In the container; absolute, without `..`.
    pub container: PathBuf,
    /// Of r, w and m.
    pub access: String,
    /// The node's.
    pub mode: u32,
    /// The node's owner.
    pub uid: u32,
    /// The node's group.
    pub gid: u32,
    /// What it is.
    pub source: Requested,
}

/// Whose device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requested {
    /// The guest's own, by its name below /dev.
    Guest(&'static str),
    /// A block device of the host.
    Host {
        /// Which.
        device: HostDevice,
        /// Its size.
        bytes: u64,
    },
}

/// What a request means; `None` for what every container has at that place.
///
/// # Errors
/// [`Error::Invalid`], with the path and what is possible.
pub fn requested(asked: &cri::Device) -> Result<Option<Device>> {
    let container = volume::container_path(&asked.container_path)?;
    let access = permissions(asked)?;
    let host = Path::new(&asked.host_path);
    if !host.is_absolute() {
        return Err(Error::Invalid(format!("host_path {host:?} of a device must be absolute")));
    }
    let taken = container
        .strip_prefix("/dev")
        .ok()
        .and_then(|name| EVERYWHERE.iter().chain(&LINKS).find(|known| Path::new(known) == name));
    let source = source(host, access.contains('w'))?;
    match (taken, &source) {
        (None, _) => {}
        (Some(taken), (Requested::Guest(name), _)) if taken == name => return Ok(None),
        (Some(_), _) => {
            return Err(Error::Invalid(format!(
                "the device {host:?} cannot be at {container:?}, where every container has a device of that name"
            )));
        }
    }
    let (source, (mode, uid, gid)) = source;
    Ok(Some(Device { container, access, mode, uid, gid, source }))
}

/// The letters of the permissions, each once.
fn permissions(asked: &cri::Device) -> Result<String> {
    let letters = &asked.permissions;
    if letters.is_empty() || !letters.bytes().all(|letter| b"rwm".contains(&letter)) {
        return Err(Error::Invalid(format!(
            "the permissions {letters:?} of the device {:?} must be one or more of r, w and m",
            asked.host_path
        )));
    }
    Ok("rwm".chars().filter(|letter| letters.contains(*letter)).collect())
}

/// The device at `host`, and its node's mode, owner and group.
fn source(host: &Path, writable: bool) -> Result<(Requested, (u32, u32, u32))> {
    let refused = |why: &str| {
        let guests: Vec<String> = GUEST_DEVICES.iter().map(|name| format!("/dev/{name}")).collect();
        Error::Invalid(format!(
            "the host's {host:?} {why}; a pod's VM can have block devices of the host, and of its own {}",
            guests.join(", ")
        ))
    };
    if let Some(name) = guests_own(host) {
        return Ok((Requested::Guest(name), (OPEN_MODE, 0, 0)));
    }
    let real = host.canonicalize().map_err(|e| refused(&format!("cannot be found ({e})")))?;
    if let Some(name) = guests_own(&real) {
        return Ok((Requested::Guest(name), (OPEN_MODE, 0, 0)));
    }
    let metadata = fs::metadata(&real).map_err(|e| refused(&format!("cannot be looked at ({e})")))?;
    let kind = metadata.file_type();
    if kind.is_dir() {
        return Err(refused("is a directory: name the devices in it one by one"));
    }
    if kind.is_char_device() {
        return Err(refused("is a character device of the host's kernel, which the guest's cannot use"));
    }
    if !kind.is_block_device() {
        return Err(refused("is no device"));
    }
    let number = metadata.rdev();
    let path = real.display().to_string();
    let device = HostDevice { path, major: major(number), minor: minor(number), writable };
    // Not exclusively: here it is only looked at.
    let bytes = size(&File::open(&real).map_err(|e| Error::io("open the device", &real, e))?, &device)?;
    Ok((Requested::Host { device, bytes }, (metadata.mode() & 0o777, metadata.uid(), metadata.gid())))
}

fn guests_own(path: &Path) -> Option<&'static str> {
    let plain: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    let name = plain.strip_prefix("/dev").ok()?;
    GUEST_DEVICES.into_iter().find(|known| Path::new(known) == name)
}

/// Bytes. The end of a block device is where a seek ends.
fn size(mut file: &File, device: &HostDevice) -> Result<u64> {
    match file.seek(SeekFrom::End(0)) {
        Ok(0) => Err(Error::State(format!("the device {:?} has no medium: its size is 0", device.path))),
        Ok(bytes) => Ok(bytes),
        Err(e) => Err(Error::io("find the size of", Path::new(&device.path), e)),
    }
}

/// Opens a device for the VMM; answers its size as well.
///
/// One that will be written to is opened exclusively: the host's kernel then sees to it that nobody else who says so
/// has it, whether mounted, below another device, or for another VM.
///
/// # Errors
/// [`Error::State`] when it is in use or not the same any more.
pub fn open(device: &HostDevice) -> Result<(File, u64)> {
    let path = Path::new(&device.path);
    let exclusive = if device.writable { nix::libc::O_EXCL } else { 0 };
    let flags = exclusive | nix::libc::O_NONBLOCK | nix::libc::O_NOFOLLOW;
    let opened = OpenOptions::new().read(true).write(device.writable).custom_flags(flags).open(path);
    let file = opened.map_err(|e| match e.raw_os_error() {
        Some(nix::libc::EBUSY) => Error::State(format!(
            "the device {path:?} is in use on the host: mounted, part of another device, or of another program's"
        )),
        Some(nix::libc::EROFS | nix::libc::EACCES | nix::libc::EPERM) if device.writable => Error::State(format!(
            "the device {path:?} is read-only on the host ({e}); ask for the permissions \"r\""
        )),
        _ => Error::io("open the device", path, e),
    })?;
    let metadata = file.metadata().map_err(|e| Error::io("look at", path, e))?;
    let number = metadata.rdev();
    if !metadata.file_type().is_block_device()
        || (major(number), minor(number)) != (device.major, device.minor)
    {
        return Err(Error::State(format!("the device {path:?} is another one than a moment ago; try again")));
    }
    let bytes = size(&file, device)?;
    Ok((file, bytes))
}

/// Whether a container with these media, of the pod `sandbox_id`, can be beside another. `has_vm` knows whether a
/// pod's VM may have its devices open.
///
/// # Errors
/// [`Error::State`], with the other.
pub fn check_beside(
    sandbox_id: &str,
    media: &[Medium],
    other: &ContainerRecord,
    has_vm: impl Fn(&str) -> bool,
) -> Result<()> {
    let others: Vec<&HostDevice> = other.media.iter().filter_map(|medium| medium.device.as_ref()).collect();
    for device in media.iter().filter_map(|medium| medium.device.as_ref()) {
        let same = |theirs: &&&HostDevice| (theirs.major, theirs.minor) == (device.major, device.minor);
        let Some(theirs) = others.iter().find(same) else { continue };
        let who = format!("container {} of sandbox {}", other.id, other.sandbox_id);
        if other.sandbox_id == sandbox_id {
            if theirs.writable != device.writable {
                return Err(Error::State(format!(
                    "the device {:?} is in the pod's VM for {who} with other permissions: in one pod all containers \
                     write to a device, or none does",
                    device.path
                )));
            }
        } else if (theirs.writable || device.writable) && has_vm(&other.sandbox_id) {
            return Err(Error::State(format!(
                "the device {:?} is used by {who}: two pods would corrupt what is on it, unless both only read \
                 (permissions \"r\"); remove that container first",
                device.path
            )));
        }
    }
    Ok(())
}

/// Refuses CDI devices: those that have the form of one as not served, others as malformed.
///
/// # Errors
/// [`Error::Invalid`], [`Error::Unsupported`].
pub fn check_cdi(devices: &[cri::CdiDevice]) -> Result<()> {
    for device in devices {
        if !is_cdi_name(&device.name) {
            return Err(Error::Invalid(format!(
                "CDI device {:?} is not of the form VENDOR/CLASS=NAME",
                device.name.chars().take(256).collect::<String>()
            )));
        }
    }
    match devices.first() {
        None => Ok(()),
        Some(device) => Err(Error::Unsupported(format!(
            "the CDI device {:?} cannot be passed into a pod's VM: no CDI device can yet",
            device.name.chars().take(256).collect::<String>()
        ))),
    }
}

/// A qualified name (CDI specification, "Device names"): vendor and class begin with a letter, the device's name with
/// a letter or digit, and all end with one of them.
fn is_cdi_name(name: &str) -> bool {
    let part = |text: &str, begins: fn(&u8) -> bool, within: &[u8]| {
        let bytes = text.as_bytes();
        bytes.first().is_some_and(begins)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || within.contains(byte))
    };
    let Some((kind, device)) = name.split_once('=') else { return false };
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    part(vendor, u8::is_ascii_alphabetic, b"_-.")
        && part(class, u8::is_ascii_alphabetic, b"_-")
        && part(device, u8::is_ascii_alphanumeric, b"_-.:")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str, container: &str, permissions: &str) -> cri::Device {
        cri::Device {
            host_path: host.into(),
            container_path: container.into(),
            permissions: permissions.into(),
        }
    }

    #[test]
    fn the_guests_own_devices_need_none_of_the_host() {
        let tun = requested(&asked("/dev/net/tun", "/dev/net/tun", "mrw")).unwrap().unwrap();
        assert_eq!((tun.source, tun.access.as_str(), tun.mode), (Requested::Guest("net/tun"), "rwm", 0o666));
        let elsewhere = requested(&asked("/dev/zero", "/data/zeroes", "r")).unwrap().unwrap();
        assert_eq!(
            (elsewhere.source, elsewhere.container),
            (Requested::Guest("zero"), "/data/zeroes".into())
        );
        for name in EVERYWHERE {
            let path = format!("/dev/{name}");
            assert_eq!(requested(&asked(&path, &path, "rwm")).unwrap(), None, "{name}");
        }
    }

    #[test]
    fn what_means_nothing_in_the_guest_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        for (device, word) in [
            (asked("/dev", "/dev/all", "r"), "directory"),
            (asked("/dev/ptmx", "/dev/x", "r"), "character device"),
            (asked(file.to_str().unwrap(), "/dev/x", "r"), "no device"),
            (asked("/dev/absent", "/dev/x", "r"), "/dev/absent"),
            (asked("dev/null", "/dev/x", "r"), "absolute"),
            (asked("/dev/zero", "/dev/null", "r"), "/dev/null"),
            (asked("/dev/fuse", "/dev/stdin", "r"), "/dev/stdin"),
            (asked("/dev/null", "/dev/x", ""), "one or more"),
            (asked("/dev/null", "/dev/x", "rwx"), "rwx"),
            (asked("/dev/null", "../x", "r"), "../x"),
        ] {
            match requested(&device) {
                Err(Error::Invalid(text)) => assert!(text.contains(word), "{word}: {text}"),
                other => panic!("{device:?}: {other:?}"),
            }
        }
    }

    fn medium(minor: u32, writable: bool) -> Medium {
        let device = HostDevice { path: "/dev/sda".into(), major: 8, minor, writable };
        Medium { device: Some(device), ..Default::default() }
    }

    #[test]
    fn one_pod_writes_or_all_read() {
        let other = |sandbox: &str, writable: bool| ContainerRecord {
            id: "other".into(),
            sandbox_id: sandbox.into(),
            media: vec![medium(7, false), medium(1, writable)],
            ..Default::default()
        };
        let check = |writable: bool, other: &ContainerRecord| {
            check_beside("pod", &[medium(1, writable)], other, |id| id != "stopped")
        };
        for (mine, theirs) in [(true, true), (true, false), (false, true)] {
            let refused = check(mine, &other("another", theirs)).unwrap_err();
            assert!(matches!(&refused, Error::State(text) if text.contains("another")), "{refused}");
            check(mine, &other("stopped", theirs)).unwrap();
        }
        check(false, &other("another", false)).unwrap();
        check(true, &other("pod", true)).unwrap();
        assert!(matches!(check(true, &other("pod", false)), Err(Error::State(_))));
        check_beside("pod", &[medium(2, true)], &other("another", true), |_| true).unwrap();
    }

    #[test]
    fn cdi_names_are_told_from_nonsense() {
        let check = |name: &str| check_cdi(&[cri::CdiDevice { name: name.into() }]);
        for name in ["vendor.com/gpu=gpu1", "v/c=0", "a-b_c.d/net-x=a:b.c"] {
            assert!(matches!(check(name), Err(Error::Unsupported(text)) if text.contains(name)), "{name}");
        }
        for name in [
            "",
            "gpu",
            "vendor/gpu",
            "vendor=gpu",
            "1v/c=d",
            "v/c.d=e",
            "v/c=",
            "v/c=-d",
            "v/c=d=e",
            "v./c=d",
        ] {
            assert!(matches!(check(name), Err(Error::Invalid(_))), "{name:?}");
        }
        check_cdi(&[]).unwrap();
    }
}
