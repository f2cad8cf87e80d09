//! Which ids a user namespace has (user_namespaces(7)).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The ids from the first one on, to be 0 and those that follow it inside.
///
/// There is none with the id 0 outside, none without ids, and none that has the highest number, which means no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(u32, u32)", try_from = "(u32, u32)")]
pub struct IdRange {
    first: u32,
    length: u32,
}

impl IdRange {
    /// `length` ids, of which the first is `inside` in the namespace and `first` out of it.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(inside: u32, first: u32, length: u32) -> Result<Self, BadIdRange> {
        if inside != 0 {
            return Err(BadIdRange::NotFromZero(inside));
        }
        if length == 0 {
            return Err(BadIdRange::Empty);
        }
        if first == 0 {
            return Err(BadIdRange::Root);
        }
        if first.checked_add(length).is_none() {
            return Err(BadIdRange::TooHigh { first, length });
        }
        Ok(Self { first, length })
    }

    /// The first id, outside.
    pub fn first(self) -> u32 {
        self.first
    }

    /// How many there are.
    pub fn length(self) -> u32 {
        self.length
    }

    /// The id outside for one inside; `None` when it has none.
    pub fn outside(self, id: u32) -> Option<u32> {
        if id < self.length { self.first.checked_add(id) } else { None }
    }

    /// As a line of uid_map and gid_map.
    pub fn line(self) -> String {
        format!("0 {} {}\n", self.first, self.length)
    }
}

impl From<IdRange> for (u32, u32) {
    fn from(range: IdRange) -> Self {
        (range.first, range.length)
    }
}

impl TryFrom<(u32, u32)> for IdRange {
    type Error = BadIdRange;

    fn try_from((first, length): (u32, u32)) -> Result<Self, BadIdRange> {
        Self::new(0, first, length)
    }
}

/// Why ids are no [`IdRange`]; as text it is to follow the name of the mappings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadIdRange {
    /// The first id inside is another one.
    NotFromZero(u32),
    /// There are none.
    Empty,
    /// The first id outside is 0.
    Root,
    /// They go up to the highest number, or beyond.
    TooHigh {
        /// The first id outside.
        first: u32,
        /// How many there are.
        length: u32,
    },
}

impl fmt::Display for BadIdRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFromZero(inside) => {
                write!(f, "begin with the container's id {inside}; they must with 0")
            }
            Self::Empty => f.write_str("are an empty range (length 0)"),
            Self::Root => f.write_str("have the id 0 outside, which may not be a container's"),
            Self::TooHigh { first, length } => {
                write!(f, "end after {}, the highest id: {length} from {first} on", u32::MAX - 1)
            }
        }
    }
}

impl std::error::Error for BadIdRange {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_begin_at_0_inside_and_end_before_the_highest_number() {
        let range = IdRange::new(0, 1000, 10).unwrap();
        assert_eq!((range.outside(0), range.outside(9), range.outside(10)), (Some(1000), Some(1009), None));
        assert_eq!((range.outside(u32::MAX), range.line().as_str()), (None, "0 1000 10\n"));
        let highest = IdRange::new(0, 1, u32::MAX - 1).unwrap();
        assert_eq!(highest.outside(u32::MAX - 2), Some(u32::MAX - 1));
        assert!(IdRange::new(0, u32::MAX - 1, 1).is_ok());
        for (asked, wrong) in [
            ((1, 1000, 10), BadIdRange::NotFromZero(1)),
            ((0, 1000, 0), BadIdRange::Empty),
            ((0, 0, 10), BadIdRange::Root),
            ((0, u32::MAX, 1), BadIdRange::TooHigh { first: u32::MAX, length: 1 }),
            ((0, 1, u32::MAX), BadIdRange::TooHigh { first: 1, length: u32::MAX }),
            ((0, 2, u32::MAX), BadIdRange::TooHigh { first: 2, length: u32::MAX }),
        ] {
            let (inside, first, length) = asked;
            assert_eq!(IdRange::new(inside, first, length), Err(wrong), "{asked:?}");
        }
    }

    #[test]
    fn what_was_written_is_checked_when_it_is_read() {
        let text = serde_json::to_string(&IdRange::new(0, 1000, 10).unwrap()).unwrap();
        let read = serde_json::from_str::<IdRange>(&text);
        assert_eq!(read.unwrap(), IdRange::new(0, 1000, 10).unwrap());
        for wrong in ["[0,1]", "[1,0]", "[1,4294967295]", "[1]"] {
            assert!(serde_json::from_str::<IdRange>(wrong).is_err(), "{wrong}");
        }
    }
}
