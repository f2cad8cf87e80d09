//! Raw system calls and the crate's only `unsafe`. Each function states what makes it sound, and offers a
//! safe interface to the rest.

#[cfg(feature = "vmm")]
mod anonymous;
#[cfg(feature = "vmm")]
mod guest_io;
#[cfg(feature = "vmm")]
mod heap;
#[cfg(feature = "vmm")]
mod kvm;
mod make_tap;
#[cfg(feature = "vmm")]
mod signals;
#[cfg(feature = "vmm")]
mod tap;

pub use make_tap::make_tap;
#[cfg(feature = "vmm")]
pub use {anonymous::*, guest_io::*, heap::*, kvm::*, signals::*, tap::*};
