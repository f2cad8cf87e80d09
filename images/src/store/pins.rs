//! Layers that pulls under way count on: they stay, though no image names them yet.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::spawn_blocking;

use super::Inner;
use crate::error::{IoContext, Result};

/// Numbers of pulls by diff-id. Whoever publishes or removes content holds the lock meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Pins(Mutex<BTreeMap<String, usize>>);

impl Pins {
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
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
            *pins.entry(diff_id.clone()).or_default() += 1;
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
            if let Some(count) = pins.get_mut(diff_id) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(diff_id);
                }
            }
        }
        if let Err(error) = self.store.collect(&pins, Default::default()) {
            tracing::warn!("cannot remove the layers of an abandoned pull: {error}");
        }
    }
}
