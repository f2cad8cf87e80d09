//! A look for damage: every file against what it was when it was published.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::index::{ImageRecord, LayerRecord, Sealed};
use super::seal::seal;
use super::{ImageStore, Inner, Usage};
use crate::digest;
use crate::error::Result;

/// A file that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it is, or was.
    pub file: PathBuf,
    /// What is wrong with it.
    pub problem: String,
}

/// What a look for damage found.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Files that were read, and their bytes.
    pub checked: Usage,
    /// The damaged ones. They are removed.
    pub damaged: Vec<Damage>,
    /// Names, or ids, of the images that had one of them. The store does not know them any more: a pull fetches
    /// what was removed, and only that.
    pub images: Vec<String>,
}

impl ImageStore {
    /// Reads everything, and forgets the layers with a damaged file and the images that need them.
    ///
    /// # Errors
    /// [`crate::ImageError::Io`] of the index or of a removal; a file that cannot be read is damaged.
    pub fn verify(&self) -> Result<Verified> {
        let mut found = Verified::default();
        let mut layers: Vec<(String, LayerRecord)> = Vec::new();
        for (diff_id, record) in self.inner.index.layers()? {
            let dir = self.inner.files.layer(&diff_id)?;
            if !(found.sealed(&dir.join("data"), record.data) & found.sealed(&dir.join("tree"), record.tree))
            {
                layers.push((diff_id, record));
            }
        }
        let mut images: Vec<(String, ImageRecord)> = Vec::new();
        for (id, record) in self.inner.index.images()? {
            let dir = self.inner.files.image(&id)?;
            let meta = found.sealed(&dir.join("meta"), record.meta);
            let config = found.content(&dir.join("config"), |bytes| digest::verify(bytes, &id));
            let manifest = found.sealed(&dir.join("manifest"), record.manifest);
            if !(meta & config & manifest) {
                images.push((id, record));
            }
        }
        self.inner.drop_damaged(found, &layers, &images)
    }
}

impl Inner {
    /// Forgets what is damaged. What was removed or made anew since it was read is none of it.
    fn drop_damaged(
        &self,
        mut found: Verified,
        layers: &[(String, LayerRecord)],
        images: &[(String, ImageRecord)],
    ) -> Result<Verified> {
        let _unchanged = self.pins.lock();
        let mut lost_layers = BTreeSet::new();
        for (diff_id, record) in layers {
            if self.index.layer(diff_id)?.as_ref() == Some(record) {
                lost_layers.insert(diff_id.clone());
            }
        }
        let known = self.index.images()?;
        let mut lost_images: BTreeSet<String> = known
            .iter()
            .filter(|(_, record)| record.layers.iter().any(|diff_id| lost_layers.contains(diff_id)))
            .map(|(id, _)| id.clone())
            .collect();
        lost_images.extend(
            images.iter().filter(|(id, record)| known.get(id) == Some(record)).map(|(id, _)| id.clone()),
        );
        let gone = |dir: PathBuf, id: &str, lost: &BTreeSet<String>| (!lost.contains(id)).then_some(dir);
        let mut stale = Vec::new();
        for (diff_id, _) in layers {
            stale.extend(gone(self.files.layer(diff_id)?, diff_id, &lost_layers));
        }
        for (id, _) in images {
            stale.extend(gone(self.files.image(id)?, id, &lost_images));
        }
        found.damaged.retain(|damage| !stale.iter().any(|dir| damage.file.starts_with(dir)));
        let references = self.index.references()?;
        for id in &lost_images {
            let names: Vec<_> =
                references.iter().filter(|(_, named)| named == id).map(|(name, _)| name.clone()).collect();
            let tags: Vec<_> = names.iter().filter(|name| !name.contains('@')).cloned().collect();
            match (tags.is_empty(), names.is_empty()) {
                (false, _) => found.images.extend(tags),
                (true, false) => found.images.extend(names),
                (true, true) => found.images.push(id.clone()),
            }
        }
        self.forget(&lost_images, &lost_layers)?;
        Ok(found)
    }
}

impl Verified {
    /// Whether the file at `path` is still what it was.
    fn sealed(&mut self, path: &Path, expected: Sealed) -> bool {
        let problem = match seal(path) {
            Ok(found) if found == expected => None,
            Ok(found) if found.length != expected.length => {
                Some(format!("{} bytes instead of {}", found.length, expected.length))
            }
            Ok(_) => Some("its content has changed".to_owned()),
            Err(error) => Some(error.to_string()),
        };
        self.note(path, expected.length, problem)
    }

    /// Whether `check` accepts the content of the small file at `path`.
    fn content(&mut self, path: &Path, check: impl FnOnce(&[u8]) -> Result<()>) -> bool {
        let (length, problem) = match fs::read(path) {
            Ok(bytes) => (bytes.len() as u64, check(&bytes).err().map(|error| error.to_string())),
            Err(error) => (0, Some(error.to_string())),
        };
        self.note(path, length, problem)
    }

    fn note(&mut self, path: &Path, length: u64, problem: Option<String>) -> bool {
        self.checked.inodes += 1;
        self.checked.bytes += length;
        let whole = problem.is_none();
        self.damaged.extend(problem.map(|problem| Damage { file: path.to_owned(), problem }));
        whole
    }
}
