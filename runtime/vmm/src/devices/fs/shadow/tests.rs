use super::*;
use crate::memory::Memory;
use crate::virtio::testing::{Driver, activation, memory};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::GuestMemoryMmap;

const ASK: u64 = 0x9000;
const ROOM: u64 = 0x1_0000;

/// A request's number, its bytes, and the room for its answer: addresses and lengths.
type Served = (u16, Vec<u8>, Vec<(u64, u32)>);

/// A guest, the device, and a server that does what a test says.
struct World {
    guest: GuestMemoryMmap,
    bounce: Bounce,
    shadow: Shadow,
    queue: VirtQueue,
    server: Queue,
}

impl World {
    fn new() -> Self {
        let guest = memory();
        let queue = activation(&Memory::new(guest.clone()), 1, 0).queues.remove(0);
        let shadow = Shadow::new(1);
        let mut server = Queue::new(RING_SIZE).unwrap();
        let [descriptors, available, used] = shadow.addresses();
        server.set_desc_table_address(Some(descriptors as u32), None);
        server.set_avail_ring_address(Some(available as u32), None);
        server.set_used_ring_address(Some(used as u32), None);
        server.set_ready(true);
        World { guest, bounce: Bounce::new().unwrap(), shadow, queue, server }
    }

    fn ask(&mut self) -> Result<bool, ShadowError> {
        self.shadow.ask(&mut self.queue, &mut self.bounce)
    }

    fn answer(&mut self) -> Result<(), ShadowError> {
        self.shadow.answer(&mut self.queue, &mut self.bounce)
    }

    /// What the server is asked next.
    fn served(&mut self) -> Option<Served> {
        let memory = self.bounce.memory().clone();
        let chain = self.server.iter(&memory).unwrap().next()?;
        let head = chain.head_index();
        let (mut request, mut room) = (Vec::new(), Vec::new());
        for descriptor in chain {
            if descriptor.is_write_only() {
                room.push((descriptor.addr().raw_value(), descriptor.len()));
            } else {
                let mut bytes = vec![0; descriptor.len() as usize];
                memory.read_slice(&mut bytes, descriptor.addr()).unwrap();
                request.extend(bytes);
            }
        }
        Some((head, request, room))
    }

    fn say(&mut self, head: u16, bytes: u32) {
        let memory = self.bounce.memory().clone();
        self.server.add_used(&memory, head, bytes).unwrap();
    }

    /// What the server says without asking anybody.
    fn lie(&mut self, index: u16, head: u32, bytes: u32) {
        let used = self.shadow.addresses()[2];
        let memory = self.bounce.memory();
        memory.write_obj([head, bytes], GuestAddress(used + 4)).unwrap();
        memory.write_obj(index, GuestAddress(used + 2)).unwrap();
    }
}

#[test]
fn requests_and_answers_pass_in_pieces_and_out_of_order() {
    let mut world = World::new();
    let driver_memory = world.guest.clone();
    let driver = Driver::new(&driver_memory);
    world.guest.write_slice(b"open sesame", GuestAddress(ASK)).unwrap();
    driver.offer(0, 0, &[(ASK, 4, false), (ASK + 4, 7, false), (ROOM, 2, true), (ROOM + 8, 100, true)]);
    driver.offer(1, 4, &[(ASK, 4, false)]);
    assert!(world.ask().unwrap());
    assert!(!world.ask().unwrap(), "there is no more");
    let (first, request, room) = world.served().unwrap();
    assert_eq!(request, b"open sesame");
    let [(at, 102)] = room[..] else { panic!("{room:?}") };
    let (second, request, room) = world.served().unwrap();
    assert!(request == b"open" && room.is_empty());
    assert!(world.served().is_none());

    world.answer().unwrap();
    assert_eq!(driver.used().0, 0);
    world.say(second, 0);
    world.answer().unwrap();
    assert_eq!(driver.used(), (1, 4, 0));
    world.bounce.memory().write_slice(b"opened", GuestAddress(at)).unwrap();
    world.say(first, 6);
    world.answer().unwrap();
    assert_eq!(driver.used(), (2, 0, 6));
    let mut answer = [0; 2];
    world.guest.read_slice(&mut answer, GuestAddress(ROOM)).unwrap();
    assert_eq!(&answer, b"op");
    let mut rest = [0; 6];
    world.guest.read_slice(&mut rest, GuestAddress(ROOM + 8)).unwrap();
    assert_eq!(&rest, b"ened\0\0", "no more than was answered is copied");
}

#[test]
fn what_finds_no_room_waits_for_an_answer() {
    let mut world = World::new();
    let driver_memory = world.guest.clone();
    let driver = Driver::new(&driver_memory);
    // 32 KiB each: 4 MiB hold 128 of them, which is also as many as the server's ring takes.
    let mut offered = 0;
    let mut given = 0;
    while given < 300 {
        while offered < given + 64 && offered < 300 {
            driver.offer(offered, offered % 64, &[(ROOM, 32 << 10, true)]);
            offered += 1;
        }
        world.ask().unwrap();
        let (head, _, _) = world.served().unwrap();
        world.say(head, 1);
        world.answer().unwrap();
        given += 1;
        assert_eq!(driver.used().0, given);
    }
    assert!(world.served().is_none());
}

#[test]
fn a_driver_that_asks_too_much_or_nothing() {
    let mut world = World::new();
    let driver_memory = world.guest.clone();
    let driver = Driver::new(&driver_memory);
    driver.offer(0, 0, &[(ASK, 0, false)]);
    assert!(!world.ask().unwrap());
    assert_eq!(driver.used(), (1, 0, 0));
    let parts: Vec<_> = (0..9).map(|_| (0, 256 << 10, true)).collect();
    driver.offer(1, 1, &parts);
    assert!(matches!(world.ask(), Err(ShadowError::TooLarge(bytes)) if bytes == 9 << 18));
}

#[test]
fn a_server_that_lies_is_not_believed() {
    for (index, head, bytes) in
        [(1, 2, 0), (1, 1, 0), (1, 256, 0), (1, u32::MAX, 0), (1, 0, 17), (1, 0, u32::MAX)]
    {
        let mut world = World::new();
        let driver_memory = world.guest.clone();
        let driver = Driver::new(&driver_memory);
        driver.offer(0, 0, &[(ASK, 4, false), (ROOM, 16, true)]);
        world.ask().unwrap();
        world.lie(index, head, bytes);
        let error = world.answer().unwrap_err();
        assert!(matches!(error, ShadowError::Unasked(_) | ShadowError::TooLong { room: 16, .. }), "{error}");
        assert_eq!(driver.used().0, 0);
    }
    let mut world = World::new();
    world.lie(200, 0, 0);
    assert!(matches!(world.answer(), Err(ShadowError::Overrun)));
    // The same answer twice.
    let mut world = World::new();
    let driver_memory = world.guest.clone();
    let driver = Driver::new(&driver_memory);
    driver.offer(0, 0, &[(ROOM, 16, true)]);
    world.ask().unwrap();
    let (head, _, _) = world.served().unwrap();
    world.say(head, 16);
    world.answer().unwrap();
    world.say(head, 16);
    assert!(matches!(world.answer(), Err(ShadowError::Unasked(0))));
}
