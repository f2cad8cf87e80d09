//! A transactional file of records (redb) that can be worked with again after its disk has failed.
//!
//! redb refuses every call after one whose reading or writing has failed, until the file is opened again. A disk that was
//! full for a moment would be the end of the process's work.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{DatabaseError, ReadTransaction, ReadableDatabase, TableDefinition, TableError, WriteTransaction};

/// In which format the records are, under the only key.
const FORMAT: TableDefinition<&str, u64> = TableDefinition::new("format");
const KEY: &str = "records";

/// What is asked of a file of records, or why it cannot be had.
pub type Done<T> = Result<T, redb::Error>;

/// Why a file of records cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// [`DatabaseError::DatabaseAlreadyOpen`] when another process has it open; what is wrong with it otherwise.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// It cannot be read or written.
    #[error(transparent)]
    Records(redb::Error),
    /// Its records may say what this program does not understand.
    #[error("its records are of format {found}, of a newer husk; this one knows formats up to {known}")]
    Newer {
        /// That of the file.
        found: u64,
        /// The newest that is known.
        known: u64,
    },
}

/// The file, and whether it is open.
pub struct Database {
    path: PathBuf,
    open: Mutex<Option<redb::Database>>,
}

impl Database {
    /// Opens or makes the file at `path`, whose records are of `format` or an earlier one: fields that are added need no
    /// new one, a record or value that an earlier program would misunderstand does.
    ///
    /// # Errors
    /// [`OpenError`]; a newer file is left as it is.
    pub fn open(path: &Path, format: u64) -> Result<Self, OpenError> {
        let open = redb::Database::create(path)?;
        let database = Self { path: path.to_owned(), open: Mutex::new(Some(open)) };
        match database.look(recorded_format).map_err(OpenError::Records)? {
            Some(found) if found > format => return Err(OpenError::Newer { found, known: format }),
            Some(found) if found == format => {}
            _ => database.note_format(format).map_err(OpenError::Records)?,
        }
        Ok(database)
    }

    fn note_format(&self, format: u64) -> Done<()> {
        self.change(|write| {
            write.open_table(FORMAT)?.insert(KEY, format)?;
            Ok(())
        })
    }

    /// Reads; once more with the file opened again when the disk has failed, now or before.
    ///
    /// # Errors
    /// What `work` says, or the opening.
    pub fn look<T>(&self, work: impl Fn(&ReadTransaction) -> Done<T>) -> Done<T> {
        self.with(|open| work(&open.begin_read()?))
    }

    /// Changes the file, wholly or not at all, and on the disk when this returns; tries as [`Self::look`] does.
    ///
    /// # Errors
    /// What `work` says, or the opening.
    pub fn change(&self, work: impl Fn(&WriteTransaction) -> Done<()>) -> Done<()> {
        self.with(|open| {
            let write = open.begin_write()?;
            work(&write)?;
            Ok(write.commit()?)
        })
    }

    fn with<T>(&self, work: impl Fn(&redb::Database) -> Done<T>) -> Done<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match &*open {
            Some(database) => work(database),
            None => Err(redb::Error::PreviousIo),
        };
        match outcome {
            Err(redb::Error::PreviousIo | redb::Error::Io(_)) => {
                // First closed: the file is locked as long as it is open.
                *open = None;
                work(open.insert(redb::Database::create(&self.path)?))
            }
            outcome => outcome,
        }
    }
}

/// `None`: of the first, which did not say so.
fn recorded_format(read: &ReadTransaction) -> Done<Option<u64>> {
    match read.open_table(FORMAT) {
        Ok(table) => Ok(table.get(KEY)?.map(|format| format.value())),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Database").field(&self.path).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_failed_disk_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("records"), 1).unwrap();
        let full = || redb::Error::Io(std::io::ErrorKind::StorageFull.into());
        let calls = Cell::new(0);
        let outcome = database.with(|_| {
            calls.set(calls.get() + 1);
            if calls.get() == 1 { Err(full()) } else { Ok(calls.get()) }
        });
        assert_eq!(outcome.unwrap(), 2);
        assert!(matches!(database.with(|_| Err::<(), _>(full())), Err(redb::Error::Io(_))));
        database.with(|_| Ok(())).unwrap();
    }

    #[test]
    fn newer_records_are_refused_and_older_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        drop(redb::Database::create(&path).unwrap());
        drop(Database::open(&path, 1).unwrap());
        drop(Database::open(&path, 3).unwrap());
        let content = std::fs::read(&path).unwrap();
        let refused = Database::open(&path, 2).unwrap_err();
        assert!(matches!(refused, OpenError::Newer { found: 3, known: 2 }), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap().len(), content.len());
        drop(Database::open(&path, 3).unwrap());
    }

    #[test]
    fn another_error_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("records"), 1).unwrap();
        let calls = Cell::new(0);
        let outcome = database.with(|_| {
            calls.set(calls.get() + 1);
            Err::<(), _>(redb::Error::TableDoesNotExist("t".into()))
        });
        assert!(matches!(outcome, Err(redb::Error::TableDoesNotExist(_))));
        assert_eq!(calls.get(), 1);
    }
}
