//! The guest's CPUs: how many are online (kernel's Documentation/core-api/cpu_hotplug.rst).

use std::fs;
use std::path::Path;

use crate::error::{Context, Error, Result};

const CPUS: &str = "/sys/devices/system/cpu";

/// Brings CPUs online or offline until `wanted` are online, or as many as there are; answers how many are then. The
/// lowest numbers are online.
pub fn set_online(wanted: u32) -> Result<u32> {
    set_below(Path::new(CPUS), wanted)
}

fn set_below(cpus: &Path, wanted: u32) -> Result<u32> {
    if wanted == 0 {
        return Err(Error::Invalid("no CPU online: ask for one or more".into()));
    }
    let mut online = 0;
    for number in numbers(cpus, "present")? {
        let switch = cpus.join(format!("cpu{number}/online"));
        // The first CPU may have no switch: it is always online.
        let Ok(now) = fs::read_to_string(&switch) else {
            online += 1;
            continue;
        };
        let target = online < wanted;
        if (now.trim() == "1") != target {
            fs::write(&switch, if target { "1" } else { "0" })
                .context(|| format!("switching CPU {number} {}", if target { "on" } else { "off" }))?;
        }
        online += u32::from(target);
    }
    Ok(online)
}

/// The numbers of those that are online.
pub fn online() -> Result<Vec<u32>> {
    numbers(Path::new(CPUS), "online")
}

/// The numbers in a list such as "0-3,5".
fn numbers(cpus: &Path, list: &str) -> Result<Vec<u32>> {
    let path = cpus.join(list);
    let text = fs::read_to_string(&path).context(|| format!("reading {}", path.display()))?;
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) else {
            return Err(Error::Internal(format!("{} says {text:?}", path.display())));
        };
        numbers.extend(first..=last);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_are_online() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("present"), "0-2,5\n").unwrap();
        for number in [0, 1, 2, 5] {
            fs::create_dir(dir.path().join(format!("cpu{number}"))).unwrap();
        }
        let switch = |number: u32| dir.path().join(format!("cpu{number}/online"));
        for (number, value) in [(1, "0\n"), (2, "1\n"), (5, "0\n")] {
            fs::write(switch(number), value).unwrap();
        }
        let state = || [1, 2, 5].map(|n| fs::read_to_string(switch(n)).unwrap().trim().to_owned());
        assert_eq!(set_below(dir.path(), 2).unwrap(), 2);
        assert_eq!(state(), ["1", "0", "0"]);
        assert_eq!(set_below(dir.path(), 9).unwrap(), 4);
        assert_eq!(state(), ["1", "1", "1"]);
        assert_eq!(set_below(dir.path(), 1).unwrap(), 1);
        assert_eq!(state(), ["0", "0", "0"]);
        assert!(matches!(set_below(dir.path(), 0), Err(Error::Invalid(_))));
    }
}
