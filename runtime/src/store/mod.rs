//! The daemon's records, in one transactional file: what survives its death.
//!
//! A record is a protobuf message, so that fields can be added and an older file still reads.

mod records;

use std::io::ErrorKind;
use std::path::Path;

use husk_failpoint::reach;
use husk_images::Database;
use prost::Message;
use redb::{DatabaseError, ReadableTable, StorageError, TableDefinition, WriteTransaction};

pub use records::{ContainerRecord, HostDevice, Medium, Phase, SandboxRecord};

use crate::error::{Error, Result};

const SANDBOXES: TableDefinition<&str, &[u8]> = TableDefinition::new("sandboxes");
const CONTAINERS: TableDefinition<&str, &[u8]> = TableDefinition::new("containers");

/// The open store. Every write is on disk when its call returns.
pub struct Store {
    db: Database,
}

impl Store {
    /// Opens or makes `path`. A second daemon on the same file is refused, and so is a file that is none of husk's or is
    /// damaged: what it knew is not made up for by an empty one.
    pub fn open(path: &Path) -> Result<Store> {
        let db = Database::open(path).map_err(|error| {
            let way_out = match error {
                DatabaseError::DatabaseAlreadyOpen => "another husk uses it: stop that one",
                DatabaseError::Storage(StorageError::Io(ref error)) if error.kind() != ErrorKind::InvalidData => {
                    "its disk must be writable and have room"
                }
                _ => {
                    "it is damaged: put back an older copy, or move it away; husk then knows of none of its pods, and \
                     ends those that run"
                }
            };
            Error::Unavailable(format!("cannot open the store {}: {error}; {way_out}", path.display()))
        })?;
        let store = Store { db };
        store.change(|write| {
            write.open_table(SANDBOXES)?;
            write.open_table(CONTAINERS)?;
            Ok(())
        })?;
        Ok(store)
    }

    /// Writes a sandbox's record, new or changed.
    pub fn put_sandbox(&self, record: &SandboxRecord) -> Result<()> {
        let written = self.put(SANDBOXES, &record.id, record);
        reach(format_args!("recorded a sandbox as {:?}", record.phase()));
        written
    }

    /// Forgets a sandbox. An unknown id is not an error.
    pub fn delete_sandbox(&self, id: &str) -> Result<()> {
        let deleted = self.delete(SANDBOXES, id);
        reach(format_args!("forgot a sandbox"));
        deleted
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> Result<Vec<SandboxRecord>> {
        self.all(SANDBOXES)
    }

    /// Writes a container's record, new or changed.
    pub fn put_container(&self, record: &ContainerRecord) -> Result<()> {
        let written = self.put(CONTAINERS, &record.id, record);
        reach(format_args!("recorded a container as {:?}", record.phase()));
        written
    }

    /// Forgets a container. An unknown id is not an error.
    pub fn delete_container(&self, id: &str) -> Result<()> {
        let deleted = self.delete(CONTAINERS, id);
        reach(format_args!("forgot a container"));
        deleted
    }

    /// All containers.
    pub fn containers(&self) -> Result<Vec<ContainerRecord>> {
        self.all(CONTAINERS)
    }

    fn put(&self, table: TableDefinition<&str, &[u8]>, key: &str, record: &impl Message) -> Result<()> {
        let record = record.encode_to_vec();
        self.change(|write| {
            write.open_table(table)?.insert(key, record.as_slice())?;
            Ok(())
        })
    }

    fn delete(&self, table: TableDefinition<&str, &[u8]>, key: &str) -> Result<()> {
        self.change(|write| {
            write.open_table(table)?.remove(key)?;
            Ok(())
        })
    }

    fn change(&self, work: impl Fn(&WriteTransaction) -> Result<(), redb::Error>) -> Result<()> {
        self.db.change(work).map_err(failed)
    }

    fn all<T: Message + Default>(&self, table: TableDefinition<&str, &[u8]>) -> Result<Vec<T>> {
        let rows = self.db.look(|read| {
            let mut rows = Vec::new();
            for row in read.open_table(table)?.iter()? {
                let (key, value) = row?;
                rows.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(rows)
        });
        let decode = |(key, value): (String, Vec<u8>)| {
            T::decode(value.as_slice())
                .map_err(|e| Error::Internal(format!("the store's record {key:?} is damaged: {e}")))
        };
        rows.map_err(failed)?.into_iter().map(decode).collect()
    }
}

fn failed(error: redb::Error) -> Error {
    match error {
        redb::Error::Io(error) if error.kind() == ErrorKind::StorageFull => {
            Error::Exhausted(format!("the store's disk is full: {error}"))
        }
        error => Error::Internal(format!("store: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_a_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("husk.redb");
        let record = SandboxRecord { id: "a".into(), ips: vec!["10.0.0.1".into()], ..Default::default() };
        let store = Store::open(&path).unwrap();
        store.put_sandbox(&record).unwrap();
        store.put_sandbox(&SandboxRecord { id: "b".into(), ..Default::default() }).unwrap();
        store.delete_sandbox("b").unwrap();
        store.delete_sandbox("b").unwrap();
        drop(store);
        assert_eq!(Store::open(&path).unwrap().sandboxes().unwrap(), vec![record]);
    }

    #[test]
    fn a_second_daemon_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("husk.redb");
        let _first = Store::open(&path).unwrap();
        assert!(matches!(Store::open(&path), Err(Error::Unavailable(text)) if text.contains("another husk")));
    }

    #[test]
    fn what_is_no_store_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("husk.redb");
        drop(Store::open(&path).unwrap());
        let mut damaged = std::fs::read(&path).unwrap();
        damaged[..64].fill(0xa5);
        for content in [damaged, b"not a store".repeat(1000)] {
            std::fs::write(&path, &content).unwrap();
            let refused = Store::open(&path).err().map(|e| e.to_string()).unwrap_or_default();
            assert!(refused.contains("husk.redb") && refused.contains("it is damaged"), "{refused}");
            assert!(std::fs::read(&path).unwrap() == content);
        }
    }
}
