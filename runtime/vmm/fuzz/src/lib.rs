//! A hostile driver: it writes any register, memory and descriptor, in any order, and its device and the device's host
//! side go on by turns. What must hold whatever it does: no panic, no end of the device's thread, answers within the
//! fuzzer's time and memory, and host files that only change where they may.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use arbitrary::Arbitrary;
use husk_vmm::fuzzing::{
    BoxedDevice, ExitCell, Identity, Interrupt, Memory, MmioTransport, Starting, WorkerHandle,
};
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

/// Bytes of guest memory.
pub const MEMORY: u64 = 256 << 10;
/// Rings of queue `n` begin at `n` times this.
const RINGS: u64 = 0x3000;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Where data begins.
const DATA: u64 = QUEUES * RINGS;
/// The most queues that it sets up.
const QUEUES: u64 = 5;

/// What the driver does.
#[derive(Arbitrary, Debug)]
pub enum Step {
    /// Reads a register, of any width.
    Read { offset: u16, width: u8 },
    /// Writes one.
    Write { offset: u16, width: u8, value: u64 },
    /// Writes memory.
    Memory { at: u32, bytes: Vec<u8> },
    /// Sets the device up as a driver should, with some of its features.
    SetUp { features: u64, size: u8 },
    /// Offers a chain as a driver should, but for what is in it.
    Offer { queue: u8, first: u8, parts: Vec<Part>, request: Vec<u8>, indirect: bool },
    /// Offers whatever a descriptor's number says.
    OfferHead { queue: u8, head: u16, skip: u8 },
    /// Says that there is something in a queue.
    Kick { queue: u8 },
    /// The host's side does something of its own.
    Host { what: u8, bytes: Vec<u8> },
}

/// A descriptor.
#[derive(Arbitrary, Debug)]
pub enum Part {
    /// In memory as it should be.
    Good { at: u16, bytes: u16, write: bool },
    /// Anywhere, of any size, with any flags.
    Any { address: u64, bytes: u32, flags: u16, next: u16 },
}

/// A device on a bus of its own.
pub struct World {
    /// The guest's memory.
    pub memory: Memory,
    /// The thread that devices live in.
    pub worker: WorkerHandle,
    /// Another thread, for parts of devices.
    pub second: WorkerHandle,
    exit: ExitCell,
    transport: Option<MmioTransport>,
    offered: [u16; QUEUES as usize],
}

impl World {
    /// Without a device yet, with a memory of its own.
    pub fn new() -> World {
        let memory =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).expect("guest memory");
        World::with(Memory::new(memory))
    }

    /// Without a device yet; the memory begins at 0 and has [`MEMORY`] bytes or more.
    pub fn with(memory: Memory) -> World {
        // Two for all: such a thread ends with its process.
        static THREADS: OnceLock<([WorkerHandle; 2], ExitCell)> = OnceLock::new();
        let (workers, exit) = THREADS.get_or_init(|| {
            let exit = ExitCell::default();
            // Confined to almost nothing: what is on the devices' own lists is for tests of whole VMs.
            let filter = husk_jail::seccomp::deny(&[libc::SYS_ptrace]).expect("a filter");
            let start = |name| {
                WorkerHandle::start(name, &filter, exit.clone(), &mut Starting::default()).expect("a thread")
            };
            (["fuzz", "second"].map(start), exit)
        });
        let ([worker, second], exit) = (workers.clone(), exit.clone());
        World { memory, worker, second, exit, transport: None, offered: [0; QUEUES as usize] }
    }

    /// An interrupt that nobody takes.
    pub fn interrupt() -> Interrupt {
        Interrupt::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).expect("an eventfd"))
    }

    /// Puts the device on its bus.
    pub fn plug(&mut self, identity: Identity, device: BoxedDevice, interrupt: Interrupt) {
        let worker = self.worker.clone();
        let transport = MmioTransport::new(identity, device, worker, self.memory.clone(), interrupt);
        self.transport = Some(transport.expect("a transport"));
    }

    /// Does what the driver does; `host` is the device's other side.
    pub fn play(mut self, steps: &[Step], mut host: impl FnMut(&World, u8, &[u8])) {
        for step in steps {
            if let Step::Host { what, bytes } = step {
                host(&self, *what, bytes);
            } else {
                self.step(step);
            }
            self.worker.barrier().expect("the device's thread lives");
            self.second.barrier().expect("the second thread lives");
            assert!(!self.exit.is_set(), "the device has ended the VM");
        }
        // A reset at the end: what is in flight ends with it.
        self.write(0x70, &0_u32.to_le_bytes());
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(transport) = &mut self.transport {
            transport.write(offset, data);
        }
    }

    fn register(&mut self, offset: u64, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Read { offset, width } => {
                let mut data = [0; 8];
                if let Some(transport) = &mut self.transport {
                    transport.read((offset & 0xfff).into(), &mut data[..usize::from(width % 9)]);
                }
            }
            Step::Write { offset, width, value } => {
                let data = value.to_le_bytes();
                self.write((offset & 0xfff).into(), &data[..usize::from(width % 9)]);
            }
            Step::Memory { at, bytes } => self.put(u64::from(*at) % MEMORY, bytes),
            Step::SetUp { features, size } => self.set_up(*features, *size),
            Step::Offer { queue, first, parts, request, indirect } => {
                self.put(DATA, request);
                self.offer(usize::from(queue % QUEUES as u8), u16::from(*first), parts, *indirect);
            }
            Step::OfferHead { queue, head, skip } => {
                self.make_available(usize::from(queue % QUEUES as u8), *head, u16::from(*skip));
            }
            Step::Kick { queue } => self.kick(usize::from(*queue)),
            Step::Host { .. } => {}
        }
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        let room = usize::try_from(MEMORY - at).unwrap_or_default().min(bytes.len());
        self.memory.memory().write_slice(&bytes[..room], GuestAddress(at)).expect("it fits");
    }

    fn kick(&self, queue: usize) {
        let kicks = self.transport.as_ref().map(MmioTransport::kicks).unwrap_or_default();
        if let Some(kick) = kicks.get(queue) {
            let _ = kick.write(1);
        }
    }

    fn set_up(&mut self, features: u64, size: u8) {
        self.offered = [0; QUEUES as usize];
        self.put(0, &vec![0; DATA as usize]);
        self.register(0x70, 0);
        self.register(0x70, 1 | 2);
        for half in 0..2 {
            let mut offered = [0; 4];
            self.register(0x14, half);
            if let Some(transport) = &mut self.transport {
                transport.read(0x10, &mut offered);
            }
            let must = if half == 1 { 1 } else { 0 };
            let taken = u32::from_le_bytes(offered) & (features >> (32 * half)) as u32 | must;
            self.register(0x24, half);
            self.register(0x20, taken);
        }
        self.register(0x70, 1 | 2 | 8);
        for queue in 0..QUEUES as u32 {
            // Now and then a driver that leaves some of them.
            if features >> 61 == 7 && features >> (56 + queue) & 1 == 1 {
                continue;
            }
            let rings = u64::from(queue) * RINGS;
            self.register(0x30, queue);
            self.register(0x38, 1 << (size % 8));
            for (register, address) in [(0x80, rings), (0x90, rings + AVAILABLE), (0xa0, rings + USED)] {
                self.register(register, address as u32);
                self.register(register + 4, 0);
            }
            self.register(0x44, 1);
        }
        self.register(0x70, 1 | 2 | 8 | 4);
    }

    fn offer(&mut self, queue: usize, first: u16, parts: &[Part], indirect: bool) {
        let table = if indirect { DATA + 0x4000 } else { queue as u64 * RINGS };
        let start = if indirect { 0 } else { first };
        for (number, part) in parts.iter().take(200).enumerate() {
            let number = start.wrapping_add(number as u16) % 256;
            let last = number == start.wrapping_add(parts.len() as u16 - 1) % 256;
            let (address, bytes, flags, next) = match part {
                Part::Good { at, bytes, write } => {
                    let flags = u16::from(!last) | if *write { 2 } else { 0 };
                    (DATA + u64::from(*at), u32::from(*bytes), flags, number + 1)
                }
                Part::Any { address, bytes, flags, next } => (*address, *bytes, *flags, *next),
            };
            self.descriptor(table + u64::from(number) * 16, address, bytes, flags, next);
        }
        if indirect {
            let place = queue as u64 * RINGS + u64::from(first) * 16;
            self.descriptor(place, table, parts.len() as u32 * 16, 4, 0);
        }
        self.make_available(queue, first, 1);
        self.kick(queue);
    }

    fn descriptor(&self, place: u64, address: u64, bytes: u32, flags: u16, next: u16) {
        let mut raw = address.to_le_bytes().to_vec();
        raw.extend(bytes.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw.extend(next.to_le_bytes());
        self.put(place, &raw);
    }

    /// In each ring size that `set_up` may have chosen.
    fn make_available(&mut self, queue: usize, head: u16, skip: u16) {
        let ring = queue as u64 * RINGS + AVAILABLE;
        for bits in 0..8 {
            let slot = u64::from(self.offered[queue] % (1 << bits));
            self.put(ring + 4 + 2 * slot, &head.to_le_bytes());
        }
        self.offered[queue] = self.offered[queue].wrapping_add(skip);
        self.put(ring + 2, &self.offered[queue].to_le_bytes());
    }
}

/// A file in memory that holds `bytes`.
pub fn memory_file(bytes: &[u8]) -> File {
    // SAFETY: the name is a string; the descriptor is nobody else's.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"medium".as_ptr(), libc::MFD_CLOEXEC)) };
    file.write_all_at(bytes, 0).expect("write the file");
    file
}

impl Default for World {
    fn default() -> Self {
        World::new()
    }
}
