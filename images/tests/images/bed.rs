//! A place for images that are made to do harm.

use std::fs;
use std::time::{Duration, Instant};

use husk_images::{Image, ImageError, ImageStore, RegistryConfig};
use serde_json::Value;

use crate::support::assert_empty;
use crate::support::layout::Layout;

/// A directory with nothing but a layout, a store, and a file that is neither's.
pub struct Bed {
    pub dir: tempfile::TempDir,
    pub layout: Layout,
    pub store: ImageStore,
}

impl Bed {
    /// One whose store has that configuration.
    pub fn new(config: RegistryConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(&dir.path().join("layout"));
        let store = ImageStore::open(&dir.path().join("store"), config).unwrap();
        fs::write(dir.path().join("outside"), "{}").unwrap();
        Self { dir, layout, store }
    }

    /// Imports what the descriptor leads to.
    pub async fn import(&mut self, descriptor: Value) -> Result<Image, ImageError> {
        self.layout.tag("test", descriptor);
        let result = self.store.import_layout(&self.layout.dir, Some("test")).await;
        self.nothing_escaped();
        result
    }

    /// The same, which must fail soon, with a short text, and leave nothing.
    pub async fn refused(&mut self, descriptor: Value) -> ImageError {
        let begun = Instant::now();
        let error = self.import(descriptor).await.expect_err("accepted");
        assert!(begun.elapsed() < Duration::from_secs(20), "{error} took {:?}", begun.elapsed());
        assert!(error.to_string().len() < 3000, "an error of {} bytes", error.to_string().len());
        assert_empty(self.dir.path());
        error
    }

    /// Fails if anything but the layout and the store has changed.
    pub fn nothing_escaped(&self) {
        assert_eq!(fs::read_to_string(self.dir.path().join("outside")).unwrap(), "{}");
        let mut found: Vec<_> =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        found.sort();
        assert_eq!(found, ["layout", "outside", "store"]);
    }
}
