//! Lines of `/proc/self/mountinfo` (proc(5)).

use std::path::PathBuf;

/// The table of this process's mounts.
pub const TABLE: &str = "/proc/self/mountinfo";

/// The mount's number, as statx(2) tells it of what lies on the mount: the first field.
pub fn id(line: &str) -> Option<u64> {
    line.split(' ').next()?.parse().ok()
}

/// Where in its file system the mount's root is: the fourth field, its escapes undone.
pub fn root(line: &str) -> Option<PathBuf> {
    unescaped(line.split(' ').nth(3)?)
}

/// The mount point of a line: the fifth field, its escapes undone.
pub fn mount_point(line: &str) -> Option<PathBuf> {
    unescaped(line.split(' ').nth(4)?)
}

fn unescaped(field: &str) -> Option<PathBuf> {
    let mut parts = field.split('\\');
    let mut path = parts.next()?.to_owned();
    for part in parts {
        let (code, rest) = part.split_at_checked(3)?;
        path.push(char::from(u8::from_str_radix(code, 8).ok()?));
        path.push_str(rest);
    }
    Some(path.into())
}

/// The file system's type and its own options: the first and third field behind the hyphen.
pub fn file_system(line: &str) -> Option<(&str, &str)> {
    let (_, rest) = line.split_once(" - ")?;
    let mut fields = rest.split(' ');
    Some((fields.next()?, fields.nth(1)?))
}

/// The device number of the file system, as "major:minor": the third field.
pub fn device(line: &str) -> Option<&str> {
    line.split(' ').nth(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn fields_are_read_and_escapes_undone() {
        let line =
            r"36 35 98:0 /mnt1 /run/a\040b\134c rw,noatime shared:1 - ext3 /dev/root rw,errors=continue";
        assert_eq!(id(line), Some(36));
        assert_eq!(root(line).as_deref(), Some(Path::new("/mnt1")));
        assert_eq!(mount_point(line).as_deref(), Some(Path::new(r"/run/a b\c")));
        assert_eq!(file_system(line), Some(("ext3", "rw,errors=continue")));
        assert_eq!(device(line), Some("98:0"));
        assert_eq!(file_system("1 2 3:4 / / rw - proc"), None);
        assert_eq!(mount_point("36 35"), None);
        assert_eq!(mount_point(r"1 2 3 4 /x\9 rw"), None);
    }
}
