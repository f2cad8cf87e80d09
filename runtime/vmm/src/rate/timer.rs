//! Timers that event loops wait for.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// One that fires once.
#[derive(Debug)]
pub struct Timer(OwnedFd);

impl Timer {
    /// One that is not set.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    /// Has it fire after `wait`, and forget what it was set to before.
    pub fn set(&self, wait: Duration) {
        // Zero would stop it; and a year is as good as never.
        self.program(wait.clamp(Duration::from_nanos(1), Duration::from_secs(365 * 24 * 3600)));
    }

    /// Has it not fire.
    pub fn stop(&self) {
        self.program(Duration::ZERO);
    }

    fn program(&self, wait: Duration) {
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        // It only fails for times that are none.
        let new = Itimerspec { it_interval: none, it_value: value };
        let _ = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &new);
    }

    /// Takes note that it has fired; whether it had.
    pub fn fired(&self) -> bool {
        rustix::io::read(&self.0, &mut [0_u8; 8]).is_ok()
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
