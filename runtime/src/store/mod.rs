//! The daemon's records, in one transactional file: what survives its death.
//!
//! A record is a protobuf message, so that fields can be added and an older file still reads.

mod records;

use std::path::Path;

use husk_failpoint::reach;
use prost::Message;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

pub use records::{ContainerRecord, HostDevice, Medium, Phase, SandboxRecord};

use crate::error::{Error, Result};

const SANDBOXES: TableDefinition<&str, &[u8]> = TableDefinition::new("sandboxes");
const CONTAINERS: TableDefinition<&str, &[u8]> = TableDefinition::new("containers");

/// The open store. Every write is on disk when its call returns.
pub struct Store {
    db: Database,
}

impl Store {
    /// Opens or makes `path`. A second daemon on the same file is refused.
    pub fn open(path: &Path) -> Result<Store> {
        let db = Database::create(path).map_err(|e| {
            Error::Unavailable(format!(
                "cannot open the store {}: {e}; if another husk uses it, stop that one",
                path.display()
            ))
        })?;
        let write = db.begin_write().map_err(internal)?;
        write.open_table(SANDBOXES).map_err(internal)?;
        write.open_table(CONTAINERS).map_err(internal)?;
        write.commit().map_err(internal)?;
        Ok(Store { db })
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
        let write = self.db.begin_write().map_err(internal)?;
        write
            .open_table(table)
            .map_err(internal)?
            .insert(key, record.encode_to_vec().as_slice())
            .map_err(internal)?;
        write.commit().map_err(internal)
    }

    fn delete(&self, table: TableDefinition<&str, &[u8]>, key: &str) -> Result<()> {
        let write = self.db.begin_write().map_err(internal)?;
        write.open_table(table).map_err(internal)?.remove(key).map_err(internal)?;
        write.commit().map_err(internal)
    }

    fn all<T: Message + Default>(&self, table: TableDefinition<&str, &[u8]>) -> Result<Vec<T>> {
        let read = self.db.begin_read().map_err(internal)?;
        let table = read.open_table(table).map_err(internal)?;
        table
            .iter()
            .map_err(internal)?
            .map(|entry| {
                let (key, value) = entry.map_err(internal)?;
                T::decode(value.value()).map_err(|e| {
                    Error::Internal(format!("the store's record {:?} is damaged: {e}", key.value()))
                })
            })
            .collect()
    }
}

fn internal(error: impl std::fmt::Display) -> Error {
    Error::Internal(format!("store: {error}"))
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
        assert!(matches!(Store::open(&path), Err(Error::Unavailable(_))));
    }
}
