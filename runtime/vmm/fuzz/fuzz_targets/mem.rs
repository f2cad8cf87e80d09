//! Requests to plug and to unplug memory, of memory that is really the machine's; who fuzzes needs /dev/kvm.
#![no_main]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use husk_vmm::fuzzing::{Interrupt, Mem, Plug, Ram, Region, Served};
use husk_vmm_fuzz::{MEMORY, Part, Step, World};
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

const MIB: u64 = 1 << 20;
/// Two slots.
const PLUGGABLE_MIB: u32 = 256;
/// What the guest is asked to have at first.
const REQUESTED: u64 = 64 * MIB;
/// `VIRTIO_MEM_REQ_UNPLUG_ALL`.
const UNPLUG_ALL: u8 = 2;

/// One for all runs, as guests' memory stays mapped until the process ends.
struct Machine {
    ram: Ram,
    start: u64,
    plug: Arc<Plug>,
    interrupt: Interrupt,
}

impl Machine {
    fn new() -> Self {
        let ram = Ram::new(1, false).expect("guest memory");
        let region = Region::new(&ram, Arc::new(vm()), u64::from(PLUGGABLE_MIB) * MIB);
        let (start, interrupt) = (region.start(), World::interrupt());
        let plug = Arc::new(Plug::new(region, REQUESTED, interrupt.clone()));
        Self { ram, start, plug, interrupt }
    }

    /// One that has a new driver, and nothing plugged.
    fn world(&self) -> World {
        let mut world = World::with(self.ram.memory.clone());
        let device = Served::new(Mem::new(Arc::clone(&self.plug)));
        world.plug(Mem::identity(&self.plug), Box::new(device), self.interrupt.clone());
        world
    }

    /// What the next run finds is what the first one found.
    fn tidy(&self) {
        let request = vec![UNPLUG_ALL].into_iter().chain([0; 23]).collect();
        let parts =
            vec![Part::Good { at: 0, bytes: 24, write: false }, Part::Good { at: 64, bytes: 10, write: true }];
        let offer = Step::Offer { queue: 0, first: 0, parts, request, indirect: false };
        self.world().play(&[Step::SetUp { features: 0, size: 4 }, offer], |_, _, _| {});
        self.plug.resize(REQUESTED, Duration::ZERO);
        assert_eq!(self.plug.plugged(), 0, "all was to be unplugged");
        self.ram.memory.memory().write_slice(&[0; MEMORY as usize], GuestAddress(0)).expect("it fits");
    }
}

/// The fuzzer's alarm may come in between.
fn vm() -> VmFd {
    let kvm = Kvm::new().expect("open /dev/kvm");
    loop {
        match kvm.create_vm() {
            Err(error) if error.errno() == libc::EINTR => {}
            vm => return vm.expect("a VM"),
        }
    }
}

libfuzzer_sys::fuzz_target!(|steps: Vec<Step>| {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    let machine = MACHINE.get_or_init(Machine::new);
    let mut steps = steps;
    for step in &mut steps {
        // Of all addresses few are in the region: half of the requests name one there, or a little beside it.
        if let Step::Offer { request, .. } = step
            && request.len() >= 16
            && request[6] & 1 == 0
        {
            let address = (machine.start + u64::from(request[8]) * 2 * MIB).wrapping_sub(64 * MIB);
            request[8..16].copy_from_slice(&address.to_le_bytes());
        }
    }
    machine.world().play(&steps, |_, what, _| {
        let plugged = machine.plug.resize(u64::from(what) * MIB, Duration::ZERO);
        assert!(plugged <= u64::from(PLUGGABLE_MIB) * MIB);
    });
    machine.tidy();
});
