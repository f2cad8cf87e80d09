//! Huge pages of 2 MiB (kernel's Documentation/admin-guide/mm/hugetlbpage.rst).

use std::fs;
use std::path::Path;

use crate::error::{Context, Error, Result};

const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const MIB: u32 = 2;

/// Sets `mib` MiB aside, or as much as the kernel can find; answers how much that is. What is in use stays.
pub fn set_aside(mib: u32) -> Result<u32> {
    set_in(Path::new(PAGES), mib)
}

fn set_in(file: &Path, mib: u32) -> Result<u32> {
    let have = || -> Result<u32> {
        let text = fs::read_to_string(file).context(|| format!("reading {}", file.display()))?;
        let pages: u32 =
            text.trim().parse().map_err(|_| Error::Internal(format!("{} says {text:?}", file.display())))?;
        Ok(pages.saturating_mul(MIB))
    };
    let wanted = mib.div_ceil(MIB);
    if have()? != wanted.saturating_mul(MIB) {
        fs::write(file, wanted.to_string()).context(|| format!("setting {wanted} huge pages aside"))?;
    }
    have()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_are_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nr_hugepages");
        fs::write(&file, "0\n").unwrap();
        assert_eq!(set_in(&file, 0).unwrap(), 0);
        assert_eq!(set_in(&file, 15).unwrap(), 16);
        assert_eq!(fs::read_to_string(&file).unwrap(), "8");
        fs::write(&file, "many\n").unwrap();
        assert!(set_in(&file, 2).is_err());
    }
}
