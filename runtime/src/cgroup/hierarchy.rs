//! One mounted hierarchy of cgroups, version 1 or 2. Every name on the way to a cgroup is opened by itself and
//! without following links: a path never leads out of the hierarchy.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Access, AtFlags, FsWord, Mode, OFlags, access, mkdirat, open, openat, statfs, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::path::CgroupPath;
use crate::mountinfo;

/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const MAGIC: [FsWord; 2] = [0x0027_e0eb, 0x6367_7270];
/// The file of a cgroup's processes.
const PROCESSES: &str = "cgroup.procs";
/// What cgroups above a pod's are to hand down in version 2: what limits a pod, and what its figures need.
const CONTROLLERS: [&str; 4] = ["cpu", "io", "memory", "pids"];
/// Without a value for each of these a cgroup of version 1 takes no process.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];
/// No file of a cgroup that is read here is larger, bytes.
const MAX_FILE: u64 = 1 << 20;

/// A hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub root: PathBuf,
    /// Of version 1: its controllers, or the name of one without any. None: version 2.
    pub controllers: Option<Vec<String>>,
}

impl Hierarchy {
    /// Those that a table of mounts shows, each once.
    pub fn parse(mounts: &str) -> Vec<Hierarchy> {
        let mut seen = Vec::new();
        let mut found = Vec::new();
        for line in mounts.lines() {
            let (Some((kind, options)), Some(root), Some(device)) =
                (mountinfo::file_system(line), mountinfo::mount_point(line), mountinfo::device(line))
            else {
                continue;
            };
            let (key, controllers) = match kind {
                // There is one only, whatever the mounts of other namespaces' parts of it.
                "cgroup2" => ("", None),
                "cgroup" => {
                    let named = options.split(',').filter(|option| !matches!(*option, "rw" | "ro"));
                    (device, Some(named.map(str::to_owned).collect()))
                }
                _ => continue,
            };
            if !seen.contains(&key) {
                seen.push(key);
                found.push(Hierarchy { root, controllers });
            }
        }
        found
    }

    /// Is it there for whoever looks at its path, and can cgroups be made in it?
    pub fn is_usable(&self) -> bool {
        statfs(&self.root).is_ok_and(|stat| MAGIC.contains(&stat.f_type))
            && access(&self.root, Access::WRITE_OK).is_ok()
    }

    /// Has it, in version 1, this controller?
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.as_ref().is_some_and(|all| all.iter().any(|name| name == controller))
    }

    /// Makes a cgroup, and those above it that are not there.
    pub fn make(&self, path: &CgroupPath) -> io::Result<()> {
        let mut dir = self.open_root()?;
        for name in path.names() {
            let child = match open_child(&dir, name) {
                Err(Errno::NOENT) => {
                    self.hand_down(&dir);
                    match mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                        // Another pod was quicker.
                        Ok(()) | Err(Errno::EXIST) => open_child(&dir, name)?,
                        Err(e) => return Err(e.into()),
                    }
                }
                child => child?,
            };
            self.inherit(&dir, &child)?;
            dir = child;
        }
        Ok(())
    }

    /// The file by which a process joins a cgroup, by writing "0" to it.
    pub fn processes(&self, path: &CgroupPath) -> io::Result<File> {
        write_only(&self.open(path)?, PROCESSES)
    }

    /// Its path.
    pub fn processes_path(&self, path: &CgroupPath) -> PathBuf {
        path.names().fold(self.root.clone(), |dir, name| dir.join(name)).join(PROCESSES)
    }

    /// Removes a cgroup without processes; it need not be there. What is above it stays: it is kubelet's, or other
    /// pods'.
    pub fn remove(&self, path: &CgroupPath) -> Result<(), Errno> {
        // Below what is no cgroup nothing was made.
        let absent = |outcome| match outcome {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            outcome => outcome,
        };
        let Some((parents, last)) = path.split_last() else { return Ok(()) };
        let parent = || {
            let root = open(&self.root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            parents.iter().try_fold(root, |dir, name| open_child(&dir, name))
        };
        absent(parent().and_then(|dir| unlinkat(&dir, last, AtFlags::REMOVEDIR)))
    }

    /// SIGKILL to every process of a cgroup.
    pub fn kill(&self, path: &CgroupPath) -> io::Result<()> {
        let dir = self.open(path)?;
        // Linux 5.14, version 2.
        match write_only(&dir, "cgroup.kill") {
            Ok(mut file) => return file.write_all(b"1"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        for pid in processes(&dir)? {
            let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            // Looked at again now that the descriptor holds the process: the number may have been used again.
            if processes(&dir)?.contains(&pid) {
                let _ = pidfd_send_signal(&pidfd, Signal::KILL);
            }
        }
        Ok(())
    }

    /// The text of one of a cgroup's files.
    pub fn read(&self, path: &CgroupPath, name: &str) -> io::Result<String> {
        read(&self.open(path)?, name)
    }

    fn open_root(&self) -> io::Result<OwnedFd> {
        Ok(open(&self.root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    }

    fn open(&self, path: &CgroupPath) -> io::Result<OwnedFd> {
        path.names().try_fold(self.open_root()?, |dir, name| Ok(open_child(&dir, name)?))
    }

    /// Lets the children of a cgroup have the controllers that it has, in version 2. As well as it goes: where
    /// it does not (processes in the cgroup itself, a controller used by version 1), limits are above, and figures
    /// are had elsewhere.
    fn hand_down(&self, dir: &OwnedFd) {
        if self.controllers.is_some() {
            return;
        }
        let available = read(dir, "cgroup.controllers").unwrap_or_default();
        for name in available.split_whitespace().filter(|name| CONTROLLERS.contains(name)) {
            if let Ok(mut file) = write_only(dir, "cgroup.subtree_control") {
                let _ = file.write_all(format!("+{name}").as_bytes());
            }
        }
    }

    /// Gives a cgroup of the cpuset controller, version 1, its parent's processors and memory where it has none.
    fn inherit(&self, parent: &OwnedFd, child: &OwnedFd) -> io::Result<()> {
        if !self.has("cpuset") {
            return Ok(());
        }
        for name in CPUSET {
            if read(child, name)?.trim().is_empty() {
                write_only(child, name)?.write_all(read(parent, name)?.as_bytes())?;
            }
        }
        Ok(())
    }
}

fn open_child(dir: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    openat(dir, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn write_only(dir: &OwnedFd, name: &str) -> io::Result<File> {
    Ok(openat(dir, name, OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?.into())
}

fn read(dir: &OwnedFd, name: &str) -> io::Result<String> {
    let file = openat(dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    File::from(file).take(MAX_FILE).read_to_string(&mut text)?;
    Ok(text)
}

fn processes(dir: &OwnedFd) -> io::Result<Vec<Pid>> {
    Ok(read(dir, PROCESSES)?.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect())
}

/// Does the error say that a name on the way is no directory, or a link?
pub fn leads_astray(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    [Errno::NOTDIR, Errno::LOOP].iter().any(|each| errno == Some(each.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_once_each() {
        let mounts = "\
            24 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            25 24 0:23 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            26 24 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            27 24 0:25 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n\
            28 1 0:23 /docker/a /var/lib/x/cpu ro - cgroup cgroup rw,cpu,cpuacct\n\
            29 1 0:30 / /var/lib/x/unified ro - cgroup2 cgroup2 rw\n";
        let found = Hierarchy::parse(mounts);
        let roots: Vec<_> = found.iter().map(|each| each.root.to_str().unwrap()).collect();
        assert_eq!(roots, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"]);
        assert!(found[0].has("cpuacct") && found[1].has("name=systemd"));
        assert!(!found[1].has("cpuacct") && found[2].controllers.is_none());
    }

    #[test]
    fn a_directory_of_that_name_is_no_hierarchy() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Hierarchy { root: dir.path().to_owned(), controllers: None }.is_usable());
    }

    #[test]
    fn a_link_on_the_way_leads_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("inside"), dir.path().join("outside"));
        std::fs::create_dir_all(inside.join("real")).unwrap();
        std::fs::create_dir_all(outside.join("husk-1")).unwrap();
        std::os::unix::fs::symlink(&outside, inside.join("link")).unwrap();
        std::fs::write(inside.join("file"), "").unwrap();
        let hierarchy = Hierarchy { root: inside.clone(), controllers: Some(vec!["memory".into()]) };
        let path = |parent: &str| CgroupPath::of_pod(parent, "", "1").unwrap().unwrap();
        for parent in ["/link", "/link/deeper", "/real/../link", "/file"] {
            let Ok(Some(path)) = CgroupPath::of_pod(parent, "", "1") else { continue };
            assert!(leads_astray(&hierarchy.make(&path).expect_err(parent)), "{parent}");
            hierarchy.remove(&path).unwrap();
        }
        assert!(outside.join("husk-1").is_dir() && !outside.join("deeper").exists());
        hierarchy.make(&path("/real/new")).unwrap();
        assert!(inside.join("real/new/husk-1").is_dir());
        hierarchy.remove(&path("/real/new")).unwrap();
        hierarchy.remove(&path("/real/new")).unwrap();
        hierarchy.remove(&path("/never/was")).unwrap();
        assert!(inside.join("real/new").is_dir() && !inside.join("real/new/husk-1").exists());
    }
}
