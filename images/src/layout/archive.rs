//! A tar archive as a set of files: where each begins in it. Nothing is unpacked.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use super::place::open_regular;
use crate::convert::ConvertError;
use crate::convert::stream::ArchiveStream;
use crate::convert::tar::{EntryKind, TarReader};
use crate::convert::unpack::{MAGIC, Packing};
use crate::error::{ImageError, IoContext, Result};

/// Most members, and the longest name of one in bytes: an image has a few for each layer.
const MEMBERS_MAX: usize = 20_000;
const NAME_MAX: usize = 512;
/// Links from one member to another that are followed.
const LINKS_MAX: usize = 8;

/// An archive's members by name.
#[derive(Debug)]
pub(super) struct Archive {
    path: PathBuf,
    members: BTreeMap<String, Member>,
}

#[derive(Debug)]
enum Member {
    File {
        offset: u64,
        length: u64,
    },
    /// To another member.
    Link(String),
}

impl Archive {
    /// Reads the archive at `path` to its end.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let (mut file, length) = open_regular(path)?;
        let mut start = Vec::new();
        let begun = file.by_ref().take(MAGIC as u64).read_to_end(&mut start).and_then(|_| file.rewind());
        begun.during(|| format!("reading {}", path.display()))?;
        if Packing::of(&start) != Packing::None {
            let what = format!("{} is compressed: unpack it with gunzip or unzstd first", path.display());
            return Err(ImageError::Unsupported(what));
        }
        let members = members(&mut TarReader::new(ArchiveStream::new(file, length)))
            .map_err(|error| ImageError::from(error).of(&path.display().to_string()))?;
        Ok(Self { path: path.to_owned(), members })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file `name` begins, and its bytes.
    pub(super) fn find(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = name;
        for _ in 0..=LINKS_MAX {
            match self.members.get(name)? {
                Member::File { offset, length } => return Some((*offset, *length)),
                Member::Link(target) => name = target,
            }
        }
        None
    }
}

fn members(archive: &mut TarReader<'_>) -> std::result::Result<BTreeMap<String, Member>, ConvertError> {
    let mut members = BTreeMap::new();
    while let Some(header) = archive.next()? {
        let Some(name) = resolve("", &header.path) else { continue };
        let member = match header.kind {
            EntryKind::File => Member::File { offset: archive.position(), length: header.size },
            EntryKind::Hardlink => match resolve("", &header.link) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            // `docker save` writes a layer that two images share once, and links to it.
            EntryKind::Symlink => match resolve(parent(&name), &header.link) {
                Some(target) => Member::Link(target),
                None => continue,
            },
            _ => continue,
        };
        members.insert(name, member);
        if members.len() > MEMBERS_MAX {
            return Err(ConvertError::TooLarge(format!("it has over {MEMBERS_MAX} members")));
        }
    }
    Ok(members)
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The name of the member that `path` means in the directory `base`; none if it leads out, or is nothing that an
/// image's member is called.
fn resolve(base: &str, path: &[u8]) -> Option<String> {
    let path =
        std::str::from_utf8(path).ok().filter(|path| path.len() <= NAME_MAX && !path.starts_with('/'))?;
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    let name = parts.join("/");
    (!name.is_empty() && name.len() <= 2 * NAME_MAX).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::tests::archive;

    fn read(bytes: &[u8]) -> Result<Archive> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tar");
        std::fs::write(&path, bytes).unwrap();
        Archive::read(&path)
    }

    #[test]
    fn members_are_found_through_links() {
        let tar = archive(&[
            ("./a/layer.tar", b'0', b"content"),
            ("b/layer.tar", b'2', b"../a/layer.tar"),
            ("c", b'1', b"b/layer.tar"),
        ]);
        let found = read(&tar).unwrap();
        for name in ["a/layer.tar", "b/layer.tar", "c"] {
            let (offset, length) = found.find(name).unwrap();
            assert_eq!(&tar[offset as usize..][..length as usize], b"content", "{name}");
        }
        assert_eq!(found.find("d"), None);
    }

    #[test]
    fn links_that_lead_nowhere_are_no_members() {
        let tar = archive(&[
            ("up", b'2', b"../../etc/passwd"),
            ("absolute", b'2', b"/etc/passwd"),
            ("one", b'2', b"two"),
            ("two", b'2', b"one"),
            ("d/", b'5', b""),
        ]);
        let found = read(&tar).unwrap();
        for name in ["up", "absolute", "one", "two", "d"] {
            assert_eq!(found.find(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let gzip = read(&[0x1f, 0x8b, 8, 0, 0]).unwrap_err().to_string();
        assert!(gzip.contains("gunzip"), "{gzip}");
        assert!(matches!(read(&[7; 700]), Err(ImageError::Corrupt(_))));
        let many: Vec<String> = (0..=MEMBERS_MAX).map(|n| n.to_string()).collect();
        let many: Vec<_> = many.iter().map(|name| (name.as_str(), b'0', &b""[..])).collect();
        assert!(matches!(read(&archive(&many)), Err(ImageError::TooLarge(_))));
    }
}
