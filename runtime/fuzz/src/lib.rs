//! The daemon's parsers of what clients send, as the daemon has them: it is a program, and has no library.
#![allow(dead_code)]

/// What the modules below need of the daemon.
mod node {
    use std::sync::{Mutex, MutexGuard, PoisonError};

    pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[path = "../../src/streaming/spdy/mod.rs"]
pub mod spdy;
