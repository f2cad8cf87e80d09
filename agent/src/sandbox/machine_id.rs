//! The guest's machine id (machine-id(5)), new in each guest, clones included.

use std::fs;
use std::path::Path;

use crate::error::{Context, Error, Result};

const MACHINE_ID: &str = "/etc/machine-id";
/// A version 4 UUID, another one at each reading.
const RANDOM_UUID: &str = "/proc/sys/kernel/random/uuid";

/// Writes a random one, and answers it.
pub fn renew() -> Result<String> {
    let uuid = fs::read_to_string(RANDOM_UUID).context(|| format!("reading {RANDOM_UUID}"))?;
    write(Path::new(MACHINE_ID), &uuid)
}

fn write(path: &Path, uuid: &str) -> Result<String> {
    let id: String = uuid.trim().chars().filter(|letter| *letter != '-').collect();
    if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::Internal(format!("{RANDOM_UUID} says {uuid:?}")));
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context(|| format!("making {}", parent.display()))?;
    }
    fs::write(path, format!("{id}\n")).context(|| format!("writing {}", path.display()))?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_digits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/machine-id");
        let id = write(&path, "0b8a1f6e-3f0c-4c11-9a3e-6d2f5f3c7a10\n").unwrap();
        assert_eq!(id, "0b8a1f6e3f0c4c119a3e6d2f5f3c7a10");
        assert_eq!(fs::read_to_string(&path).unwrap(), "0b8a1f6e3f0c4c119a3e6d2f5f3c7a10\n");
        assert!(write(&path, "").is_err() && write(&path, "zz").is_err());
    }
}
