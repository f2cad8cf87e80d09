//! Layers that stay though no image names them yet: pulls count on them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::spawn_blocking;

use super::Inner;
use crate::error::{IoContext, Result};

/// What pulls count on. Whoever publishes or removes content holds the lock meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<Wanted>);

/// Layers that are wanted, by diff-id.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Numbers of pulls under way.
    pulls: BTreeMap<String, usize>,
    /// Whole ones of a pull that ended with its process: the next pull of the image goes on from them.
    unfinished: BTreeSet<String>,
}

impl Wanted {
    /// Does anyone count on the layer?
    pub(crate) fn has(&self, diff_id: &str) -> bool {
        self.pulls.contains_key(diff_id) || self.unfinished.contains(diff_id)
    }

    /// Keeps layers of pulls that were cut short.
    pub(crate) fn keep_unfinished(&mut self, diff_ids: BTreeSet<String>) {
        self.unfinished = diff_ids;
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.pulls.is_empty() && self.unfinished.is_empty()
    }
}

impl Pins {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Wanted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One pull's pins. When the pull and all its work in the background are over, the layers that no one else wants
/// are removed.
pub(crate) struct Pinned {
    store: Arc<Inner>,
    diff_ids: Vec<String>,
}

impl Pinned {
    pub(crate) fn new(store: &Arc<Inner>, diff_ids: &[String]) -> Arc<Self> {
        let mut pins = store.pins.lock();
        for diff_id in diff_ids {
            *pins.pulls.entry(diff_id.clone()).or_default() += 1;
            pins.unfinished.remove(diff_id);
        }
        Arc::new(Self { store: Arc::clone(store), diff_ids: diff_ids.to_vec() })
    }

    /// The pinned layers, in the image's order.
    pub(crate) fn diff_ids(&self) -> &[String] {
        &self.diff_ids
    }

    /// Runs `work`, which waits for the disk, where it holds up no one. It cannot be abandoned once it has begun,
    /// so the pins last until its end, even if the pull does not.
    pub(crate) async fn hold_while<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let held = Arc::clone(self);
        let done = spawn_blocking(move || {
            let result = work();
            drop(held);
            result
        });
        match done.await {
            Ok(result) => result,
            Err(error) => Err(io::Error::other(error)).during(|| "the image store's own thread".into()),
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut pins = self.store.pins.lock();
        for diff_id in &self.diff_ids {
            if let Some(count) = pins.pulls.get_mut(diff_id) {
                *count -= 1;
                if *count == 0 {
                    pins.pulls.remove(diff_id);
                }
            }
        }
        if let Err(error) = self.store.collect(&pins, Default::default()) {
            tracing::warn!("cannot remove the layers of an abandoned pull: {error}");
        }
    }
}
