//! Requests to a file system device without a server; what a server says is in the unit tests of its shadow rings.
#![no_main]

use husk_vmm::fuzzing::{Fs, Share};
use husk_vmm_fuzz::{Step, World};

libfuzzer_sys::fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    let share = Share::new().expect("a share");
    world.plug(Fs::identity("husk"), Box::new(Fs::new(share)), World::interrupt());
    world.play(&steps, |_, _, _| {});
});
