//! The same image as other tools unpack it: GNU tar layer by layer, whiteouts by the specification's words.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::run;

/// Unpacks `layers` into `root`, which must be empty. Needs root for owners and devices.
pub fn unpack(layers: &[Vec<u8>], root: &Path) {
    for (number, layer) in layers.iter().enumerate() {
        let archive = root.with_extension(format!("{number}.tar"));
        fs::write(&archive, layer).unwrap();
        make_room(layer, root);
        run(Command::new("tar")
            .arg("--extract")
            .arg("--file")
            .arg(&archive)
            .arg("--directory")
            .arg(root)
            .args(["--same-permissions", "--same-owner", "--numeric-owner"])
            .args(["--xattrs", "--xattrs-include=*", "--exclude=.wh.*"]));
        fs::remove_file(archive).unwrap();
    }
}

/// Applies the whiteouts of `layer` and removes directories that something else replaces.
fn make_room(layer: &[u8], root: &Path) {
    for entry in tar::Archive::new(layer).entries().unwrap() {
        let entry = entry.unwrap();
        let path = root.join(entry.path().unwrap());
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parent = path.parent().unwrap();
        if name == ".wh..wh..opq" {
            // A directory that is new with this layer has nothing to hide.
            let children = fs::read_dir(parent).into_iter().flatten();
            children.for_each(|child| remove(&child.unwrap().path()));
        } else if let Some(hidden) = name.strip_prefix(".wh.") {
            remove(&parent.join(hidden));
        } else if !entry.header().entry_type().is_dir() && path.is_dir() && !path.is_symlink() {
            remove(&path);
        }
    }
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}
