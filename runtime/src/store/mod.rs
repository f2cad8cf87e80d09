//! The daemon's records, in one transactional file: what survives its death.
//!
//! A record is a protobuf message, so that fields can be added and an older file still reads.

mod records;

use std::io::ErrorKind;
use std::path::Path;

use husk_failpoint::reach;
use husk_images::{Database, OpenError};
use prost::Message;
use redb::{DatabaseError, ReadableTable, StorageError, TableDefinition, WriteTransaction};

pub use records::{ContainerRecord, HostDevice, Medium, Phase, SandboxRecord};

use crate::error::{Error, Result};

const SANDBOXES: TableDefinition<&str, &[u8]> = TableDefinition::new("sandboxes");
const CONTAINERS: TableDefinition<&str, &[u8]> = TableDefinition::new("containers");

/// The format of the records; see [`Database::open`].
const FORMAT: u64 = 1;

/// The open store. Every write is on disk when its call returns.
pub struct Store {
    db: Database,
}

impl Store {
    /// Opens or makes `path`. A second daemon on the same file is refused, and so is a file that is none of husk's or is
    /// damaged: what it knew is not made up for by an empty one.
    pub fn open(path: &Path) -> Result<Store> {
        let db = Database::open(path, FORMAT).map_err(|error| {
            let disk = |error: &std::io::Error| error.kind() != ErrorKind::InvalidData;
            let way_out = match &error {
                OpenError::Newer { .. } => "start that one again; pods go on meanwhile",
                OpenError::Database(DatabaseError::DatabaseAlreadyOpen) => "another husk uses it: stop that one",
                OpenError::Database(DatabaseError::Storage(StorageError::Io(error))) if disk(error) => {
                    "its disk must be writable and have room"
                }
                OpenError::Records(redb::Error::Io(error)) if disk(error) => "its disk must be writable and have room",
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

    /// Writes a new sandbox's record.
    pub fn add_sandbox(&self, record: &SandboxRecord) -> Result<()> {
        let written = self.add(SANDBOXES, &record.id, record);
        reach(format_args!("recorded a sandbox as {:?}", record.phase()));
        written
    }

    /// Writes a sandbox's changed record. One that is forgotten stays so.
    pub fn change_sandbox(&self, record: &SandboxRecord) -> Result<()> {
        let written = self.replace(SANDBOXES, &record.id, record);
        reach(format_args!("recorded a sandbox as {:?}", record.phase()));
        written
    }

    /// Forgets a sandbox and its containers, all at once. Unknown ids are no error.
    pub fn delete_sandbox(&self, id: &str, containers: &[&str]) -> Result<()> {
        let deleted = self.change(|write| {
            let mut table = write.open_table(CONTAINERS)?;
            containers.iter().try_for_each(|id| table.remove(*id).map(drop))?;
            write.open_table(SANDBOXES)?.remove(id)?;
            Ok(())
        });
        reach(format_args!("forgot a sandbox"));
        deleted
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> Result<Vec<SandboxRecord>> {
        self.all(SANDBOXES)
    }

    /// Writes a new container's record.
    pub fn add_container(&self, record: &ContainerRecord) -> Result<()> {
        let written = self.add(CONTAINERS, &record.id, record);
        reach(format_args!("recorded a container as {:?}", record.phase()));
        written
    }

    /// Writes a container's changed record. One that is forgotten stays so.
    pub fn change_container(&self, record: &ContainerRecord) -> Result<()> {
        let written = self.replace(CONTAINERS, &record.id, record);
        reach(format_args!("recorded a container as {:?}", record.phase()));
        written
    }

    /// Forgets a container. An unknown id is not an error.
    pub fn delete_container(&self, id: &str) -> Result<()> {
        let deleted = self.change(|write| {
            write.open_table(CONTAINERS)?.remove(id)?;
            Ok(())
        });
        reach(format_args!("forgot a container"));
        deleted
    }

    /// All containers.
    pub fn containers(&self) -> Result<Vec<ContainerRecord>> {
        self.all(CONTAINERS)
    }

    fn add(&self, table: TableDefinition<&str, &[u8]>, key: &str, record: &impl Message) -> Result<()> {
        let record = record.encode_to_vec();
        self.change(|write| {
            write.open_table(table)?.insert(key, record.as_slice())?;
            Ok(())
        })
    }

    fn replace(&self, table: TableDefinition<&str, &[u8]>, key: &str, record: &impl Message) -> Result<()> {
        let record = record.encode_to_vec();
        self.change(|write| {
            let mut table = write.open_table(table)?;
            if table.get(key)?.is_some() {
                table.insert(key, record.as_slice())?;
            }
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
    let text = format!("the store: {error}");
    let host = match &error {
        redb::Error::Io(error) => Error::of_host(&text, error),
        _ => None,
    };
    host.unwrap_or(Error::Internal(text))
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
        store.add_sandbox(&record).unwrap();
        store.add_sandbox(&SandboxRecord { id: "b".into(), ..Default::default() }).unwrap();
        store.delete_sandbox("b", &[]).unwrap();
        store.delete_sandbox("b", &[]).unwrap();
        drop(store);
        assert_eq!(Store::open(&path).unwrap().sandboxes().unwrap(), vec![record]);
    }

    #[test]
    fn a_sandbox_is_forgotten_with_its_containers() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("husk.redb")).unwrap();
        store.add_sandbox(&SandboxRecord { id: "a".into(), ..Default::default() }).unwrap();
        for id in ["1", "2", "3"] {
            store.add_container(&ContainerRecord { id: id.into(), ..Default::default() }).unwrap();
        }
        store.delete_sandbox("a", &["1", "3", "unknown"]).unwrap();
        assert_eq!(store.sandboxes().unwrap(), []);
        let left: Vec<String> = store.containers().unwrap().into_iter().map(|record| record.id).collect();
        assert_eq!(left, ["2"]);
    }

    #[test]
    fn what_is_forgotten_stays_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("husk.redb")).unwrap();
        let mut record = SandboxRecord { id: "a".into(), ..Default::default() };
        store.add_sandbox(&record).unwrap();
        record.memory_mib = 256;
        store.change_sandbox(&record).unwrap();
        assert_eq!(store.sandboxes().unwrap(), [record.clone()]);
        store.delete_sandbox("a", &[]).unwrap();
        store.change_sandbox(&record).unwrap();
        assert_eq!(store.sandboxes().unwrap(), []);
    }

    #[test]
    fn records_of_other_builds_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("husk.redb")).unwrap();
        let record = SandboxRecord { id: "a".into(), memory_mib: 256, ..Default::default() };
        // A field that this build does not know: the number 7 with the tag 999.
        let newer = [record.encode_to_vec(), vec![0xb8, 0x3e, 7]].concat();
        // And one that knows nothing but ids.
        let older = vec![10, 1, b'b'];
        store
            .change(|write| {
                let mut table = write.open_table(SANDBOXES)?;
                table.insert("a", newer.as_slice())?;
                table.insert("b", older.as_slice())?;
                Ok(())
            })
            .unwrap();
        let bare = SandboxRecord { id: "b".into(), ..Default::default() };
        assert_eq!(store.sandboxes().unwrap(), [record, bare]);
    }

    #[test]
    fn a_newer_store_is_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("husk.redb");
        drop(Database::open(&path, FORMAT + 1).unwrap());
        let refused = Store::open(&path).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused.contains("of a newer husk") && refused.contains("start that one again"), "{refused}");
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
