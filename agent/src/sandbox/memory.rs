//! Memory that comes while the guest runs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Context, Result};

const BLOCKS: &str = "/sys/devices/system/memory";

/// How long the kernel may take to make use of what its driver has plugged.
const LIMIT: Duration = Duration::from_secs(10);

/// Waits until `mib` MiB of memory are the kernel's to use: it counts pieces that come as a whole, of which the driver
/// may have plugged a part. Answers how many are then, or when the time is up.
pub async fn wait_for(mib: u32) -> Result<u32> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let map = fs::read_to_string("/proc/iomem").context(|| "reading /proc/iomem")?;
        let have = ram_mib(&map);
        if (have >= mib && all_online(Path::new(BLOCKS))?) || begun.elapsed() > LIMIT {
            return Ok(have);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// MiB of all ranges of memory, whole ones even where the machine's first MiB has holes.
fn ram_mib(iomem: &str) -> u32 {
    let ranges = iomem.lines().filter_map(|line| {
        let (range, name) = line.trim_start().split_once(" : ")?;
        let (first, last) = range.split_once('-').filter(|_| name.starts_with("System RAM"))?;
        let [first, last] = [first, last].map(|address| u64::from_str_radix(address, 16).ok());
        last?.checked_sub(first?)
    });
    let bytes = ranges.fold(1 << 20, |sum: u64, bytes| sum.saturating_add(bytes + 1));
    u32::try_from(bytes >> 20).unwrap_or(u32::MAX)
}

fn all_online(blocks: &Path) -> Result<bool> {
    let entries = fs::read_dir(blocks).context(|| format!("reading {}", blocks.display()))?;
    for entry in entries {
        let entry = entry.context(|| format!("reading {}", blocks.display()))?;
        match fs::read_to_string(entry.path().join("online")) {
            Ok(text) if text.trim() != "1" => return Ok(false),
            // Files beside the blocks, and a block that has just gone.
            _ => {}
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_memory_are_summed() {
        let map = "00000000-00000fff : Reserved\n00001000-0009fbff : System RAM\n000e0000-000fffff : Reserved\n\
                   00100000-0fffffff : System RAM\n  01000000-01ffffff : Kernel code\nd0000000-d0000fff : LNRO0005:00\n\
                   100000000-107ffffff : virtio0\n  100000000-107ffffff : System RAM (virtio_mem)\n";
        assert_eq!(ram_mib(map), 384);
        assert_eq!(ram_mib("junk\nzz-yy : System RAM\n5-1 : System RAM"), 1);
    }

    #[test]
    fn a_block_that_is_offline_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        for number in [0, 32] {
            let block = dir.path().join(format!("memory{number}"));
            fs::create_dir(&block).unwrap();
            fs::write(block.join("online"), "1\n").unwrap();
        }
        fs::write(dir.path().join("block_size_bytes"), "8000000\n").unwrap();
        assert!(all_online(dir.path()).unwrap());
        fs::write(dir.path().join("memory32/online"), "0\n").unwrap();
        assert!(!all_online(dir.path()).unwrap());
    }
}
