//! Layers that pulls under way count on: they stay, though no image names them yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Inner;

/// Numbers of pulls by diff-id. Whoever publishes or removes content holds the lock meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<BTreeMap<String, usize>>);

impl Pins {
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One pull's pins. Dropping them removes the layers that no one else wants.
pub(crate) struct Pinned {
    store: Arc<Inner>,
    diff_ids: Vec<String>,
}

impl Pinned {
    pub(crate) fn new(store: &Arc<Inner>, diff_ids: &[String]) -> Self {
        let mut pins = store.pins.lock();
        for diff_id in diff_ids {
            *pins.entry(diff_id.clone()).or_default() += 1;
        }
        Self { store: Arc::clone(store), diff_ids: diff_ids.to_vec() }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pins = self.store.pins.lock();
        for diff_id in &self.diff_ids {
            if let Some(count) = pins.get_mut(diff_id) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(diff_id);
                }
            }
        }
        if let Err(error) = self.store.collect(&pins, None) {
            tracing::warn!("cannot remove the layers of an abandoned pull: {error}");
        }
    }
}
