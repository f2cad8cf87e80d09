//! A layer's tree as a worker that was taken over would write it.
#![no_main]

use std::io::Write;

use husk_images::image::LayerInput;
use husk_images_fuzz::{build, scratch};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut tree = scratch();
    tree.write_all(b"HUSKTRE1").and_then(|()| tree.write_all(bytes)).expect("write a tree");
    build(&[LayerInput { tree, data_len: 16 << 10 }]);
});
