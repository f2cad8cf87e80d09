#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| husk_images::fuzzing::pax(bytes));
