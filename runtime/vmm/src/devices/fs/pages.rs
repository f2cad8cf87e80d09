//! Which pages of a buffer are taken.

/// The unit in which buffers are given out.
pub const PAGE_BYTES: u64 = 4096;

/// The pages. The lowest that do are given out, so that the same few are used again and again.
pub struct Pages(Vec<bool>);

/// Pages that follow each other.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    first: usize,
    count: usize,
}

impl Place {
    /// Bytes before it.
    pub fn offset(&self) -> u64 {
        self.first as u64 * PAGE_BYTES
    }
}

impl Pages {
    /// So many free pages.
    pub fn new(count: usize) -> Self {
        Self(vec![false; count])
    }

    /// Room for `bytes` bytes, one page at least; `None` when there are not enough free pages side by side.
    pub fn take(&mut self, bytes: usize) -> Option<Place> {
        let count = bytes.div_ceil(PAGE_BYTES as usize).max(1);
        let mut run = 0;
        for page in 0..self.0.len() {
            run = if self.0[page] { 0 } else { run + 1 };
            if run == count {
                let first = page + 1 - count;
                self.0[first..=page].fill(true);
                return Some(Place { first, count });
            }
        }
        None
    }

    /// Frees what [`Self::take`] gave.
    pub fn give_back(&mut self, place: Place) {
        self.0[place.first..place.first + place.count].fill(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_pages_that_do_are_taken() {
        let mut pages = Pages::new(8);
        let places: Vec<_> = [1, 4096, 4097, 3 * 4096].map(|bytes| pages.take(bytes).unwrap()).into();
        assert_eq!(places.iter().map(Place::offset).collect::<Vec<_>>(), [0, 4096, 8192, 16384]);
        assert!(pages.take(4097).is_none());
        let [one, two, three, four] = places.try_into().unwrap();
        pages.give_back(two);
        assert!(pages.take(4097).is_none());
        assert_eq!(pages.take(0).unwrap().offset(), 4096);
        pages.give_back(three);
        pages.give_back(one);
        assert_eq!(pages.take(4096).unwrap().offset(), 0);
        assert_eq!(pages.take(8192).unwrap().offset(), 8192);
        pages.give_back(four);
        assert!(pages.take(usize::MAX).is_none());
        assert_eq!(pages.take(4 * 4096).unwrap().offset(), 16384);
    }
}
