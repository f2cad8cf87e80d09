//! Sparse files in archives: GNU tar's old format, and its three formats in PAX records (GNU tar manual, "Storing
//! Sparse Files"). The archive holds the parts that are not holes, one behind the other.

use super::error::ConvertError;
use super::pax::decimal;

/// Most parts of one file.
pub(super) const PARTS_MAX: usize = 1 << 16;

/// A part of a file that the archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What PAX records say of a sparse file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) name: Option<Vec<u8>>,
    major: Option<u64>,
    minor: Option<u64>,
    /// The file's size, by either of its keys.
    size: Option<u64>,
    /// Offsets and lengths in turn: `map`, or `offset` and `numbytes` again and again.
    numbers: Vec<u64>,
}

impl Records {
    /// Takes the record `GNU.sparse.KEY`. None where it makes no sense with those before it.
    pub(crate) fn take(&mut self, key: &[u8], value: &[u8]) -> Result<Option<()>, ConvertError> {
        fn set<T>(slot: &mut Option<T>, value: T) -> Option<()> {
            slot.replace(value).is_none().then_some(())
        }
        Ok(match key {
            b"name" => set(&mut self.name, value.to_vec()),
            b"major" => set(&mut self.major, decimal(value)?),
            b"minor" => set(&mut self.minor, decimal(value)?),
            b"size" | b"realsize" => set(&mut self.size, decimal(value)?),
            b"map" if self.numbers.is_empty() && !value.is_empty() => {
                for number in value.split(|byte| *byte == b',') {
                    self.push(decimal(number)?)?;
                }
                Some(())
            }
            b"offset" if self.numbers.len().is_multiple_of(2) => self.push(decimal(value)?)?,
            b"numbytes" if self.numbers.len() % 2 == 1 => self.push(decimal(value)?)?,
            // How many parts there are is seen anyway.
            b"numblocks" => Some(()),
            _ => None,
        })
    }

    fn push(&mut self, number: u64) -> Result<Option<()>, ConvertError> {
        if self.numbers.len() >= 2 * PARTS_MAX {
            return Err(too_many());
        }
        self.numbers.push(number);
        Ok(Some(()))
    }

    /// Whether the map stands before the contents (format 1.0). False for the formats whose map is in records.
    pub(crate) fn map_in_contents(&self) -> Result<bool, ConvertError> {
        match (self.major, self.minor) {
            (Some(1), Some(0)) => Ok(true),
            (None | Some(0), None | Some(0 | 1)) => Ok(false),
            (major, minor) => Err(ConvertError::Unsupported(format!(
                "a sparse file of format {}.{}",
                major.unwrap_or_default(),
                minor.unwrap_or_default()
            ))),
        }
    }

    /// The file's size and its map, as far as records have it.
    pub(crate) fn into_map(self) -> Result<(u64, Vec<u64>), ConvertError> {
        let size = self.size.ok_or_else(|| ConvertError::malformed("a sparse file has no size"))?;
        Ok((size, self.numbers))
    }
}

/// The map that stands before a file's contents (format 1.0): lines of decimal numbers, the first of which is the
/// number of parts.
#[derive(Debug, Default)]
pub(crate) struct MapReader {
    parts: Option<u64>,
    numbers: Vec<u64>,
    line: Vec<u8>,
}

impl MapReader {
    /// Takes a block; true once the map is complete.
    pub(crate) fn take(&mut self, block: &[u8]) -> Result<bool, ConvertError> {
        for byte in block {
            if self.is_complete() {
                return Ok(true);
            }
            if *byte != b'\n' {
                // Twenty digits are the most that a number has.
                if self.line.len() >= 20 {
                    return Err(ConvertError::malformed("a sparse file's map holds no number"));
                }
                self.line.push(*byte);
                continue;
            }
            let number = decimal(&self.line)?;
            self.line.clear();
            match self.parts {
                None if number > PARTS_MAX as u64 => return Err(too_many()),
                None => self.parts = Some(number),
                Some(_) => self.numbers.push(number),
            }
        }
        Ok(self.is_complete())
    }

    fn is_complete(&self) -> bool {
        self.parts.is_some_and(|parts| self.numbers.len() as u64 == parts * 2)
    }

    pub(crate) fn into_numbers(self) -> Vec<u64> {
        self.numbers
    }
}

/// The parts of a file of `size` bytes of which the archive holds `packed`: in order, apart, inside.
pub(crate) fn parts(numbers: &[u64], size: u64, packed: u64) -> Result<Vec<Part>, ConvertError> {
    let bad = || ConvertError::malformed("a sparse file's map does not fit its size");
    if !numbers.len().is_multiple_of(2) {
        return Err(bad());
    }
    if numbers.len() > 2 * PARTS_MAX {
        return Err(too_many());
    }
    let mut parts = Vec::with_capacity(numbers.len() / 2);
    let (mut end, mut held) = (0_u64, 0_u64);
    for pair in numbers.chunks_exact(2) {
        let part = Part { offset: pair[0], length: pair[1] };
        if part.offset < end {
            return Err(bad());
        }
        end = part.offset.checked_add(part.length).filter(|end| *end <= size).ok_or_else(bad)?;
        held += part.length;
        // GNU tar says where a file that ends in a hole ends by an empty part.
        if part.length != 0 {
            parts.push(part);
        }
    }
    if held != packed {
        return Err(bad());
    }
    Ok(parts)
}

pub(super) fn too_many() -> ConvertError {
    ConvertError::TooLarge(format!("a sparse file of over {PARTS_MAX} parts"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_must_fit() {
        let part = |offset, length| Part { offset, length };
        assert_eq!(parts(&[0, 5, 10, 0], 10, 5).unwrap(), [part(0, 5)]);
        assert_eq!(parts(&[3, 5, 8, 1], 10, 6).unwrap(), [part(3, 5), part(8, 1)]);
        assert_eq!(parts(&[], 1 << 40, 0).unwrap(), []);
        for (numbers, size, packed) in [
            (&[0][..], 10, 0),
            (&[5, 1, 4, 1], 10, 2),
            (&[0, 5, 4, 1], 10, 6),
            (&[9, 2], 10, 2),
            (&[u64::MAX, 2], u64::MAX, 2),
            (&[0, 5], 10, 4),
            (&[0, 5], 10, 6),
        ] {
            assert!(parts(numbers, size, packed).is_err(), "{numbers:?} of {size}");
        }
    }

    #[test]
    fn a_map_before_the_contents_is_read_to_its_end() {
        let mut map = MapReader::default();
        assert!(!map.take(b"2\n0\n5\n10").unwrap());
        assert!(map.take(b"0\n7\n\0\0\0").unwrap());
        assert_eq!(map.into_numbers(), [0, 5, 100, 7]);
        assert!(MapReader::default().take(b"0\n\0\0").unwrap());
        for bad in [&b"x\n"[..], b"\n", b"-1\n", b"99999999\n", b"1\n\n", &[b'1'; 30]] {
            assert!(MapReader::default().take(bad).is_err(), "{}", crate::convert::error::show(bad));
        }
    }
}
