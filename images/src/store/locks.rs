//! Locks by name, so that work on one thing is done once.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, Weak};

use tokio::sync::Mutex;

/// The locks in use.
#[derive(Debug, Default)]
pub(crate) struct Locks(std::sync::Mutex<BTreeMap<String, Weak<Mutex<()>>>>);

impl Locks {
    /// The lock called `name`.
    pub(crate) fn get(&self, name: &str) -> Arc<Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() != 0);
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(name.to_owned(), Arc::downgrade(&lock));
        lock
    }
}
