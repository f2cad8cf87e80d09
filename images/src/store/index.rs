//! The store's records, in one transactional file.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use redb::{DatabaseError, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::database::{Database, Done, OpenError};
use crate::error::{ImageError, Result};

const IMAGES: TableDefinition<&str, &[u8]> = TableDefinition::new("images");
const LAYERS: TableDefinition<&str, &[u8]> = TableDefinition::new("layers");
/// Complete references and the images they name.
const REFERENCES: TableDefinition<&str, &str> = TableDefinition::new("references");

/// The format of the records; see [`Database::open`].
const RECORD_FORMAT: u64 = 1;

/// How long an index that is in use is waited for: a process killed as it starts a worker leaves the lock to its
/// child until that runs the worker's program.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_POLL: Duration = Duration::from_millis(10);

/// An image, by its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// The layers' diff-ids, lowest first.
    pub(crate) layers: Vec<String>,
    /// Its metadata; empty for a disk image, which has none of ours.
    pub(crate) meta: Sealed,
    /// Its manifest; empty for a disk that came as a file.
    pub(crate) manifest: Sealed,
}

impl ImageRecord {
    /// Whether it is a disk image: its only layer is the disk.
    pub(crate) fn is_disk(&self) -> bool {
        self.meta.length == 0
    }
}

/// A layer, by its diff-id. A disk is a layer with an empty tree, by [`super::disk::key`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Digest of the blob that it was made from.
    pub(crate) blob: String,
    pub(crate) data: Sealed,
    pub(crate) tree: Sealed,
}

/// What a file was when it was published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sealed {
    /// Bytes.
    pub(crate) length: u64,
    /// CRC-32 of them, by which damage is found. It is no defence against who may write the store.
    pub(crate) crc: u32,
}

/// The open index. Every change is on disk when its call returns.
pub(crate) struct Index {
    db: Database,
}

impl Index {
    /// Opens or makes the index at `path`, which no other process may have open.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let begun = Instant::now();
        let db = loop {
            match Database::open(path, RECORD_FORMAT) {
                Ok(db) => break db,
                Err(OpenError::Database(DatabaseError::DatabaseAlreadyOpen)) => {
                    if begun.elapsed() >= LOCK_PATIENCE {
                        return Err(ImageError::InUse(path.display().to_string()));
                    }
                    sleep(LOCK_POLL);
                }
                Err(error) => return Err(unusable(path, error)),
            }
        };
        let index = Self { db };
        index.change(|write| {
            write.open_table(IMAGES)?;
            write.open_table(LAYERS)?;
            write.open_table(REFERENCES)?;
            Ok(())
        })?;
        Ok(index)
    }

    pub(crate) fn image(&self, id: &str) -> Result<Option<ImageRecord>> {
        self.get(IMAGES, id)
    }

    pub(crate) fn layer(&self, diff_id: &str) -> Result<Option<LayerRecord>> {
        self.get(LAYERS, diff_id)
    }

    pub(crate) fn images(&self) -> Result<BTreeMap<String, ImageRecord>> {
        self.all(IMAGES)
    }

    pub(crate) fn layers(&self) -> Result<BTreeMap<String, LayerRecord>> {
        self.all(LAYERS)
    }

    /// The image that `reference` names.
    pub(crate) fn resolve(&self, reference: &str) -> Result<Option<String>> {
        self.look(|read| {
            let found = read.open_table(REFERENCES)?.get(reference)?;
            Ok(found.map(|id| id.value().to_owned()))
        })
    }

    /// All references, sorted, with the images they name.
    pub(crate) fn references(&self) -> Result<Vec<(String, String)>> {
        self.look(|read| {
            let table = read.open_table(REFERENCES)?;
            let mut found = Vec::new();
            for row in table.iter()? {
                let (reference, id) = row?;
                found.push((reference.value().to_owned(), id.value().to_owned()));
            }
            Ok(found)
        })
    }

    pub(crate) fn put_layer(&self, diff_id: &str, record: &LayerRecord) -> Result<()> {
        let record = encode(record)?;
        self.change(|write| {
            write.open_table(LAYERS)?.insert(diff_id, &record[..])?;
            Ok(())
        })
    }

    /// Adds the image `id` with `references`, which then name no other image.
    pub(crate) fn put_image(&self, id: &str, record: &ImageRecord, references: &[String]) -> Result<()> {
        let record = encode(record)?;
        self.change(|write| {
            write.open_table(IMAGES)?.insert(id, &record[..])?;
            let mut table = write.open_table(REFERENCES)?;
            for reference in references {
                table.insert(reference.as_str(), id)?;
            }
            Ok(())
        })
    }

    /// Forgets `images` with all references to them, and `layers`.
    pub(crate) fn delete(&self, images: &BTreeSet<String>, layers: &BTreeSet<String>) -> Result<()> {
        self.change(|write| {
            let mut table = write.open_table(IMAGES)?;
            for id in images {
                table.remove(id.as_str())?;
            }
            let mut table = write.open_table(REFERENCES)?;
            table.retain(|_, id| !images.contains(id))?;
            let mut table = write.open_table(LAYERS)?;
            for diff_id in layers {
                table.remove(diff_id.as_str())?;
            }
            Ok(())
        })
    }

    fn get<T: DeserializeOwned>(&self, table: TableDefinition<&str, &[u8]>, key: &str) -> Result<Option<T>> {
        let record = self.look(|read| {
            let found = read.open_table(table)?.get(key)?;
            Ok(found.map(|record| record.value().to_vec()))
        })?;
        record.map(|record| decode(&record)).transpose()
    }

    fn all<T: DeserializeOwned>(&self, table: TableDefinition<&str, &[u8]>) -> Result<BTreeMap<String, T>> {
        let rows = self.look(|read| {
            let mut found = Vec::new();
            for row in read.open_table(table)?.iter()? {
                let (key, record) = row?;
                found.push((key.value().to_owned(), record.value().to_vec()));
            }
            Ok(found)
        })?;
        rows.into_iter().map(|(key, record)| Ok((key, decode(&record)?))).collect()
    }

    fn look<T>(&self, work: impl Fn(&ReadTransaction) -> Done<T>) -> Result<T> {
        self.db.look(work).map_err(failed)
    }

    fn change(&self, work: impl Fn(&WriteTransaction) -> Done<()>) -> Result<()> {
        self.db.change(work).map_err(failed)
    }
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(|e| index_io(e.into()))
}

fn decode<T: DeserializeOwned>(record: &[u8]) -> Result<T> {
    serde_json::from_slice(record).map_err(|e| index_io(e.into()))
}

fn failed(error: redb::Error) -> ImageError {
    index_io(match error {
        redb::Error::Io(error) => error,
        error => io::Error::other(error),
    })
}

/// What lies in the place of the index, or is left of it.
fn unusable(path: &Path, error: OpenError) -> ImageError {
    let error = match error {
        OpenError::Database(error) => error.into(),
        OpenError::Records(error) => error,
        OpenError::Newer { .. } => {
            let what = format!("the image store's index {}: start the newer husk again", path.display());
            return ImageError::Io { what, source: io::Error::other(error) };
        }
    };
    let what = format!(
        "the image store's index {}, which is damaged if its disk is not: move the image store's directory away, and pull the \
         images again",
        path.display()
    );
    match failed(error) {
        ImageError::Io { source, .. } => ImageError::Io { what, source },
        other => other,
    }
}

fn index_io(source: io::Error) -> ImageError {
    ImageError::Io { what: "the image store's index".into(), source }
}
