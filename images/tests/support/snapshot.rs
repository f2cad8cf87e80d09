//! What is in a directory, in a form to compare.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::layout::digest;

/// What is in a directory, by relative path.
pub type Tree = BTreeMap<PathBuf, String>;

/// Everything below `root` by relative path. Extended attributes, links and files' setuid and setgid bits only if
/// `all`: `fsck.erofs` does not restore them (it changes owners last, which clears the bits).
pub fn take(root: &Path, all: bool) -> Tree {
    let mut found = BTreeMap::new();
    // The names of files that count several links.
    let mut linked: BTreeMap<(u64, u64), Vec<PathBuf>> = BTreeMap::new();
    let mut digests = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = root.join(&path);
        let metadata = match fs::symlink_metadata(&full) {
            // overlayfs lists whiteouts in directories that no lower layer has, but they are not there.
            Err(error) if all && error.kind() == ErrorKind::NotFound => continue,
            metadata => metadata.unwrap_or_else(|e| panic!("{}: {e}", full.display())),
        };
        let kind = metadata.file_type();
        let lost = if all || !kind.is_file() { 0 } else { 0o6000 };
        let mut text = format!(
            "{:o} {}:{} {}.{:09}",
            metadata.mode() & !lost,
            metadata.uid(),
            metadata.gid(),
            metadata.mtime(),
            metadata.mtime_nsec()
        );
        if kind.is_dir() {
            todo.extend(fs::read_dir(&full).unwrap().map(|entry| path.join(entry.unwrap().file_name())));
        } else if kind.is_symlink() {
            text += &format!(" -> {:?}", fs::read_link(&full).unwrap());
        } else if kind.is_file() {
            // A file of many names is read once.
            let digest = digests.entry(inode(&metadata)).or_insert_with(|| digest(&fs::read(&full).unwrap()));
            text += &format!(" {} {digest}", metadata.len());
        } else if kind.is_char_device() || kind.is_block_device() {
            text += &format!(" device {:x}", metadata.rdev());
        }
        if all {
            text += &format!(" {:?}", attributes(&full));
            if !kind.is_dir() && metadata.nlink() > 1 {
                linked.entry(inode(&metadata)).or_default().push(path.clone());
            }
        }
        found.insert(path, text);
    }
    // overlayfs counts names that upper layers hide.
    for mut names in linked.into_values().filter(|names| names.len() > 1) {
        names.sort();
        for name in &names {
            let text = format!(", {} names of one file, the first {:?}", names.len(), names[0]);
            found.get_mut(name).unwrap().push_str(&text);
        }
    }
    found
}

/// Fails unless everything below `root` counts its links as ext4 does: a file its names, a directory itself and the
/// directories in it. This is apart from [`take`], as overlayfs counts no directories, and for files also the names
/// that upper layers hide. All that is listed must be there.
pub fn assert_links_are_counted(root: &Path) {
    let mut names: BTreeMap<(u64, u64), (u64, Vec<PathBuf>)> = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        if !metadata.is_dir() {
            names.entry(inode(&metadata)).or_insert((metadata.nlink(), Vec::new())).1.push(path);
            continue;
        }
        let mut directories = 0;
        for entry in fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            directories += u64::from(entry.file_type().unwrap().is_dir());
            todo.push(entry.path());
        }
        assert_eq!(metadata.nlink(), 2 + directories, "{}", path.display());
    }
    for (links, names) in names.into_values() {
        assert_eq!(links, names.len() as u64, "{names:?}");
    }
}

/// Leaves out the times of the directories that `expected` has changed since `begun`. containerd sets no time of the
/// root, nor of a directory that a layer adds to or takes from without an entry of its own: that one has the time of
/// the unpacking.
pub fn without_times_of_unpacking(begun: SystemTime, expected: &mut Tree, found: &mut Tree) {
    let begun = begun.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    for (path, text) in expected.iter_mut().filter(|(_, text)| text.starts_with('4')) {
        let time = text.split([' ', '.']).nth(2).unwrap().parse::<u64>().unwrap();
        if time >= begun {
            drop_time(text);
            found.get_mut(path).into_iter().for_each(drop_time);
        }
    }
}

/// Leaves out mode, owner and time of the files of these names.
pub fn without_metadata_of(names: &[&str], mut found: Tree) -> Tree {
    for name in names {
        let text = found.get_mut(Path::new(name)).unwrap();
        text.replace_range(..text.find("sha256:").unwrap(), "");
    }
    found
}

/// Leaves out when directories changed: who copies a tree sets what is copied into them last.
pub fn without_times_of_directories(mut found: Tree) -> Tree {
    found.values_mut().filter(|text| text.starts_with('4')).for_each(drop_time);
    found
}

/// The time is the third of a text's words.
fn drop_time(text: &mut String) {
    let mut words: Vec<_> = text.split(' ').collect();
    words[2] = "some time";
    *text = words.join(" ");
}

/// What tells a file from all others.
fn inode(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn attributes(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let read = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let name = std::ffi::OsStr::from_bytes(name);
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        (name.to_string_lossy().into_owned(), value)
    };
    names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(read).collect()
}

/// Fails with the first differences between what should be and what is.
pub fn assert_same(expected: &Tree, found: &Tree) {
    let mut differences = Vec::new();
    for (path, text) in expected {
        if found.get(path) != Some(text) {
            differences.push(format!("{path:?}\n  expected {text}\n  found    {:?}", found.get(path)));
        }
    }
    differences.extend(
        found.keys().filter(|path| !expected.contains_key(*path)).map(|path| format!("{path:?} is extra")),
    );
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        differences[..differences.len().min(10)].join("\n")
    );
}
