//! Records of attachments, one file a sandbox: written before ADD and completed after it, so that DEL can be
//! run with what ADD used, whatever happened in between to the daemon, the host or the configuration.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::{NetworkError, private_dir};
use super::Attachment;
use super::config::NetworkList;

/// The form of [`Record`] that is written.
const FORMAT: u32 = 1;

/// The largest record, in bytes: a configuration, a result and the rest.
const MAX_RECORD: u64 = 4 << 20;

/// The extension of a record's file.
const EXTENSION: &str = "json";

/// One sandbox's attachment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct Record {
    format: u32,
    pub(in super::super) attachment: Attachment,
    pub(in super::super) list: NetworkList,
    /// None until ADD has succeeded.
    pub(in super::super) result: Option<Value>,
}

impl Record {
    pub(in super::super) fn new(attachment: Attachment, list: NetworkList) -> Self {
        Self { format: FORMAT, attachment, list, result: None }
    }
}

/// A directory of records.
#[derive(Clone, Debug)]
pub(in super::super) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub(in super::super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Writes the first record of a sandbox.
    ///
    /// # Errors
    /// [`NetworkError::AlreadySetUp`] when there is one.
    pub(in super::super) fn create(&self, record: &Record) -> Result<(), NetworkError> {
        private_dir(&self.dir).map_err(|source| failed(&self.dir, source))?;
        let id = &record.attachment.container_id;
        self.write(record, |temporary, path| fs::hard_link(temporary, path)).map_err(|error| match error {
            NetworkError::Cache { source, .. } if source.kind() == io::ErrorKind::AlreadyExists => {
                NetworkError::AlreadySetUp { sandbox_id: id.clone() }
            }
            error => error,
        })
    }

    /// Replaces a sandbox's record.
    pub(in super::super) fn update(&self, record: &Record) -> Result<(), NetworkError> {
        self.write(record, |temporary, path| fs::rename(temporary, path))
    }

    /// The record is on the disk, under its name and whole, when this returns; a crash leaves the old one.
    fn write(
        &self,
        record: &Record,
        put: impl FnOnce(&Path, &Path) -> io::Result<()>,
    ) -> Result<(), NetworkError> {
        let path = self.path(&record.attachment.container_id);
        let temporary = unfinished(&path);
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            put(&temporary, &path)?;
            File::open(&self.dir)?.sync_all()
        })();
        // Renamed away, or of no more use.
        let _ = fs::remove_file(&temporary);
        written.map_err(|source| failed(&path, source))
    }

    /// The sandbox's record, if it has one.
    pub(in super::super) fn load(&self, id: &str) -> Result<Option<Record>, NetworkError> {
        let path = self.path(id);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|source| failed(&path, source))?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_RECORD).read_to_end(&mut bytes).map_err(|source| failed(&path, source))?;
        let record: Record =
            serde_json::from_slice(&bytes).map_err(|error| failed(&path, io::Error::other(error)))?;
        if record.format != FORMAT {
            let why = format!("format {} is not {FORMAT}; it is of another version of husk", record.format);
            return Err(failed(&path, io::Error::other(why)));
        }
        Ok(Some(record))
    }

    /// Forgets the sandbox, and what a crash left of a record that was being written.
    pub(in super::super) fn remove(&self, id: &str) -> Result<(), NetworkError> {
        let path = self.path(id);
        for path in [unfinished(&path), path] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&path, error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// The sandboxes that have a record.
    pub(in super::super) fn list(&self) -> Result<Vec<String>, NetworkError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|source| failed(&self.dir, source))?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let path = entry.map_err(|source| failed(&self.dir, source))?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                ids.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
            }
        }
        ids.sort();
        Ok(ids)
    }

    /// `id` has been checked to be a plain file name. It may have dots: the extension is appended.
    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.{EXTENSION}"))
    }
}

/// Where a record is written before it gets its name.
fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn failed(path: &Path, source: io::Error) -> NetworkError {
    NetworkError::Cache { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        let list = super::super::config::parse(
            br#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"x","k":[1,"a"]}]}"#,
            Path::new("/etc/cni/net.d/n.conflist"),
        )
        .unwrap();
        let attachment = Attachment {
            container_id: id.to_owned(),
            netns: "/run/husk/netns/a".into(),
            interface: "eth0".into(),
            args: "IgnoreUnknown=1".into(),
            port_mappings: Vec::new(),
        };
        Record::new(attachment, list)
    }

    #[test]
    fn a_record_lives_from_create_to_remove() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("cni"));
        assert!(cache.list().unwrap().is_empty());
        assert!(cache.load("a.b").unwrap().is_none());
        let mut first = record("a.b");
        cache.create(&first).unwrap();
        assert!(matches!(cache.create(&first), Err(NetworkError::AlreadySetUp { .. })));
        first.result = Some(serde_json::json!({"ips": []}));
        cache.update(&first).unwrap();
        assert_eq!(cache.load("a.b").unwrap().unwrap(), first);
        cache.create(&record("a.c")).unwrap();
        assert_eq!(cache.list().unwrap(), ["a.b", "a.c"]);
        // As a crash leaves them, with a record and without.
        fs::write(dir.path().join("cni/a.c.new"), "{").unwrap();
        fs::write(dir.path().join("cni/a.d.new"), "{").unwrap();
        for id in ["a.b", "a.c", "a.c", "a.d"] {
            cache.remove(id).unwrap();
        }
        assert_eq!(fs::read_dir(dir.path().join("cni")).unwrap().count(), 0);
    }

    #[test]
    fn a_record_that_cannot_be_read_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().to_owned());
        fs::write(dir.path().join("a.json"), "{").unwrap();
        let error = cache.load("a").unwrap_err().to_string();
        assert!(error.contains("a.json"), "{error}");
    }
}
