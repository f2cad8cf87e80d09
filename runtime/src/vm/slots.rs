//! Which block slot of a VM holds what.

use crate::error::{Error, Result};

/// Slot 0 is the pod's scratch disk; each other holds one image or device of the host, used by any number of
/// containers.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<Option<(String, usize)>>,
}

/// The slot of the pod's scratch disk.
pub const SCRATCH_SLOT: u8 = 0;

impl Slots {
    /// `count` slots, the first of which is the scratch disk's.
    pub fn new(count: u8) -> Slots {
        Slots { slots: vec![None; usize::from(count).saturating_sub(1)] }
    }

    /// One more user of an image, by its id, or of a device, by its number: its slot, and whether it must be attached first.
    pub fn take(&mut self, image: &str) -> Result<(u8, bool)> {
        if let Some((index, users)) = self.slots.iter_mut().enumerate().find_map(|(index, slot)| match slot {
            Some((held, users)) if held == image => Some((index, users)),
            _ => None,
        }) {
            *users += 1;
            return Ok((index as u8 + 1, false));
        }
        let index = self.slots.iter().position(Option::is_none).ok_or_else(|| {
            Error::Exhausted(format!(
                "all {} block slots of the pod are in use, one for each image and device; remove containers, or raise \
                 vm.block_slots",
                self.slots.len()
            ))
        })?;
        self.slots[index] = Some((image.to_owned(), 1));
        Ok((index as u8 + 1, true))
    }

    /// Notes a user of an image that an earlier daemon attached to `slot`.
    pub fn restore(&mut self, image: &str, slot: u8) {
        let Some(entry) = usize::from(slot).checked_sub(1).and_then(|index| self.slots.get_mut(index)) else {
            return;
        };
        match entry {
            Some((_, users)) => *users += 1,
            None => *entry = Some((image.to_owned(), 1)),
        }
    }

    /// The slots without an image; the scratch disk's is none of them.
    pub fn empty(&self) -> Vec<u8> {
        let empty = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_none());
        empty.map(|(index, _)| index as u8 + 1).collect()
    }

    /// One user less: the slot to be detached, if it was the last.
    pub fn release(&mut self, image: &str) -> Option<u8> {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if let Some((held, users)) = slot
                && held == image
            {
                *users -= 1;
                if *users == 0 {
                    *slot = None;
                    return Some(index as u8 + 1);
                }
                return None;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_attached_once_and_detached_after_its_last_user() {
        let mut slots = Slots::new(3);
        assert_eq!(slots.take("a").unwrap(), (1, true));
        assert_eq!(slots.take("a").unwrap(), (1, false));
        assert_eq!(slots.take("b").unwrap(), (2, true));
        assert!(matches!(slots.take("c"), Err(Error::Exhausted(_))));
        assert_eq!(slots.release("a"), None);
        assert_eq!(slots.release("a"), Some(1));
        assert_eq!(slots.release("a"), None);
        assert_eq!(slots.take("c").unwrap(), (1, true));
    }

    #[test]
    fn users_are_counted_again_after_a_restart() {
        let mut slots = Slots::new(3);
        slots.restore("a", 2);
        slots.restore("a", 2);
        slots.restore("x", 99);
        assert_eq!(slots.take("b").unwrap(), (1, true));
        assert_eq!(slots.release("a"), None);
        assert_eq!(slots.release("a"), Some(2));
        assert_eq!(slots.empty(), [2]);
    }
}
