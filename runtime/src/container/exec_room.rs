//! How much of the outputs of commands is kept at a time: what they print is the tenants' to say, and the memory that it
//! takes until it is answered is the daemon's.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, Result};

/// The most of all commands together, bytes.
const ALL: usize = 64 << 20;
/// What each has beyond that, bytes: what a probe prints never waits for others.
const OWN: usize = 64 << 10;
/// What is given at a time, bytes.
const PIECE: usize = 64 << 10;

/// The room of the node.
pub struct ExecRoom(Semaphore);

/// What one command has of it.
pub struct Share<'a> {
    room: &'a ExecRoom,
    taken: Option<SemaphorePermit<'a>>,
    granted: usize,
    used: usize,
}

impl ExecRoom {
    /// All of it.
    pub fn new() -> Self {
        ExecRoom(Semaphore::new(ALL / PIECE))
    }

    /// One command's.
    pub fn share(&self) -> Share<'_> {
        Share { room: self, taken: None, granted: OWN, used: 0 }
    }
}

impl Share<'_> {
    /// Takes room for so many bytes more.
    ///
    /// # Errors
    /// [`Error::Exhausted`].
    pub fn take(&mut self, bytes: usize) -> Result<()> {
        self.used = self.used.saturating_add(bytes);
        let pieces = self.used.saturating_sub(self.granted).div_ceil(PIECE);
        if pieces == 0 {
            return Ok(());
        }
        let count = u32::try_from(pieces).unwrap_or(u32::MAX);
        let more = self.room.0.try_acquire_many(count).map_err(|_| {
            Error::Exhausted(format!(
                "the commands that run at the moment (ExecSync) have printed more than {} MiB together, and this one was \
                 killed: try again later, let it print less, or use Exec, which keeps nothing",
                ALL >> 20
            ))
        })?;
        self.granted += pieces * PIECE;
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_something_and_all_no_more_than_all() {
        let room = ExecRoom::new();
        let mut greedy = room.share();
        for _ in 0..ALL / PIECE {
            greedy.take(PIECE).unwrap();
        }
        greedy.take(OWN).unwrap();
        assert!(matches!(greedy.take(1), Err(Error::Exhausted(_))));
        let mut modest = room.share();
        modest.take(OWN).unwrap();
        assert!(modest.take(1).is_err());
        drop(greedy);
        room.share().take(ALL).unwrap();
    }
}
