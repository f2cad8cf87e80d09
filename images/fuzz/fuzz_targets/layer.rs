//! A layer's bytes, as a registry sends them: decompression, tar, PAX, the tree's writer and its reader, EROFS.
#![no_main]

use std::io::Seek;

use husk_images::convert::{ConvertError, convert_layer};
use husk_images::image::LayerInput;
use husk_images::tree::TreeReader;
use husk_images_fuzz::{build, limits, scratch};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (data, mut tree) = (scratch(), scratch());
    let verdict = match convert_layer(bytes, &data, &tree, &limits()) {
        Ok(verdict) => verdict,
        Err(ConvertError::Io { message, .. }) => panic!("{message}"),
        Err(_) => return,
    };
    let length = |file: &std::fs::File| file.metadata().expect("look at a file").len();
    assert_eq!((length(&data), length(&tree)), (verdict.data_len, verdict.tree_len));
    tree.rewind().expect("rewind");
    let reader = TreeReader::new(std::io::BufReader::new(&tree), verdict.data_len).expect("a tree");
    let entries = reader.map(|entry| entry.expect("what was written is valid")).count();
    assert_eq!(entries as u64, verdict.entries);
    build(&[LayerInput { tree, data_len: verdict.data_len }]);
});
