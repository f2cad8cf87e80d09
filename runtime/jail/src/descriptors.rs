//! Descriptors that a process has inherited.

use std::os::fd::RawFd;

use crate::{JailError, sys};

/// The first after standard input, output and error.
const FIRST: RawFd = 3;

/// Closes every descriptor above standard error but those in `kept`. To be called as a process begins: before it has
/// opened a descriptor of its own.
///
/// # Errors
/// What the system says.
pub fn close_all_but(kept: &[RawFd]) -> Result<(), JailError> {
    gaps(kept).into_iter().try_for_each(|(first, last)| {
        sys::close_range(first, last).map_err(JailError::at("closing descriptors"))
    })
}

/// The ranges between them, both ends included.
fn gaps(kept: &[RawFd]) -> Vec<(RawFd, RawFd)> {
    let mut kept: Vec<RawFd> = kept.iter().copied().filter(|fd| *fd >= FIRST).collect();
    kept.sort_unstable();
    let mut gaps = Vec::new();
    let mut first = FIRST;
    for fd in kept {
        if first < fd {
            gaps.push((first, fd - 1));
        }
        first = fd.saturating_add(1);
    }
    gaps.push((first, RawFd::MAX));
    gaps
}

#[cfg(test)]
mod tests {
    use super::gaps;

    #[test]
    fn what_is_kept_is_in_no_gap() {
        let max = i32::MAX;
        assert_eq!(gaps(&[]), [(3, max)]);
        assert_eq!(gaps(&[3, 4]), [(5, max)]);
        assert_eq!(gaps(&[9, 3, 3, 1]), [(4, 8), (10, max)]);
    }
}
