//! A driver, honest and not, at the registers of a real device in a real worker.

use std::time::{Duration, Instant};

use vm_memory::GuestMemoryMmap;

use super::*;
use crate::devices::rng::Rng;
use crate::jail::Starting;
use crate::power::ExitCell;
use crate::virtio::testing::{Driver, memory};
use crate::virtio::{F_INDIRECT_DESC, Served, WorkerHandle};

const BUFFER: u64 = 0x8000;
const RINGS: [u64; 3] = [register::QUEUE_DESC_LOW, register::QUEUE_DRIVER_LOW, register::QUEUE_DEVICE_LOW];

struct World {
    transport: MmioTransport,
    /// For the rest of the test's process: drivers borrow it.
    memory: &'static GuestMemoryMmap,
    driver: Driver<'static>,
    exit: ExitCell,
}

impl World {
    fn new() -> Self {
        Self::of(Rng::identity())
    }

    fn of(identity: Identity) -> Self {
        let memory: &'static GuestMemoryMmap = Box::leak(Box::new(memory()));
        let exit = ExitCell::default();
        let filters = crate::jail::Filters::new(false).unwrap();
        let worker =
            WorkerHandle::start("test", &filters.io, exit.clone(), &mut Starting::default()).unwrap();
        let interrupt = Interrupt::detached().unwrap();
        let device = Box::new(Served::new(Rng));
        let transport =
            MmioTransport::new(identity, device, worker, Memory::new(memory.clone()), interrupt).unwrap();
        Self { transport, memory, driver: Driver::new(memory), exit }
    }

    fn read(&mut self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        self.transport.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write(&mut self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }

    fn status(&mut self) -> u32 {
        self.read(register::STATUS)
    }

    fn features(&mut self, features: u64) {
        self.write(register::STATUS, 1);
        self.write(register::STATUS, 1 | 2);
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(register::DRIVER_FEATURES_SEL, select);
            self.write(register::DRIVER_FEATURES, half);
        }
        self.write(register::STATUS, 1 | 2 | 8);
    }

    /// The rings where [`Driver`] has them for 64 descriptors.
    fn rings(&mut self, size: u32) {
        // Empty, as a driver has them that starts.
        self.driver = Driver::new(self.memory);
        let addresses = self.driver.addresses();
        self.write(register::QUEUE_SEL, 0);
        self.write(register::QUEUE_NUM, size);
        for (register, address) in RINGS.iter().zip(addresses) {
            self.write(*register, address as u32);
            self.write(*register + 4, (address >> 32) as u32);
        }
        self.write(register::QUEUE_READY, 1);
    }

    fn start(&mut self) {
        self.features(F_VERSION_1);
        self.rings(64);
        self.write(register::STATUS, 1 | 2 | 8 | 4);
        assert_eq!(self.status(), 15);
    }

    /// Offers a buffer as number `index` and waits until it comes back full.
    fn ask(&mut self, index: u16) {
        self.driver.offer(index, 0, &[(BUFFER, 64, true)]);
        self.write(register::QUEUE_NOTIFY, 0);
        self.wait(|world| world.driver.used() == (index + 1, 0, 64));
    }

    fn wait(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        while !done(self) {
            assert!(began.elapsed() < Duration::from_secs(5));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn an_honest_driver_is_served_again_after_each_reset() {
    let mut world = World::new();
    assert_eq!((world.read(register::MAGIC), world.read(register::VERSION)), (0x7472_6976, 2));
    assert_eq!(world.read(register::DEVICE_ID), 4);
    for _ in 0..3 {
        world.start();
        (0..5).for_each(|index| world.ask(index));
        assert_eq!(world.read(register::INTERRUPT_STATUS), 1);
        world.write(register::INTERRUPT_ACK, 1);
        assert_eq!(world.read(register::INTERRUPT_STATUS), 0);
        world.write(register::STATUS, 0);
        assert_eq!((world.status(), world.read(register::QUEUE_READY)), (0, 0));
    }
    assert!(!world.exit.is_set());
}

#[test]
fn a_driver_may_leave_queues_and_none_that_it_has_to_set_up() {
    let identity = |required_queues| Identity { queue_sizes: &[64; 3], required_queues, ..Rng::identity() };
    let mut world = World::of(identity(2));
    world.features(F_VERSION_1);
    world.rings(64);
    world.write(register::STATUS, 15);
    assert_eq!(world.status() & (4 | 64), 64);

    let mut world = World::of(identity(1));
    world.start();
    world.write(register::QUEUE_NOTIFY, 1);
    world.ask(0);
    let state = world.transport.save().unwrap();
    let mut other = World::of(identity(1));
    other.driver = Driver::new(other.memory);
    // Its memory is the saved one's as far as the device looks: the one request has been made available.
    other.driver.claim(1);
    restore(&mut other, &state).unwrap();
    assert_eq!(other.status(), 15);
    let mut stricter = World::of(identity(2));
    assert!(matches!(restore(&mut stricter, &state), Err(RestoreError::Queue(1))));
}

#[test]
fn queues_cannot_be_moved_once_the_device_runs() {
    let mut world = World::new();
    world.start();
    world.ask(0);
    for register in RINGS {
        world.write(register, 0x7fff_0000);
        world.write(register + 4, 0x7fff);
    }
    world.write(register::QUEUE_NUM, 2);
    world.write(register::QUEUE_READY, 0);
    world.features(F_VERSION_1 | F_INDIRECT_DESC);
    assert_eq!((world.status(), world.read(register::QUEUE_READY)), (15, 1));
    world.ask(1);
}

#[test]
fn what_was_not_negotiated_or_not_offered_is_refused() {
    let mut world = World::new();
    world.features(F_VERSION_1 | 1 << 3);
    assert_eq!(world.status() & 8, 0);
    world.write(register::STATUS, 0);
    world.features(0);
    assert_eq!(world.status() & 8, 0, "before virtio 1.0");
    // Nothing works out of order.
    world.rings(64);
    assert_eq!(world.read(register::QUEUE_READY), 0);
    world.write(register::STATUS, 4);
    assert_eq!(world.status() & 4, 0);
}

#[test]
fn impossible_queues_need_a_reset() {
    for size in [0, 3, 128, 0x1_0040] {
        let mut world = World::new();
        world.features(F_VERSION_1);
        world.rings(size);
        assert_ne!(world.status() & 64, 0, "size {size}");
        world.write(register::STATUS, 15);
        assert_eq!(world.status() & 4, 0);
    }
    for register in RINGS {
        let mut world = World::new();
        world.features(F_VERSION_1);
        world.write(register::QUEUE_SEL, 0);
        world.rings(64);
        world.write(register::QUEUE_READY, 0);
        world.write(register, 0x000f_0000);
        world.write(register::QUEUE_READY, 1);
        world.write(register::STATUS, 15);
        assert_eq!(world.status() & (4 | 64), 64, "ring at {register:#x} outside memory");
        world.write(register::STATUS, 0);
        world.start();
        world.ask(0);
    }
}

#[test]
fn a_broken_ring_stops_the_device_until_it_is_reset() {
    let hostile: [&[(u64, u32, bool)]; 3] =
        [&[(u64::MAX, 64, true)], &[(0x3_ff00, 0x200, true)], &[(BUFFER, 1, true), (BUFFER, 1, false)]];
    for parts in hostile {
        let mut world = World::new();
        world.start();
        world.driver.offer(0, 0, parts);
        world.write(register::QUEUE_NOTIFY, 0);
        world.wait(|world| world.status() & 64 != 0);
        assert_ne!(world.read(register::INTERRUPT_STATUS) & 2, 0);
        world.write(register::STATUS, 0);
        world.start();
        world.ask(0);
        assert!(!world.exit.is_set());
    }
    // An index that is further ahead than the ring is long, and a head that is no descriptor.
    let mut world = World::new();
    world.start();
    world.driver.claim(1000);
    world.write(register::QUEUE_NOTIFY, 0);
    world.wait(|world| world.status() & 64 != 0);
    world.write(register::STATUS, 0);
    world.start();
    world.driver.offer_head(0, 64);
    world.write(register::QUEUE_NOTIFY, 0);
    world.wait(|world| world.status() & 64 != 0);
}

#[test]
fn resets_in_the_middle_of_work_are_safe() {
    let mut world = World::new();
    for round in 0..50 {
        world.start();
        for index in 0..32 {
            world.driver.offer(index, index, &[(BUFFER + u64::from(index) * 0x100, 256, true)]);
        }
        world.write(register::QUEUE_NOTIFY, 0);
        std::thread::sleep(Duration::from_micros(round * 5));
        world.write(register::STATUS, 0);
        // Nothing is written after the reset.
        let before = world.driver.used().0;
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(world.driver.used().0, before);
        assert!(!world.exit.is_set());
    }
}

#[test]
fn odd_accesses_have_no_effect() {
    let mut world = World::new();
    for width in [0, 1, 2, 8] {
        let mut bytes = vec![0xaa; width];
        world.transport.read(register::MAGIC, &mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0));
        world.transport.write(register::STATUS, &vec![1; width]);
    }
    assert_eq!(world.status(), 0);
    world.write(register::QUEUE_SEL, u32::MAX);
    assert_eq!(world.read(register::QUEUE_NUM_MAX), 0);
    world.write(register::QUEUE_NOTIFY, u32::MAX);
    for offset in (0..0x1000).step_by(4) {
        world.read(offset);
        world.write(offset, 0xffff_ffff);
    }
    assert_eq!(world.status() & 4, 0);
}

/// What a running device's transport saves, as JSON, so that a test can change it.
fn saved() -> serde_json::Value {
    let mut world = World::new();
    world.start();
    serde_json::to_value(world.transport.save().unwrap()).unwrap()
}

fn restored(state: serde_json::Value) -> Result<World, RestoreError> {
    let mut world = World::new();
    // The rings are in memory as the driver has left them.
    world.driver = Driver::new(world.memory);
    restore(&mut world, &serde_json::from_value(state).unwrap())?;
    Ok(world)
}

/// The device goes on in its worker.
fn restore(world: &mut World, state: &TransportState) -> Result<(), RestoreError> {
    let transport = &mut world.transport;
    if let Some(device) = transport.restore(state)? {
        let id = transport.worker().add(device).unwrap();
        transport.restored(id);
    }
    Ok(())
}

#[test]
fn a_device_that_is_saved_goes_on_there_and_elsewhere() {
    let mut world = World::new();
    world.start();
    // It looks at its queue when it starts, and says so to a driver that wants to hear of everything.
    world.wait(|world| world.read(register::INTERRUPT_STATUS) == 1);
    let first = world.transport.save().unwrap();
    assert_eq!(world.transport.save().unwrap(), first);
    assert_eq!(world.status(), 15);
    let mut other = restored(serde_json::to_value(first).unwrap()).unwrap();
    assert_eq!((other.status(), other.read(register::QUEUE_READY)), (15, 1));
    // Once only.
    let again = other.transport.save().unwrap();
    assert!(matches!(restore(&mut other, &again), Err(RestoreError::Start(_))));
    // A reset works as ever.
    other.write(register::STATUS, 0);
    assert_eq!(other.status(), 0);
    other.start();
}

#[test]
fn a_device_without_a_driver_is_saved_as_it_is() {
    let mut world = World::new();
    world.write(register::STATUS, 1);
    let state = world.transport.save().unwrap();
    let mut other = restored(serde_json::to_value(state).unwrap()).unwrap();
    assert_eq!(other.status(), 1);
    other.start();
}

#[test]
fn a_device_that_its_driver_gave_up_is_not_saved() {
    let mut world = World::new();
    world.start();
    world.write(register::STATUS, 128);
    assert!(matches!(world.transport.save(), Err(SaveError::Status(143))));
}

#[test]
fn a_state_that_cannot_be_is_refused() {
    restored(saved()).map(drop).unwrap();
    for (pointer, value) in [
        ("/kind", 2_u64),
        ("/status", 4),
        ("/status", 14),
        ("/status", 64 | 15),
        ("/interrupt_reasons", 4),
        ("/driver_features", 0),
        ("/driver_features", u64::MAX),
        ("/queues/0/max_size", 128),
        ("/queues/0/size", 65535),
        ("/queues/0/size", 3),
        ("/queues/0/desc_table", !15),
        ("/queues/0/avail_ring", 1 << 50),
        ("/queues/0/used_ring", 3),
    ] {
        let mut state = saved();
        *state.pointer_mut(pointer).unwrap() = value.into();
        assert!(restored(state).is_err(), "{pointer} {value}");
    }
    let mut state = saved();
    state["queues"][0]["ready"] = false.into();
    assert!(matches!(restored(state), Err(RestoreError::Queue(0))));
    let mut state = saved();
    state["queues"] = serde_json::json!([]);
    assert!(matches!(restored(state), Err(RestoreError::Other { what: "number of queues", .. })));
}
