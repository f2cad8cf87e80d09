//! POSIX access control lists (acl(5)) in the form of their extended attribute.

use super::metadata::ACL_ACCESS;
use crate::tree::Xattr;

/// `struct posix_acl_xattr_header` is the version, `struct posix_acl_xattr_entry` tag, permissions and id.
const HEADER: usize = 4;
const ENTRY: usize = 8;
const USER_OBJ: u16 = 1;
const GROUP_OBJ: u16 = 4;
const MASK: u16 = 16;
const OTHER: u16 = 32;

/// Does to the access list among `xattrs`, if there is one, what chmod(2) does: the owner's, the group's (or the
/// mask's) and the others' permissions become those of `mode`. A list that says no more than a mode goes.
pub(super) fn change_mode(xattrs: &mut Vec<Xattr>, mode: u16) {
    let Some(at) = xattrs.iter().position(|xattr| xattr.prefix == ACL_ACCESS) else { return };
    let value = &mut xattrs[at].value;
    if value.len() < HEADER || !(value.len() - HEADER).is_multiple_of(ENTRY) {
        // Not even a list: Linux refuses it whenever it reads it.
        return;
    }
    let entries = || value[HEADER..].chunks_exact(ENTRY).map(tag);
    if entries().all(|tag| matches!(tag, USER_OBJ | GROUP_OBJ | OTHER)) {
        xattrs.remove(at);
        return;
    }
    let masked = entries().any(|tag| tag == MASK);
    for entry in value[HEADER..].chunks_exact_mut(ENTRY) {
        let permissions = match tag(entry) {
            USER_OBJ => mode >> 6,
            MASK => mode >> 3,
            GROUP_OBJ if !masked => mode >> 3,
            OTHER => mode,
            _ => continue,
        };
        entry[2..4].copy_from_slice(&(permissions & 7).to_le_bytes());
    }
}

fn tag(entry: &[u8]) -> u16 {
    u16::from_le_bytes([entry[0], entry[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16)]) -> Vec<Xattr> {
        let mut value = vec![2, 0, 0, 0];
        for (tag, permissions) in entries {
            value.extend([&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &[0xff; 4]].concat());
        }
        vec![Xattr { prefix: ACL_ACCESS, name: Vec::new(), value }]
    }

    #[test]
    fn a_mode_changes_the_mask_and_not_what_is_below_it() {
        let mut found = list(&[(USER_OBJ, 6), (2, 6), (GROUP_OBJ, 4), (MASK, 6), (OTHER, 4)]);
        change_mode(&mut found, 0o4750);
        assert_eq!(found, list(&[(USER_OBJ, 7), (2, 6), (GROUP_OBJ, 4), (MASK, 5), (OTHER, 0)]));
    }

    #[test]
    fn a_list_that_is_a_mode_goes_and_none_that_is_broken() {
        let mut found = list(&[(USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 4)]);
        change_mode(&mut found, 0o644);
        assert_eq!(found, []);
        let mut broken = list(&[(USER_OBJ, 6)]);
        broken[0].value.pop();
        let before = broken.clone();
        change_mode(&mut broken, 0o644);
        assert_eq!(broken, before);
        change_mode(&mut Vec::new(), 0o644);
    }
}
