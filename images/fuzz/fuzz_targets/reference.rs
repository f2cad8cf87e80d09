#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| husk_images::fuzzing::reference(text));
