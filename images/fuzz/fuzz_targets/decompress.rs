#![no_main]

use husk_images::convert::Limits;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { layer_bytes: 16 << 20, ratio_floor: 1 << 20, ..Limits::default() };
    husk_images::fuzzing::decompress(bytes, &limits);
});
