//! What fuzz targets share.

use std::fs::File;
use std::io::{Read, Seek};

use erofs_rs::EroFS;
use erofs_rs::backend::SliceImage;
use husk_images::convert::{ConvertError, Limits};
use husk_images::image::{LayerInput, build_image};

/// Budgets that keep one input short.
pub fn limits() -> Limits {
    Limits { entries: 4096, tree_bytes: 1 << 20, layer_bytes: 16 << 20, ratio_floor: 1 << 20, ..Limits::default() }
}

/// An empty file in memory.
pub fn scratch() -> File {
    tempfile::tempfile_in("/dev/shm").expect("make a file in /dev/shm")
}

/// Makes an image of those layers. Where it is accepted, an independent reader must find all of it sound.
pub fn build(layers: &[LayerInput]) {
    let mut meta = scratch();
    let length = match build_image(layers, [7; 16], &meta, &limits()) {
        Ok(built) => built.meta_len,
        // Nothing is wrong with the host, so this may not be put on it.
        Err(ConvertError::Io { message, .. }) if !message.contains("reading a layer's tree") => {
            panic!("{message}")
        }
        Err(_) => return,
    };
    let mut disk = Vec::new();
    meta.rewind().and_then(|()| meta.read_to_end(&mut disk)).expect("read the metadata");
    assert_eq!(disk.len() as u64, length);
    assert_eq!(length % 4096, 0);
    let data: u64 = layers.iter().map(|layer| layer.data_len.next_multiple_of(4096)).sum();
    disk.resize((length + data) as usize, 0);
    check(&disk);
}

fn check(disk: &[u8]) {
    let fs = EroFS::new(SliceImage::new(disk)).expect("a superblock");
    assert_eq!(fs.super_block().block_count() * 4096, disk.len() as u64);
    for entry in fs.walk_dir("/").expect("a root") {
        let entry = entry.expect("a sound directory");
        fs.xattrs_inode(entry.inode).expect("sound attributes");
        if entry.inode.is_symlink() {
            fs.read_link_inode(entry.inode).expect("a sound link");
        } else if entry.inode.is_file() && entry.inode.data_size() != 0 {
            let file = fs.open_inode_file(entry.inode).expect("a sound file");
            let read = file.read_at(&mut [0], entry.inode.data_size() - 1).expect("a last byte");
            assert_eq!(read, 1);
        }
    }
}
