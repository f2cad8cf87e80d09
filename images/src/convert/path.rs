//! Names in archives, made relative to the image's root and nothing else.

use super::error::{ConvertError, show};

/// Longest path, in bytes (Linux PATH_MAX less its NUL).
pub(crate) const PATH_MAX: usize = 4095;
/// Longest name, in bytes (EROFS_NAME_LEN).
pub(crate) const NAME_MAX: usize = 255;

/// `raw` as `a/b/c`: absolute names lose their slash, `.` and doubled slashes vanish, and `..` is refused,
/// since no honest archive needs it. The root is the empty path.
pub(crate) fn normalise(raw: &[u8]) -> Result<Vec<u8>, ConvertError> {
    if raw.contains(&0) {
        return Err(ConvertError::malformed(format!("the name {} holds a NUL byte", show(raw))));
    }
    let mut path = Vec::with_capacity(raw.len());
    for part in raw.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(ConvertError::malformed(format!("the name {} holds \"..\"", show(raw)))),
            _ if part.len() > NAME_MAX => {
                return Err(ConvertError::malformed(format!("a part of {} is over 255 bytes", show(raw))));
            }
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    if path.len() > PATH_MAX {
        return Err(ConvertError::malformed(format!("the name {} is over 4095 bytes", show(raw))));
    }
    Ok(path)
}

/// Whether `path` is what [`normalise`] makes.
pub(crate) fn is_normal(path: &[u8]) -> bool {
    path.is_empty()
        || (path.len() <= PATH_MAX
            && !path.contains(&0)
            && path
                .split(|byte| *byte == b'/')
                .all(|part| !matches!(part, b"" | b"." | b"..") && part.len() <= NAME_MAX))
}

/// Splits a normalised path into its parent's path and its last name; none for the root.
pub(crate) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_confined() {
        assert_eq!(normalise(b"./a//b/./c/").unwrap(), b"a/b/c");
        assert_eq!(normalise(b"/etc/passwd").unwrap(), b"etc/passwd");
        assert_eq!(normalise(b"./").unwrap(), b"");
        for bad in [&b"../x"[..], b"a/../../x", b"a/..", b"..", b"a\0b"] {
            assert!(normalise(bad).is_err(), "{}", show(bad));
        }
        assert!(normalise(&[b'x'; 256]).is_err());
        assert!(normalise(&b"ab/".repeat(2000)).is_err());
    }

    #[test]
    fn split_finds_the_parent() {
        assert_eq!(split(b"a/b/c"), Some((&b"a/b"[..], &b"c"[..])));
        assert_eq!(split(b"a"), Some((&b""[..], &b"a"[..])));
        assert_eq!(split(b""), None);
    }
}
