//! Disk images as QEMU makes them.
#![no_main]

use husk_images_fuzz::limits;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_images::fuzzing::qcow2(bytes, &limits()));
