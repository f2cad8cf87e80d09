//! Reports of free pages, and pages for a balloon that nobody inflates.
#![no_main]

use husk_vmm::fuzzing::{Balloon, Served};
use husk_vmm_fuzz::{Step, World};

libfuzzer_sys::fuzz_target!(|steps: Vec<Step>| {
    let mut world = World::new();
    let device = Served::new(Balloon::new(Default::default()));
    world.plug(Balloon::identity(false), Box::new(device), World::interrupt());
    world.play(&steps, |_, _, _| {});
});
