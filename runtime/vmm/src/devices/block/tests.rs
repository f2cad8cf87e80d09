//! The device in a real event loop, over a pool whose jobs are done when the test wants them to be.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::config::{Rate, RateLimit};
use crate::control::Extent;
use crate::jail::{Filters, Starting};
use crate::memory::Memory;
use crate::power::ExitCell;
use crate::rate::Limiter;
use crate::virtio::testing::{Driver, activation_by, memory};
use crate::virtio::{BoxedDevice, Interrupt, WorkerHandle};

const HEADER_AT: u64 = 0x8000;
const DATA_AT: u64 = 0x9000;
const STATUS_AT: u64 = 0xf000;
/// `VIRTIO_BLK_T_IN`, the first sector.
const READ: [u8; 16] = [0; 16];
const FLUSH: [u8; 16] = [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn worker() -> WorkerHandle {
    let filters = Filters::new(false).unwrap();
    WorkerHandle::start("test", &filters.block, ExitCell::default(), &mut Starting::default()).unwrap()
}

/// The loop takes events in no order that a test could rely on.
fn wait_for(what: &str, is: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what} did not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A device whose driver runs it with two queues.
struct World {
    /// For the rest of the test's process: drivers borrow it.
    memory: &'static GuestMemoryMmap,
    drivers: [Driver<'static>; 2],
    slot: Arc<Slot>,
    kicks: Vec<EventFd>,
    totals: statistics::Shared,
    interrupt: Interrupt,
    worker: WorkerHandle,
    id: event_manager::SubscriberId,
}

impl World {
    fn new(pool: &Pool, worker: &WorkerHandle, limit: Ticket) -> Self {
        let memory: &'static GuestMemoryMmap = Box::leak(Box::new(memory()));
        let drivers = [0, 1].map(|number| Driver::numbered(memory, number));
        let totals = statistics::Shared::default();
        let config = Block::identity(2).config;
        let slot = Slot::new(0, config, Interrupt::detached().unwrap(), worker.clone(), pool).unwrap();
        let slot = Arc::new(slot);
        let mut device = Box::new(Block::new(Arc::clone(&slot), limit, totals.clone()));
        let features = F_COMMON | 1 << VIRTIO_BLK_F_FLUSH;
        let activation = activation_by(&drivers, &Memory::new(memory.clone()), features);
        let interrupt = activation.interrupt.clone();
        let kicks = activation.queues.iter().map(|queue| queue.kick.try_clone().unwrap()).collect();
        device.activate(activation);
        let id = worker.add(device).unwrap();
        Self { memory, drivers, slot, kicks, totals, interrupt, worker: worker.clone(), id }
    }

    /// Puts in a disk of one sector, which has to be waited for.
    fn attach(&self) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 512], 0).unwrap();
        let extent = Extent { fd: 0, offset: 0, length: 512 };
        let medium = Medium::new(false, &[extent], vec![file.into()]).unwrap();
        self.slot.attach(medium.slow()).unwrap();
    }

    /// Makes `count` requests available in a queue, all with the same buffers.
    fn offer(&self, queue: usize, header: [u8; 16], count: u16) {
        self.memory.write_slice(&header, GuestAddress(HEADER_AT)).unwrap();
        let (data, status) = ((DATA_AT, 512, true), (STATUS_AT, 1, true));
        let read = [(HEADER_AT, 16, false), data, status];
        let flush = [(HEADER_AT, 16, false), status];
        for index in 0..count {
            self.drivers[queue].offer(index, 0, if header == READ { &read } else { &flush });
        }
        self.kicks[queue].write(1).unwrap();
    }

    fn used(&self, queue: usize) -> u16 {
        self.drivers[queue].used().0
    }

    fn wait_for_used(&self, queue: usize, count: u16) {
        wait_for("an answer", || self.used(queue) == count);
    }

    fn take(&self) -> BoxedDevice {
        self.worker.remove(self.id).unwrap()
    }
}

#[test]
fn what_waits_for_its_disk_holds_up_nobody_and_is_waited_for() {
    let (pool, worker) = (Pool::default(), worker());
    let [slow, other] = [(); 2].map(|()| World::new(&pool, &worker, Ticket::default()));
    slow.attach();
    slow.offer(0, READ, 1);
    wait_for("the read", || pool.queued() == 1);
    slow.offer(1, FLUSH, 1);
    wait_for("the flush", || pool.queued() == 2);
    // Another device, which has no medium, answers meanwhile.
    other.offer(0, READ, 3);
    other.wait_for_used(0, 3);
    assert_eq!((slow.used(0), slow.used(1)), (0, 0));
    std::thread::scope(|scope| {
        let detach = scope.spawn(|| slow.slot.detach());
        while slow.slot.medium().is_some() {
            std::thread::yield_now();
        }
        // Nothing can be put in, and nothing taken out, until it is gone.
        let file = tempfile::tempfile().unwrap();
        let next =
            Medium::new(false, &[Extent { fd: 0, offset: 0, length: 512 }], vec![file.into()]).unwrap();
        assert!(matches!(slow.slot.attach(next), Err(SlotError::Full(0))));
        assert!(pool.step());
        slow.wait_for_used(0, 1);
        assert!(!detach.is_finished());
        assert!(pool.step() && !pool.step());
        detach.join().unwrap().unwrap();
    });
    slow.wait_for_used(1, 1);
    let mut sector = [0; 512];
    slow.memory.read_slice(&mut sector, GuestAddress(DATA_AT)).unwrap();
    assert_eq!(sector, [7; 512]);
    slow.attach();
    let told = slow.totals.snapshot();
    assert_eq!((told.devices[0].reads, told.devices[0].others, told.block_read_bytes), (1, 1, 512));
    assert_eq!(told.devices[0].latency_us.iter().sum::<u64>(), 2);
}

#[test]
fn a_reset_waits_and_then_touches_nothing() {
    let (pool, worker) = (Pool::default(), worker());
    let world = World::new(&pool, &worker, Ticket::default());
    world.attach();
    world.offer(0, READ, 2);
    wait_for("the reads", || pool.queued() == 2);
    let mut device = world.take();
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| device.deactivate());
        assert!(pool.step());
        assert!(!stop.is_finished());
        assert!(pool.step());
        stop.join().unwrap();
    });
    assert_eq!(world.used(0), 0);
    assert!(world.slot.lane().take().is_empty());
}

#[test]
fn a_snapshot_has_what_was_in_flight_answered() {
    let (pool, worker) = (Pool::default(), worker());
    let world = World::new(&pool, &worker, Ticket::default());
    world.attach();
    world.offer(0, READ, 2);
    wait_for("the reads", || pool.queued() == 2);
    let mut device = world.take();
    assert!(device.save().is_err(), "it has a medium");
    let id = worker.add(device).unwrap();
    std::thread::scope(|scope| {
        let detach = scope.spawn(|| world.slot.detach());
        while world.slot.medium().is_some() {
            std::thread::yield_now();
        }
        let mut device = worker.remove(id).unwrap();
        let save = scope.spawn(move || device.save().map(|states| states[0].next_used));
        assert!(pool.step() && pool.step());
        assert_eq!(save.join().unwrap().unwrap(), 2);
        detach.join().unwrap().unwrap();
    });
    assert_eq!(world.used(0), 2);
}

#[test]
fn only_so_many_are_in_flight_and_all_are_served() {
    let (pool, worker) = (Pool::default(), worker());
    let world = World::new(&pool, &worker, Ticket::default());
    world.attach();
    // The mock's rings have room for so many.
    world.offer(0, READ, 30);
    world.offer(1, FLUSH, 20);
    wait_for("as many as may be", || pool.queued() == MAX_IN_FLIGHT);
    worker.barrier().unwrap();
    assert_eq!(pool.queued(), MAX_IN_FLIGHT);
    let (mut done, begin) = (0, Instant::now());
    while done < 50 {
        done += u16::from(pool.step());
        assert!(begin.elapsed() < Duration::from_secs(20), "{done} of 50 are done");
        std::thread::yield_now();
    }
    world.wait_for_used(0, 30);
    world.wait_for_used(1, 20);
}

#[test]
fn a_limit_is_shared_and_holds_up_nobody_else() {
    let (pool, worker) = (Pool::default(), worker());
    let rate = Some(Rate { per_second: 200, burst: 1 });
    let limiter = Limiter::new(RateLimit { operations: rate, bytes: None });
    let [first, second] =
        [(); 2].map(|()| World::new(&pool, &worker, Ticket::new(limiter.as_ref()).unwrap()));
    let free = World::new(&pool, &worker, Ticket::default());
    let begin = Instant::now();
    // No medium: all are answered, with errors, as soon as they may be.
    first.offer(0, READ, 20);
    first.offer(1, READ, 20);
    second.offer(0, READ, 20);
    free.offer(0, READ, 20);
    free.wait_for_used(0, 20);
    first.wait_for_used(0, 20);
    first.wait_for_used(1, 20);
    second.wait_for_used(0, 20);
    // 60 at 200 a second, but for the burst and the last.
    assert!(begin.elapsed() >= Duration::from_millis(290), "{:?}", begin.elapsed());
    assert!(first.totals.snapshot().devices[0].waits > 0);
}

#[test]
fn a_devices_queues_share_its_turns() {
    let (pool, worker) = (Pool::default(), worker());
    let rate = Some(Rate { per_second: 200, burst: 1 });
    let limiter = Limiter::new(RateLimit { operations: rate, bytes: None });
    let world = World::new(&pool, &worker, Ticket::new(limiter.as_ref()).unwrap());
    world.offer(0, READ, 28);
    world.offer(1, READ, 28);
    // What it had before the other had anything.
    let ahead = world.used(0);
    wait_for("some of the second queue", || world.used(1) >= 4);
    let first = world.used(0);
    let second = world.used(1);
    assert!(first <= ahead + second + 2, "{ahead}, then {first} of the first, {second} of the second");
}

#[test]
fn a_driver_that_breaks_a_queue_while_requests_are_in_flight_stops_its_device_alone() {
    let (pool, worker) = (Pool::default(), worker());
    let [broken, other] = [(); 2].map(|()| World::new(&pool, &worker, Ticket::default()));
    broken.attach();
    broken.offer(0, READ, 1);
    wait_for("the read", || pool.queued() == 1);
    broken.drivers[1].claim(1000);
    broken.kicks[1].write(1).unwrap();
    // DEVICE_NEEDS_RESET
    wait_for("the end of the device", || broken.interrupt.status() & 64 != 0);
    assert!(pool.step());
    other.offer(0, READ, 1);
    other.wait_for_used(0, 1);
    assert_eq!(broken.used(0), 0);
    let mut device = broken.take();
    device.deactivate();
    broken.slot.detach().unwrap();
}

#[test]
fn a_device_has_a_queue_for_each_vcpu_and_as_many_descriptors_in_all() {
    for (vcpus, sizes, segments) in
        [(1, vec![256], 254), (2, vec![128; 2], 126), (3, vec![64; 3], 62), (32, vec![64; 4], 62)]
    {
        let identity = Block::identity(vcpus);
        assert_eq!(identity.queue_sizes, sizes);
        let mut field = [0; 4];
        identity.config.read(12, &mut field);
        assert_eq!(u32::from_le_bytes(field), segments);
        identity.config.read(32, &mut field);
        assert_eq!(field, [0, 0, sizes.len() as u8, 0]);
    }
}
