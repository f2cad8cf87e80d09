//! A device's configuration space. Drivers of our devices only read it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes of the configuration space, and how often they have changed.
#[derive(Debug, Default)]
pub struct ConfigSpace {
    bytes: Mutex<Vec<u8>>,
    generation: AtomicU32,
}

impl ConfigSpace {
    /// A space with `bytes` in it.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Mutex::new(bytes), generation: AtomicU32::new(0) }
    }

    /// Reads; what lies past the end is zero.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        into.fill(0);
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let from = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let length = from.len().min(into.len());
        into[..length].copy_from_slice(&from[..length]);
    }

    /// Replaces bytes. The driver reads again when the generation changes while it reads.
    pub fn update(&self, offset: usize, new: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = bytes.get_mut(offset..offset + new.len()) {
            place.copy_from_slice(new);
            self.generation.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// `ConfigGeneration`.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_bounded_and_updates_counted() {
        let space = ConfigSpace::new(vec![1, 2, 3, 4]);
        let mut bytes = [9; 4];
        space.read(2, &mut bytes);
        assert_eq!(bytes, [3, 4, 0, 0]);
        space.read(u64::MAX, &mut bytes);
        assert_eq!(bytes, [0; 4]);
        space.update(0, &[7, 8]);
        assert_eq!(space.generation(), 1);
        space.read(0, &mut bytes);
        assert_eq!(bytes, [7, 8, 3, 4]);
    }
}
