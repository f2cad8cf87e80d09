//! Raw system calls and the crate's only `unsafe`. Each function states what makes it sound, and offers a
//! safe interface to the rest.

mod anonymous;
mod guest_io;
mod heap;
mod kvm;
mod signals;
mod tap;

pub use {anonymous::*, guest_io::*, heap::*, kvm::*, signals::*, tap::*};
