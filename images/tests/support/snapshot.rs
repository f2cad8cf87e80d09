//! What is in a directory, in a form to compare.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::layout::digest;

/// Everything below `root` by relative path. Extended attributes, link counts and files' setuid and setgid bits
/// only if `all`: `fsck.erofs` does not restore them (it changes owners last, which clears the bits).
pub fn take(root: &Path, all: bool) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let full = root.join(&path);
        let metadata = fs::symlink_metadata(&full).unwrap();
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
            text += &format!(" {} {}", metadata.len(), digest(&fs::read(&full).unwrap()));
        } else if kind.is_char_device() || kind.is_block_device() {
            text += &format!(" device {:x}", metadata.rdev());
        }
        if all {
            text += &format!(" {} links, {:?}", metadata.nlink(), attributes(&full));
        }
        found.insert(path, text);
    }
    found
}

/// Leaves out when directories changed: who copies a tree sets what is copied into them last.
pub fn without_times_of_directories(mut found: BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, String> {
    for text in found.values_mut().filter(|text| text.starts_with("40")) {
        let time = text.rfind(' ').unwrap();
        text.truncate(time);
    }
    found
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
pub fn assert_same(expected: &BTreeMap<PathBuf, String>, found: &BTreeMap<PathBuf, String>) {
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
