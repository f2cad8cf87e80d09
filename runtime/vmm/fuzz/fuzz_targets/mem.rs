//! Requests to plug and to unplug memory, of memory that is really the machine's; who fuzzes needs /dev/kvm.
#![no_main]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use husk_vmm::fuzzing::{Mem, Plug, Ram, Region, Served};
use husk_vmm_fuzz::{Step, World};
use kvm_ioctls::{Kvm, VmFd};

const MIB: u64 = 1 << 20;
/// Two slots.
const PLUGGABLE_MIB: u32 = 256;

fn kvm() -> &'static Kvm {
    static KVM: OnceLock<Kvm> = OnceLock::new();
    KVM.get_or_init(|| Kvm::new().expect("open /dev/kvm"))
}

/// The fuzzer's alarm may come in between.
fn vm() -> VmFd {
    loop {
        match kvm().create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            vm => return vm.expect("a VM"),
        }
    }
}

libfuzzer_sys::fuzz_target!(|steps: Vec<Step>| {
    let vm = Arc::new(vm());
    let ram = Ram::new(1, false).expect("guest memory");
    let region = Region::new(&ram, vm, u64::from(PLUGGABLE_MIB) * MIB);
    let start = region.start();
    let mut steps = steps;
    for step in &mut steps {
        // Of all addresses few are in the region: half of the requests name one there, or a little beside it.
        if let Step::Offer { request, .. } = step
            && request.len() >= 16
            && request[6] & 1 == 0
        {
            let address = (start + u64::from(request[8]) * 2 * MIB).wrapping_sub(64 * MIB);
            request[8..16].copy_from_slice(&address.to_le_bytes());
        }
    }
    let mut world = World::with(ram.memory.clone());
    let interrupt = World::interrupt();
    let plug = Arc::new(Plug::new(region, 64 * MIB, interrupt.clone()));
    let device = Served::new(Mem::new(Arc::clone(&plug)));
    world.plug(Mem::identity(&plug), Box::new(device), interrupt);
    world.play(&steps, |_, what, _| {
        let plugged = plug.resize(u64::from(what) * MIB, Duration::ZERO);
        assert!(plugged <= u64::from(PLUGGABLE_MIB) * MIB);
    });
});
