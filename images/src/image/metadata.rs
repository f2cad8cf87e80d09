//! How an entry's metadata is set on a file: as containerd does it, with what Linux then makes of it.

use super::acl;
use super::merge::{Inode, InodeKind};
use crate::convert::error::{ConvertError, show};
use crate::tree::{XATTRS_MAX, Xattr};

/// The last second that containerd sets; what lies outside becomes the first of 1970.
const MTIME_MAX: i64 = i64::MAX / 1_000_000_000;
const SECURITY: u8 = 6;
const USER: u8 = 1;
pub(super) const ACL_ACCESS: u8 = 2;
const ACL_DEFAULT: u8 = 3;

/// What an entry says of a file besides its kind and contents.
#[derive(Debug, Default)]
pub(super) struct Metadata {
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) mtime_nsec: u32,
    pub(super) xattrs: Vec<Xattr>,
}

impl Inode {
    /// Gives the file `new` owners, attributes, mode and time, in this order. Attributes that it has and `new`
    /// does not name stay; `path` is for the error when they become too many.
    pub(super) fn set(&mut self, new: Metadata, path: &[u8]) -> Result<(), ConvertError> {
        (self.uid, self.gid) = (new.uid, new.gid);
        let is_dir = matches!(self.kind, InodeKind::Dir { .. });
        if !is_dir && let Ok(at) = self.find((SECURITY, b"capability")) {
            // Linux takes a file's capabilities with every change of its owner, even to the same.
            self.xattrs.remove(at);
        }
        for xattr in new.xattrs {
            if !self.can_have(xattr.prefix) {
                continue;
            }
            match self.find(xattr.key()) {
                Ok(at) => self.xattrs[at] = xattr,
                Err(at) => self.xattrs.insert(at, xattr),
            }
        }
        if self.xattrs.iter().map(Xattr::size).sum::<usize>() > XATTRS_MAX {
            let what = format!("the links to {} have over 64 KiB of extended attributes", show(path));
            return Err(ConvertError::TooLarge(what));
        }
        if let InodeKind::Symlink(_) = self.kind {
            self.mode = 0o777;
        } else {
            self.mode = new.mode;
            acl::change_mode(&mut self.xattrs, new.mode);
        }
        let is_settable = (0..=MTIME_MAX).contains(&new.mtime);
        (self.mtime, self.mtime_nsec) = if is_settable { (new.mtime, new.mtime_nsec) } else { (0, 0) };
        Ok(())
    }

    fn find(&self, key: (u8, &[u8])) -> Result<usize, usize> {
        self.xattrs.binary_search_by(|xattr| xattr.key().cmp(&key))
    }

    /// Whether Linux gives such a file attributes of that prefix; containerd passes over the others.
    fn can_have(&self, prefix: u8) -> bool {
        match self.kind {
            InodeKind::Dir { .. } | InodeKind::File { .. } => true,
            InodeKind::Symlink(_) => !matches!(prefix, USER | ACL_ACCESS | ACL_DEFAULT),
            _ => prefix != USER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(kind: InodeKind) -> Inode {
        Inode { kind, mode: 0, uid: 0, gid: 0, mtime: 0, mtime_nsec: 0, xattrs: Vec::new() }
    }

    fn regular() -> Inode {
        file(InodeKind::File { layer: 0, offset: 0, size: 0 })
    }

    fn with(xattrs: &[(&str, &[u8])]) -> Metadata {
        let xattrs =
            xattrs.iter().map(|(name, value)| Xattr::parse(name.as_bytes(), value).unwrap()).collect();
        Metadata { mode: 0o644, xattrs, ..Metadata::default() }
    }

    fn names(inode: &Inode) -> Vec<String> {
        inode.xattrs.iter().map(|x| format!("{}{}", x.prefix, String::from_utf8_lossy(&x.name))).collect()
    }

    #[test]
    fn attributes_are_added_and_capabilities_go() {
        let mut inode = regular();
        inode.set(with(&[("user.a", b"1"), ("user.c", b"1"), ("security.capability", b"c")]), b"f").unwrap();
        inode.set(with(&[("user.b", b"2"), ("user.c", b"2")]), b"f").unwrap();
        assert_eq!(names(&inode), ["1a", "1b", "1c"]);
        assert_eq!(inode.xattrs[2].value, b"2");
        inode.set(with(&[("security.capability", b"d")]), b"f").unwrap();
        assert_eq!(names(&inode), ["1a", "1b", "1c", "6capability"]);
    }

    #[test]
    fn many_links_give_a_file_no_more_attributes_than_one_entry_may_have() {
        let mut inode = regular();
        let value = vec![0; 40 << 10];
        inode.set(with(&[("user.a", &value)]), b"f").unwrap();
        inode.set(with(&[("user.a", &value)]), b"f").unwrap();
        let more = inode.set(with(&[("user.b", &value)]), b"f");
        assert!(matches!(more, Err(ConvertError::TooLarge(_))));
    }

    #[test]
    fn what_linux_does_not_take_is_passed_over() {
        let all = || with(&[("user.a", b""), ("system.posix_acl_default", b""), ("security.x", b"")]);
        let mut link = file(InodeKind::Symlink(b"to".to_vec()));
        link.set(all(), b"l").unwrap();
        assert_eq!((names(&link), link.mode), (vec!["6x".to_owned()], 0o777));
        let mut pipe = file(InodeKind::Fifo);
        pipe.set(all(), b"p").unwrap();
        assert_eq!((names(&pipe), pipe.mode), (vec!["3".to_owned(), "6x".to_owned()], 0o644));
    }

    #[test]
    fn times_that_containerd_does_not_set_are_the_first_of_1970() {
        for (mtime, found) in [(-1, 0), (5, 5), (MTIME_MAX, MTIME_MAX), (MTIME_MAX + 1, 0), (i64::MIN, 0)] {
            let mut inode = regular();
            inode.set(Metadata { mtime, mtime_nsec: 7, ..Metadata::default() }, b"f").unwrap();
            assert_eq!((inode.mtime, inode.mtime_nsec), (found, if found == 0 { 0 } else { 7 }), "{mtime}");
        }
    }
}
