//! The users that VMMs become: numbers of a range that is husk's alone, one for each pod.

use std::collections::HashSet;

use rustix::process::{Uid, getpriority_user};

use crate::error::{Error, Result};

/// A number of the range, whose ends are part of it but for the last, which is [`of_template`]'s, that is not `taken` by a
/// pod, and that no process of the host has: another husk may use the same range.
///
/// # Errors
/// [`Error::Exhausted`].
pub fn free(range: [u32; 2], taken: &HashSet<u32>) -> Result<u32> {
    let [first, last] = range;
    // From anywhere on, so that two that look at the same time, or one after the other, find different ones.
    let start = random(u64::from(last - first));
    (first + start..last)
        .chain(first..first + start)
        .find(|uid| !taken.contains(uid) && !in_use(*uid))
        .ok_or_else(|| {
            Error::Exhausted(format!(
                "each user from {first} to {} (vm.uid_range) has a pod or a process: remove pods, or widen it",
                last - 1
            ))
        })
}

/// The user of the VM that becomes a template: there is one at a time.
///
/// # Errors
/// [`Error::Unavailable`] when a process has it: that of another husk.
pub fn of_template([_, last]: [u32; 2]) -> Result<u32> {
    if in_use(last) {
        return Err(Error::Unavailable(format!("user {last}, the last of vm.uid_range, has a process")));
    }
    Ok(last)
}

/// Below `bound`.
fn random(bound: u64) -> u32 {
    let mut bytes = [0; 8];
    // Without random numbers the first will do.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    (u64::from_ne_bytes(bytes) % bound.max(1)) as u32
}

/// Has a process this user? The system says that there is no such process otherwise (getpriority(2), ESRCH).
fn in_use(uid: u32) -> bool {
    getpriority_user(Uid::from_raw(uid)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_found_once_and_then_none() {
        let range = [1_990_000_000, 1_990_000_010];
        let mut taken = HashSet::new();
        for _ in 0..10 {
            let uid = free(range, &taken).unwrap();
            assert!((range[0]..range[1]).contains(&uid) && taken.insert(uid));
        }
        let error = free(range, &taken).unwrap_err();
        assert!(
            matches!(error, Error::Exhausted(_)) && error.to_string().contains("vm.uid_range"),
            "{error}"
        );
        taken.remove(&1_990_000_004);
        assert_eq!(free(range, &taken).unwrap(), 1_990_000_004);
    }

    #[test]
    fn a_number_that_a_process_has_is_not_free() {
        let own = rustix::process::getuid().as_raw();
        assert!(free([own, own + 1], &HashSet::new()).is_err());
        assert!(of_template([own.saturating_sub(1), own]).is_err());
        assert_eq!(of_template([1_990_000_000, 1_990_000_010]).unwrap(), 1_990_000_010);
    }
}
