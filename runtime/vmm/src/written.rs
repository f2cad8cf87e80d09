//! Pages of a saved VM's memory to which its clones write as soon as they run. A clone that is told of them has its own
//! copies before it runs: each spares it two ways out of the guest, as the page is read first, and written then.
//!
//! What they are one clone shows to the others ([`Written::of_clone`]). It is advice: no page has other content by it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

/// Bytes of a page of x86-64.
pub const PAGE: u64 = 4096;
/// The most pages that are worth their copies: a guest that has written more than 16 MiB does more than come to life.
const MAX_PAGES: u64 = 4096;
/// The longest text: as many ranges of one page, each with two numbers.
const MAX_TEXT: u64 = MAX_PAGES * 32;

/// A clone maps its memory in one piece, or in two around the hole below 4 GiB.
const MAX_MAPPINGS: usize = 2;

/// Of an entry of `/proc/PID/pagemap` (Documentation/admin-guide/mm/pagemap.rst).
const ENTRY: usize = size_of::<u64>();
const PRESENT: u64 = 1 << 63;
const OF_A_FILE: u64 = 1 << 61;
/// Entries read at once.
const CHUNK: usize = 8192;

/// Ranges of pages in the order of their places in the memory file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written(Vec<Range<u64>>);

impl Written {
    /// Of a clone that runs as process `pid`: the pages of the memory file that it maps, and has copies of by now.
    ///
    /// # Errors
    /// What the system says; `InvalidData` if there are none, or more than are worth it.
    pub fn of_clone(pid: i32, memory: &File) -> io::Result<Self> {
        let metadata = memory.metadata()?;
        let (inode, pages) = (metadata.ino(), metadata.len() / PAGE);
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        let mut written = Self::default();
        let mappings = maps.lines().filter_map(|line| Mapping::parse(line, inode));
        // What the process has mapped is its own choice; how long it is looked at is not.
        for mapping in mappings.filter(|mapping| mapping.is_within(pages)).take(MAX_MAPPINGS) {
            mapping.copies(&pagemap, |page| written.push(page))?;
        }
        written.0.sort_by_key(|range| range.start);
        written.check(u64::MAX)?;
        Ok(written)
    }

    fn push(&mut self, page: u64) {
        match self.0.last_mut() {
            Some(last) if last.end == page => last.end += 1,
            _ => self.0.push(page..page + 1),
        }
    }

    /// Reads what [`Self::write`] has written for a memory of `bytes` bytes.
    ///
    /// # Errors
    /// What the system says, and `InvalidData`.
    pub fn read(from: &File, bytes: u64) -> io::Result<Self> {
        let mut text = String::new();
        from.take(MAX_TEXT + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MAX_TEXT {
            return Err(invalid(format!("it is longer than {MAX_TEXT} bytes")));
        }
        let written = Self(serde_json::from_str(&text)?);
        written.check(bytes / PAGE)?;
        Ok(written)
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, mut to: &File) -> io::Result<()> {
        to.write_all(&serde_json::to_vec(&self.0)?)?;
        to.sync_all()
    }

    /// Pages from the beginning of the memory file.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }

    fn check(&self, memory_pages: u64) -> io::Result<()> {
        let (mut end, mut pages) = (0, 0u64);
        for range in &self.0 {
            if range.start < end || range.end <= range.start || range.end > memory_pages {
                return Err(invalid(format!(
                    "pages {range:?} are none of a memory of {memory_pages}, or not in order"
                )));
            }
            end = range.end;
            pages = pages.saturating_add(range.end - range.start);
        }
        match pages {
            1..=MAX_PAGES => Ok(()),
            _ => Err(invalid(format!("it has {pages} pages, and should have 1 to {MAX_PAGES}"))),
        }
    }
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Where a process has a file mapped copy-on-write.
#[derive(Debug, PartialEq, Eq)]
struct Mapping {
    /// Numbers of the process's pages.
    pages: Range<u64>,
    /// The file's page that is the first of them.
    first: u64,
}

impl Mapping {
    /// Of a line of `/proc/PID/maps` (proc_pid_maps(5)), if it is one of the file with that inode.
    fn parse(line: &str, inode: u64) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let private = fields.next()? == "rw-p";
        let number = |text| u64::from_str_radix(text, 16).ok();
        let offset = number(fields.next()?)?;
        let of_the_file = fields.nth(1)?.parse() == Ok(inode);
        let pages = number(start)? / PAGE..number(end)? / PAGE;
        (private && of_the_file).then_some(Self { pages, first: offset / PAGE })
    }

    /// Whether the file, which has so many pages, has all of it.
    fn is_within(&self, pages: u64) -> bool {
        let mapped = self.pages.end.saturating_sub(self.pages.start);
        self.first.saturating_add(mapped) <= pages
    }

    /// Calls `each` with the file's pages that the process has copies of.
    fn copies(&self, pagemap: &File, mut each: impl FnMut(u64)) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK * ENTRY];
        let mut page = self.pages.start;
        while page < self.pages.end {
            let room = buffer.len().min((self.pages.end - page) as usize * ENTRY);
            let chunk = &mut buffer[..room];
            pagemap.read_exact_at(chunk, page * ENTRY as u64)?;
            for entry in chunk.chunks_exact(ENTRY) {
                let entry = entry.try_into().map_or(0, u64::from_ne_bytes);
                if entry & (PRESENT | OF_A_FILE) == PRESENT {
                    each(self.first + (page - self.pages.start));
                }
                page += 1;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom};

    fn file(text: &str) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read() {
        let written = Written(vec![0..1, 5..9]);
        let mut file = tempfile::tempfile().unwrap();
        written.write(&file).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        assert_eq!(Written::read(&file, 9 * PAGE).unwrap(), written);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let range = |start: u64, end: u64| format!(r#"[{{"start":{start},"end":{end}}}]"#);
        assert_eq!(Written::read(&file(&range(1, 3)), 3 * PAGE).unwrap().ranges().first(), Some(&(1..3)));
        let long = " ".repeat(MAX_TEXT as usize + 1);
        for (text, why) in [
            (range(1, 4), "none of a memory of 3"),
            (range(2, 2), "none of a memory"),
            (range(2, 1), "none of a memory"),
            (range(u64::MAX, 0), "none of a memory"),
            (r#"[{"start":1,"end":2},{"start":1,"end":2}]"#.to_owned(), "not in order"),
            ("[]".to_owned(), "0 pages"),
            ("no list".to_owned(), "expected"),
            (long, "longer"),
        ] {
            let error = Written::read(&file(&text), 3 * PAGE).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        let many = Written::read(&file(&range(0, MAX_PAGES + 1)), u64::MAX).unwrap_err();
        assert!(many.to_string().contains("4097 pages"), "{many}");
    }

    #[test]
    fn lines_of_maps() {
        let line = "7f00a000-7f00c000 rw-p 00003000 fe:01 77                 /a memory";
        let mapping = Mapping { pages: 0x7f00a..0x7f00c, first: 3 };
        assert!(mapping.is_within(5) && !mapping.is_within(4));
        assert_eq!(Mapping::parse(line, 77), Some(mapping));
        assert_eq!(Mapping::parse(line, 78), None);
        assert_eq!(Mapping::parse(&line.replace("rw-p", "rw-s"), 77), None);
        assert_eq!(Mapping::parse("7f00a000-7f00c000 rw-p 00000000 00:00 0", 77), None);
        for torn in ["", "x", "1-2", "1-2 rw-p", "1-2 rw-p 0 0", "g-2 rw-p 0 00:00 77"] {
            assert_eq!(Mapping::parse(torn, 77), None, "{torn}");
        }
    }
}
