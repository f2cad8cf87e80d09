//! A transactional file of records (redb) that can be worked with again after its disk has failed.
//!
//! redb refuses every call after one whose reading or writing has failed, until the file is opened again. A disk that was
//! full for a moment would be the end of the process's work.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use redb::{DatabaseError, ReadTransaction, ReadableDatabase, WriteTransaction};

/// What is asked of a file of records, or why it cannot be had.
pub type Done<T> = Result<T, redb::Error>;

/// The file, and whether it is open.
pub struct Database {
    path: PathBuf,
    open: Mutex<Option<redb::Database>>,
}

impl Database {
    /// Opens or makes the file at `path`.
    ///
    /// # Errors
    /// [`DatabaseError::DatabaseAlreadyOpen`] when another process has it open; what is wrong with it otherwise.
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        let open = redb::Database::create(path)?;
        Ok(Self { path: path.to_owned(), open: Mutex::new(Some(open)) })
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
        let database = Database::open(&dir.path().join("records")).unwrap();
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
    fn another_error_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(&dir.path().join("records")).unwrap();
        let calls = Cell::new(0);
        let outcome = database.with(|_| {
            calls.set(calls.get() + 1);
            Err::<(), _>(redb::Error::TableDoesNotExist("t".into()))
        });
        assert!(matches!(outcome, Err(redb::Error::TableDoesNotExist(_))));
        assert_eq!(calls.get(), 1);
    }
}
