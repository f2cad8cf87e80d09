//! The system calls of each kind of thread. Nothing is opened by name, no program is executed, no thread is started, no
//! memory is executable, and no socket is made but pairs of unix sockets.

use husk_jail::JailError;
use husk_jail::seccomp::{AllowList, Argument, Filter};
use kvm_bindings::{KVMIO, kvm_ioeventfd, kvm_regs, kvm_userspace_memory_region};
use libc::c_long;
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};
use vmm_sys_util::signal::SIGRTMIN;

/// What any thread does: computing, waiting, allocating, logging, counting events, ending.
const EVERY: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    // The allocator looks how many processors there are.
    libc::SYS_sched_getaffinity,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];
/// The console's log.
const CONSOLE: &[c_long] = &[libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_ftruncate];
/// A device's event loop.
const LOOP: &[c_long] = &[libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_ctl];
/// Setting the timers of rate limits: where a device waits, and where one that others wait for is taken down.
const LIMITS: &[c_long] = &[libc::SYS_timerfd_settime];
/// Talking to the volumes' server over the connection that there is.
const SERVER: &[c_long] = &[libc::SYS_sendmsg, libc::SYS_recvmsg];

/// Saving a VM, which no tenant's code has run in: what KVM knows of it, and two files.
const SAVE: &[c_long] = &[libc::SYS_ioctl, libc::SYS_pwrite64, libc::SYS_fsync];

/// ioctl's second argument.
const REQUEST: u8 = 1;

fn kvm(direction: u32, number: u32, bytes: usize) -> u32 {
    ioctl_expr(direction, KVMIO, number, bytes as u32) as u32
}

/// A filter for each kind of thread.
pub struct Filters {
    /// The first thread, once all others are there: it waits for the end.
    pub main: Filter,
    /// It waits for SIGTERM.
    pub signals: Filter,
    /// It tells KVM of the devices' events, and ends.
    pub notifications: Filter,
    /// vCPUs: the guest's instructions, the console, and devices as their drivers come and go.
    pub vcpu: Filter,
    /// Devices that never wait: vsock, network, random numbers.
    pub io: Filter,
    /// Queues of network interfaces beyond the first pair.
    pub net: Filter,
    /// Volumes: between the guest's memory and that of their server.
    pub fs: Filter,
    /// Disks, as far as they need no waiting.
    pub block: Filter,
    /// Disks that have to be waited for.
    pub pool: Filter,
    /// Pluggable memory.
    pub memory: Filter,
    /// The control socket.
    pub control: Filter,
}

impl Filters {
    /// Makes them, with what it takes to save the VM if it is `savable`.
    ///
    /// # Errors
    /// When a list cannot be expressed.
    pub fn new(savable: bool) -> Result<Self, JailError> {
        Ok(Self {
            main: every().allow(CONSOLE).compile()?,
            signals: every().allow(&[libc::SYS_rt_sigtimedwait]).compile()?,
            notifications: ioctl(every(), kvm(_IOC_WRITE, 0x79, size_of::<kvm_ioeventfd>())).compile()?,
            vcpu: vcpu().compile()?,
            io: io().compile()?,
            net: net().compile()?,
            fs: every().allow(LOOP).compile()?,
            block: block().compile()?,
            pool: pool().compile()?,
            memory: memory().compile()?,
            control: if savable { control().allow(SAVE) } else { control() }.compile()?,
        })
    }
}

fn every() -> AllowList {
    // abort(3) signals the process itself.
    AllowList::default().allow(EVERY).allow_memory().allow_own_signal(libc::SIGABRT)
}

fn ioctl(list: AllowList, request: u32) -> AllowList {
    list.allow_with(libc::SYS_ioctl, &[(REQUEST, Argument::Is(request))])
}

/// Copies of descriptors that the thread has.
fn copy(list: AllowList) -> AllowList {
    list.allow_with(libc::SYS_fcntl, &[(1, Argument::Is(libc::F_DUPFD_CLOEXEC as u32))])
}

fn vcpu() -> AllowList {
    // A device is set up, and taken down, where its driver asks for it.
    let devices = [libc::SYS_epoll_create1, libc::SYS_epoll_ctl];
    let list = copy(every().allow(CONSOLE).allow(&devices).allow(LIMITS));
    [
        kvm(_IOC_NONE, 0x80, 0),                     // KVM_RUN
        kvm(_IOC_READ, 0x81, size_of::<kvm_regs>()), // KVM_GET_REGS, to tell where a guest failed
        libc::TUNSETOFFLOAD as u32,
        libc::TUNSETQUEUE as u32,
    ]
    .into_iter()
    .fold(list, ioctl)
}

fn io() -> AllowList {
    let sockets = [
        libc::SYS_accept4,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
        libc::SYS_shutdown,
    ];
    let list = every().allow(LOOP).allow(LIMITS).allow(&sockets);
    // The guest's connections to the host.
    let list = list.allow_with(libc::SYS_socketpair, &[(0, Argument::Is(libc::AF_UNIX as u32))]);
    let buffers = [(1, Argument::Is(libc::SOL_SOCKET as u32)), (2, Argument::Is(libc::SO_SNDBUF as u32))];
    let list = list.allow_with(libc::SYS_setsockopt, &buffers);
    // What the driver wants of an interface's queues.
    [libc::FIONBIO as u32, libc::TUNSETQUEUE as u32].into_iter().fold(list, ioctl)
}

fn net() -> AllowList {
    every().allow(LOOP).allow(LIMITS).allow(&[libc::SYS_readv, libc::SYS_writev])
}

fn block() -> AllowList {
    every().allow(LOOP).allow(LIMITS).allow(&[libc::SYS_preadv2])
}

fn pool() -> AllowList {
    every().allow(&[
        libc::SYS_preadv,
        libc::SYS_pwritev,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_fallocate,
        libc::SYS_fdatasync,
    ])
}

fn memory() -> AllowList {
    let list = every().allow(LOOP);
    // KVM_SET_USER_MEMORY_REGION
    ioctl(list, kvm(_IOC_WRITE, 0x46, size_of::<kvm_userspace_memory_region>()))
}

fn control() -> AllowList {
    let list = every().allow(SERVER).allow(&[
        libc::SYS_accept4,
        libc::SYS_setsockopt,
        // What a disk's descriptors are.
        libc::SYS_fstat,
        libc::SYS_newfstatat,
        libc::SYS_statx,
        // What is shared with the volumes' server.
        libc::SYS_memfd_create,
        libc::SYS_ftruncate,
        libc::SYS_eventfd2,
    ]);
    copy(list)
        .allow_with(libc::SYS_fcntl, &[(1, Argument::Is(libc::F_GETFL as u32))])
        .allow_with(libc::SYS_fcntl, &[(1, Argument::Is(libc::F_ADD_SEALS as u32))])
        // Calls vCPUs out of the guest.
        .allow_own_signal(SIGRTMIN())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_can_be_expressed() {
        Filters::new(false).unwrap();
        Filters::new(true).unwrap();
    }

    #[test]
    fn ioctls_have_the_numbers_of_linux() {
        assert_eq!(kvm(_IOC_NONE, 0x80, 0), 0xae80);
        assert_eq!(kvm(_IOC_READ, 0x81, size_of::<kvm_regs>()), 0x8090_ae81);
        let region = size_of::<kvm_userspace_memory_region>();
        assert_eq!(kvm(_IOC_WRITE, 0x46, region), 0x4020_ae46);
        assert_eq!(kvm(_IOC_WRITE, 0x79, size_of::<kvm_ioeventfd>()), 0x4040_ae79);
    }
}
