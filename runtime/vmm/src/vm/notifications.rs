//! How devices hear of their drivers' notifications: KVM is asked to turn writes of a window's QueueNotify into events, so
//! that no vCPU has to leave the guest for them.

use std::io;
use std::sync::Arc;

use husk_jail::seccomp::Filter;
use kvm_ioctls::{IoEventAddress, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::fact;
use crate::jail::Starting;
use crate::virtio::QUEUE_NOTIFY;

/// What is to be asked of KVM.
#[derive(Default)]
pub struct Notifications(Vec<(u64, Arc<[EventFd]>)>);

impl Notifications {
    /// Those of the device whose window is at a guest address: an event for each queue.
    pub fn add(&mut self, window: u64, kicks: Arc<[EventFd]>) {
        self.0.push((window, kicks));
    }

    /// Asks for all of them, on a thread of its own that ends then. For each KVM waits until no vCPU looks at what there
    /// was before, which together is much of a start; meanwhile, and where KVM refuses, vCPUs leave the guest and hand
    /// notifications on themselves ([`crate::virtio::MmioTransport::write`]).
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn register(self, vm: Arc<VmFd>, filter: &Filter, starting: &mut Starting) -> io::Result<()> {
        let work = move || {
            for (window, kicks) in self.0 {
                let address = IoEventAddress::Mmio(window + QUEUE_NOTIFY);
                for (queue, kick) in kicks.iter().enumerate() {
                    if let Err(error) = vm.register_ioevent(kick, &address, queue as u32) {
                        fact!("KVM: registering a notification: {error}; those that are left are slower");
                        return;
                    }
                }
            }
        };
        starting.add("notifications", filter, work)
    }
}
