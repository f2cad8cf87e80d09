//! User namespaces for mounts: which ids a volume's files have (mount_setattr(2), MOUNT_ATTR_IDMAP).

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::sys;
use crate::error::{Error, Result};
use crate::id_mappings::IdMappings;

/// The namespaces that some mounts need, each made once.
#[derive(Default)]
pub struct UserNamespaces(Vec<(IdMappings, File)>);

impl UserNamespaces {
    /// The one with those ids.
    pub fn of(&mut self, mappings: IdMappings) -> Result<&File> {
        let index = match self.0.iter().position(|(known, _)| *known == mappings) {
            Some(index) => index,
            None => {
                self.0.push((mappings, make(&mappings)?));
                self.0.len() - 1
            }
        };
        Ok(&self.0[index].1)
    }
}

/// Makes a user namespace with those ids. Only who is outside may say which, so a process has to be inside until it
/// is said; a descriptor keeps the namespace from then on.
fn make(mappings: &IdMappings) -> Result<File> {
    let failed = |e: io::Error| Error::io("make a user namespace for", Path::new("volumes"), e);
    let inside = sys::wait_in_user_namespace().map_err(failed)?;
    let made = open(inside, mappings);
    let _ = kill(inside, Signal::SIGKILL);
    let _ = waitpid(inside, None);
    made.map_err(failed)
}

fn open(inside: Pid, mappings: &IdMappings) -> io::Result<File> {
    let of = |name: &str| format!("/proc/{inside}/{name}");
    fs::write(of("uid_map"), mappings.users.line())?;
    fs::write(of("gid_map"), mappings.groups.line())?;
    File::open(of("ns/user"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use husk_proto::cri;

    use super::*;

    fn mappings(host_id: u32) -> IdMappings {
        let range = vec![cri::IdMapping { host_id, container_id: 0, length: 10 }];
        let mount = cri::Mount { uid_mappings: range.clone(), gid_mappings: range, ..Default::default() };
        IdMappings::of_mount(&mount).unwrap().unwrap()
    }

    /// Needs root, as the daemon does.
    #[test]
    fn namespaces_are_made_once_and_stay() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let number = |file: &File| file.metadata().unwrap().ino();
        let own = std::fs::metadata("/proc/self/ns/user").unwrap().ino();
        let mut namespaces = UserNamespaces::default();
        let first = number(namespaces.of(mappings(1000)).unwrap());
        let second = number(namespaces.of(mappings(2000)).unwrap());
        assert!(first != own && second != own && first != second);
        assert_eq!(number(namespaces.of(mappings(1000)).unwrap()), first);
    }
}
