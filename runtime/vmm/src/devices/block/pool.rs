//! Threads that wait for the host's disks, so that no event loop does.
//!
//! Threads rather than io_uring: a ring would have the kernel do what its entries say without asking the filters of
//! system calls, and it is one of the kernel's parts that a monitor which its guest has taken over should not reach. What
//! is in the page cache needs neither: the event loop itself reads it (see [`super::medium`]).

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use husk_jail::seccomp::Filter;
use vmm_sys_util::eventfd::EventFd;

use super::medium::Medium;
use super::request::{self, Answer, Rest};
use crate::jail::Starting;
use crate::power::{Exit, ExitCell};
use crate::virtio::Chain;

/// Threads of a VM.
const THREADS: usize = 4;
/// Those that work for one device at a time: a disk that does not answer leaves the others one.
const THREADS_FOR_ONE: usize = THREADS - 1;

/// A request that waits for the host's disk. It keeps its medium's files open and its memory mapped.
pub struct Job {
    /// What it reads or writes.
    pub medium: Arc<Medium>,
    /// The driver's buffers.
    pub chain: Chain,
    /// What is to be done.
    pub rest: Rest,
    /// Whether the driver flushes when it wants to.
    pub write_back: bool,
    /// Number of the queue that it is of.
    pub queue: usize,
    /// When the device saw it first.
    pub began: Instant,
}

/// A request that has been served.
pub struct Done {
    /// [`Job::queue`].
    pub queue: usize,
    /// By which the chain is given back.
    pub head: u16,
    /// None: there was no place for one.
    pub answer: Option<Answer>,
    /// [`Job::began`].
    pub began: Instant,
}

#[derive(Default)]
struct Shared {
    /// In the order in which they came.
    jobs: Mutex<VecDeque<(Arc<Lane>, Job)>>,
    wake: Condvar,
}

/// The threads, or the place where jobs wait for them.
#[derive(Clone, Default)]
pub struct Pool(Arc<Shared>);

impl Pool {
    /// Starts them, among those that are `starting`, to be held to the system calls of `filter`: jobs wait until then. The
    /// end of one would leave requests without an answer, so it ends the VM through `exit`.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(&self, filter: &Filter, exit: &ExitCell, starting: &mut Starting) -> io::Result<()> {
        (0..THREADS).try_for_each(|_| {
            let (shared, exit) = (Arc::clone(&self.0), exit.clone());
            starting.add("pool", filter, move || {
                let _ = catch_unwind(AssertUnwindSafe(|| shared.work()));
                exit.set(Exit::Failed("a thread for disks has ended".into()));
            })
        })
    }

    /// How many jobs have not been begun.
    #[cfg(test)]
    pub fn queued(&self) -> usize {
        self.0.lock().len()
    }

    /// Does one job of a pool without threads, as one would; whether there was one.
    #[cfg(test)]
    pub fn step(&self) -> bool {
        self.0.step(self.0.lock()).1
    }
}

type Jobs<'a> = MutexGuard<'a, VecDeque<(Arc<Lane>, Job)>>;

impl Shared {
    fn lock(&self) -> Jobs<'_> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does jobs for ever.
    fn work(&self) {
        let mut jobs = self.lock();
        loop {
            let (after, done) = self.step(jobs);
            jobs = if done { after } else { self.wake.wait(after).unwrap_or_else(PoisonError::into_inner) };
        }
    }

    /// Does one job, if there is one that may be done now.
    fn step<'a>(&'a self, mut jobs: Jobs<'a>) -> (Jobs<'a>, bool) {
        // Lanes' counts only change under this lock. A job that is passed over is taken by a thread that is done with
        // another one of its lane.
        let may = |(lane, _): &(Arc<Lane>, Job)| lane.at_work.load(Ordering::Relaxed) < THREADS_FOR_ONE;
        let next = jobs.iter().position(may).and_then(|place| jobs.remove(place));
        let Some((lane, job)) = next else { return (jobs, false) };
        lane.at_work.fetch_add(1, Ordering::Relaxed);
        drop(jobs);
        lane.finish(job.run());
        jobs = self.lock();
        lane.at_work.fetch_sub(1, Ordering::Relaxed);
        (jobs, true)
    }
}

impl Job {
    /// The medium and the memory are let go when it is done.
    fn run(self) -> Done {
        let Self { medium, chain, rest, write_back, queue, began } = self;
        let answer = request::finish(&chain, &medium, &rest, write_back);
        Done { queue, head: chain.head, answer, began }
    }
}

#[derive(Default)]
struct Flight {
    /// Jobs that are not done.
    jobs: usize,
    done: Vec<Done>,
}

/// One device's way to the threads and back.
pub struct Lane {
    pool: Pool,
    at_work: AtomicUsize,
    flight: Mutex<Flight>,
    landed: Condvar,
    event: EventFd,
}

impl Lane {
    /// A lane with nothing in it.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new(pool: &Pool) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            pool: pool.clone(),
            at_work: AtomicUsize::new(0),
            flight: Mutex::default(),
            landed: Condvar::new(),
            event: EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Flight> {
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a thread do `job`.
    pub fn submit(self: &Arc<Self>, job: Job) {
        self.lock().jobs += 1;
        self.pool.0.lock().push_back((Arc::clone(self), job));
        self.pool.0.wake.notify_one();
    }

    fn finish(&self, done: Done) {
        let mut flight = self.lock();
        flight.jobs -= 1;
        flight.done.push(done);
        let (first, last) = (flight.done.len() == 1, flight.jobs == 0);
        drop(flight);
        if first {
            // Its counter cannot overflow: it is emptied before the next first one.
            let _ = self.event.write(1);
        }
        if last {
            self.landed.notify_all();
        }
    }

    /// Readable when something is done.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// What is done.
    pub fn take(&self) -> Vec<Done> {
        let _ = self.event.read();
        std::mem::take(&mut self.lock().done)
    }

    /// Returns when nothing is left to do.
    pub fn wait(&self) {
        let mut flight = self.lock();
        while flight.jobs > 0 {
            flight = self.landed.wait(flight).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Extent;
    use crate::virtio::testing::{Driver, memory};
    use std::fs::File;
    use virtio_bindings::virtio_blk::VIRTIO_BLK_T_IN;
    use vm_memory::{Bytes, GuestAddress};

    fn job(medium: &Arc<Medium>, queue: usize) -> Job {
        let memory = memory();
        let mut header = [0; 16];
        header[0] = VIRTIO_BLK_T_IN as u8;
        memory.write_slice(&header, GuestAddress(0x8000)).unwrap();
        let parts = [(0x8000, 16, false), (0x9000, 512, true), (0xa000, 1, true)];
        let chain = Driver::new(&memory).chain(&parts).unwrap();
        let request::Begun::Waits(rest) = request::begin(&chain, Some(medium), "") else { panic!() };
        Job { medium: Arc::clone(medium), chain, rest, write_back: true, queue, began: Instant::now() }
    }

    fn medium() -> Arc<Medium> {
        let file: File = tempfile::tempfile().unwrap();
        file.set_len(512).unwrap();
        let extent = Extent { fd: 0, offset: 0, length: 512 };
        Arc::new(Medium::new(true, &[extent], vec![file.into()]).unwrap().slow())
    }

    #[test]
    fn one_disk_that_does_not_answer_leaves_a_thread_to_the_others() {
        let (pool, medium) = (Pool::default(), medium());
        let [stuck, other] = [(); 2].map(|()| Lane::new(&pool).unwrap());
        // As if so many threads waited for its disk.
        stuck.at_work.store(THREADS_FOR_ONE, Ordering::Relaxed);
        stuck.submit(job(&medium, 0));
        assert!(!pool.step());
        other.submit(job(&medium, 1));
        assert!(pool.step());
        assert_eq!(other.take().first().map(|done| done.queue), Some(1));
        assert!(stuck.take().is_empty());
        stuck.at_work.store(THREADS_FOR_ONE - 1, Ordering::Relaxed);
        assert!(pool.step() && !pool.step());
        assert_eq!(stuck.take().len(), 1);
    }

    #[test]
    fn who_waits_for_a_lane_finds_its_media_let_go() {
        let exit = ExitCell::default();
        let filters = crate::jail::Filters::new(false).unwrap();
        let (pool, medium) = (Pool::default(), medium());
        pool.start(&filters.pool, &exit, &mut Starting::default()).unwrap();
        let lane = Lane::new(&pool).unwrap();
        for round in 1..=200 {
            for queue in 0..8 {
                lane.submit(job(&medium, queue));
            }
            lane.wait();
            assert_eq!(Arc::strong_count(&medium), 1, "round {round}");
            let done = lane.take();
            assert_eq!(done.len(), 8);
            assert!(done.iter().all(|done| done.answer.as_ref().is_some_and(|answer| answer.bytes == 513)));
        }
        assert!(!exit.is_set());
    }
}
