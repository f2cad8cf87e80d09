//! Files of a container's root, opened by the agent: the container decides what the names lead to, so
//! symbolic links are resolved as if the root were `/` and never lead out of it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::{Gid, Uid, fchownat};

use crate::owner::Owner;

/// The most bytes read of a container's `/etc/passwd` or `/etc/group`.
const MAX_FILE: u64 = 1 << 20;

/// A container's root directory.
pub struct Root(OwnedFd);

impl Root {
    /// Opens the directory `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(nix::fcntl::open(path, flags, Mode::empty())?))
    }

    fn open_in(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        loop {
            match openat2(self.0.as_fd(), path, how) {
                // A rename raced with the look-up.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return other,
            }
        }
    }

    /// Reads a regular file of at most 1 MiB; `None` when there is none.
    pub fn read(&self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        // A FIFO must not block, a device must not act.
        let fd = match self.open_in(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let stat = fstat(&fd)?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        let mut content = Vec::new();
        File::from(fd).take(MAX_FILE + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_FILE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 MiB"));
        }
        Ok(Some(content))
    }

    /// Where the directory or regular file `path` really is: a path without links, as the agent names it. Of use only
    /// where nothing is renamed.
    pub fn place(&self, path: &Path) -> io::Result<PathBuf> {
        let fd = self.open_in(path, OFlag::O_PATH)?;
        match SFlag::from_bits_truncate(fstat(&fd)?.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR | SFlag::S_IFREG => {
                std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a directory nor a regular file")),
        }
    }

    /// The directory `path`.
    pub fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.open_in(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?)
    }

    /// Makes the directory `path` and those above it where they are missing, mode 0755.
    pub fn create_dir_all(&self, path: &Path, owner: Owner) -> io::Result<()> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let mut reached = Path::new("/").to_path_buf();
        for part in path.components() {
            let Component::Normal(name) = part else { continue };
            let parent = self.open_in(&reached, flags)?;
            reached.push(name);
            match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
                // What the agent makes is its own.
                Ok(()) if owner == Owner::default() => {}
                Ok(()) => {
                    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
                    fchownat(&parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
                }
                Err(Errno::EEXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.open_in(&reached, flags)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "s").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("real"), "inside").unwrap();
        symlink("/real", dir.path().join("etc/passwd")).unwrap();
        symlink(outside.path().join("secret"), dir.path().join("etc/group")).unwrap();
        symlink("../../../../real", dir.path().join("up")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert_eq!(root.read(Path::new("/etc/passwd")).unwrap().unwrap(), b"inside");
        assert_eq!(root.read(Path::new("/up")).unwrap().unwrap(), b"inside");
        assert!(root.read(Path::new("/etc/group")).unwrap().is_none());
    }

    #[test]
    fn places_are_inside() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("a/etc")).unwrap();
        fs::write(top.join("a/file"), "").unwrap();
        symlink("/etc", top.join("a/absolute")).unwrap();
        symlink("../../../../../../etc", top.join("a/climbing")).unwrap();
        symlink("/proc/self/root/etc", top.join("a/magic")).unwrap();
        nix::unistd::mkfifo(&top.join("a/fifo"), Mode::S_IRUSR).unwrap();
        let root = Root::open(&top.join("a")).unwrap();
        for path in ["etc", "/etc", "absolute", "climbing", "../../etc", "etc/../../../etc/."] {
            assert_eq!(root.place(Path::new(path)).unwrap(), top.join("a/etc"), "{path}");
        }
        assert_eq!(root.place(Path::new("file")).unwrap(), top.join("a/file"));
        assert_eq!(root.place(Path::new("/")).unwrap(), top.join("a"));
        for path in ["magic", "fifo", "absent", "file/x"] {
            assert!(root.place(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn odd_files_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        fs::write(dir.path().join("huge"), vec![b'x'; (1 << 20) + 1]).unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::S_IRUSR).unwrap();
        assert!(root.read(Path::new("huge")).is_err());
        assert!(root.read(Path::new("fifo")).is_err());
        assert!(root.read(Path::new("/")).is_err());
    }

    #[test]
    fn directories_are_made_inside() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        root.create_dir_all(Path::new("/a/b/c"), Owner::default()).unwrap();
        assert!(dir.path().join("a/b/c").is_dir());
        symlink(outside.path(), dir.path().join("out")).unwrap();
        assert!(root.create_dir_all(Path::new("/out/x"), Owner::default()).is_err());
        assert!(!outside.path().join("x").exists());
    }
}
