//! Registers, over the simplest device.
#![no_main]

use husk_vmm::fuzzing::{Rng, Served};
use husk_vmm_fuzz::{Step, World};

libfuzzer_sys::fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    world.plug(Rng::identity(), Box::new(Served::new(Rng)), World::interrupt());
    world.play(&steps, |_, _, _| {});
});
