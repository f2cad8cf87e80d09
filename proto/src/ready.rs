//! What the agent tells of its guest's start.

/// Microseconds of the guest's monotonic clock, which begins with its kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadyTimes {
    /// When the agent, the guest's first process, began.
    pub init: u64,
    /// When it listened.
    pub listening: u64,
}

impl ReadyTimes {
    /// Bytes that they take on [`crate::READY_PORT`].
    pub const BYTES: usize = 16;

    /// Both in little-endian order.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let both = u128::from(self.listening) << 64 | u128::from(self.init);
        both.to_le_bytes()
    }

    /// The reverse. Every value is one.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let both = u128::from_le_bytes(bytes);
        Self { init: both as u64, listening: (both >> 64) as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_back_as_they_went() {
        let times = ReadyTimes { init: 1, listening: u64::MAX - 1 };
        let bytes = times.to_bytes();
        assert_eq!((bytes[0], bytes[8]), (1, 0xfe));
        assert_eq!(ReadyTimes::from_bytes(bytes), times);
    }
}
