//! Names that come from the host and become parts of paths.

use crate::error::{Error, Result};

/// The longest container or exec id, in bytes.
const MAX_ID: usize = 128;

/// The longest serial of a virtio-blk device, in bytes (`VIRTIO_BLK_ID_BYTES`).
const MAX_SERIAL: usize = 20;

/// Checks a container's or exec's id: 1 to 128 characters of `[A-Za-z0-9_.-]`, not beginning with a dot.
pub fn check_id(what: &str, id: &str) -> Result<()> {
    check(what, id, MAX_ID)
}

/// Checks the serial of a block device: as an id, at most 20 characters.
pub fn check_serial(serial: &str) -> Result<()> {
    check("block device serial", serial, MAX_SERIAL)
}

fn check(what: &str, id: &str, max: usize) -> Result<()> {
    let fine = !id.is_empty()
        && id.len() <= max
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if fine {
        return Ok(());
    }
    let shown: String = id.chars().take(max).collect();
    Err(Error::Invalid(format!(
        "{what} {shown:?} must be 1 to {max} characters of [A-Za-z0-9_.-], not beginning with a dot"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn honest_ids_pass() {
        for id in ["a", "0a1b", "web-1_x.y", &"f".repeat(128)] {
            check_id("container id", id).unwrap();
        }
        check_serial("husk-slot-0").unwrap();
    }

    #[test]
    fn hostile_ids_do_not() {
        for id in ["", ".", "..", ".a", "a/b", "a b", "a\0", "ä", "a\n", "a,b", "a:b", &"f".repeat(129)] {
            assert!(matches!(check_id("container id", id), Err(Error::Invalid(_))), "{id:?}");
        }
        assert!(check_serial(&"s".repeat(21)).is_err());
    }
}
