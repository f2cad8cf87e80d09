//! The images that are pulled, and what they are made of.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use husk_tests::{Registry, run, step};

use crate::measure::{disk_use, measure};

/// Images that are pulled together.
#[derive(Debug)]
pub struct Case {
    /// What is special about them.
    pub name: &'static str,
    /// Complete references at the registry.
    pub references: Vec<String>,
    /// Their distinct layers' blobs, gzipped.
    blobs: Vec<PathBuf>,
    /// Bytes of the blobs.
    pub packed: u64,
    /// Bytes on disk of each layer's files, unpacked once.
    pub content: u64,
    /// Files and directories of all layers.
    pub files: usize,
}

impl Case {
    /// Puts the images of the layout `images` into the registry; `dir` is for passing files.
    pub fn all(images: &Path, registry: &Registry, dir: &Path) -> Vec<Case> {
        let apps: Vec<String> = (0..10).map(|number| format!("app-{number}")).collect();
        let apps: Vec<&str> = apps.iter().map(String::as_str).collect();
        vec![
            Case::new("small: few files", &["small"], images, registry, dir),
            Case::new("system: one layer of a Debian system", &["system"], images, registry, dir),
            Case::new("shared: ten images on one base", &apps, images, registry, dir),
        ]
    }

    fn new(name: &'static str, tags: &[&str], images: &Path, registry: &Registry, dir: &Path) -> Case {
        let mut digests = BTreeSet::new();
        let mut references = Vec::new();
        for tag in tags {
            registry.push(images, tag, &format!("husk/{tag}:latest"));
            digests.extend(Registry::layers(images, tag));
            let host = registry.url();
            references.push(format!("{}/husk/{tag}:latest", host.trim_start_matches("http://")));
        }
        step(format!("{name}: unpack each layer once, for its size"));
        let blobs: Vec<PathBuf> =
            digests.iter().map(|digest| images.join("blobs").join(digest.replace(':', "/"))).collect();
        let packed = blobs.iter().map(|blob| fs::metadata(blob).expect("a layer's blob").len()).sum();
        let (mut content, mut files) = (0, 0);
        for blob in &blobs {
            let unpacked = dir.join("unpacked");
            fs::create_dir(&unpacked).expect("make a directory");
            run(Command::new("tar").arg("-xzpf").arg(blob).arg("-C").arg(&unpacked));
            content += disk_use(&unpacked);
            files += run(Command::new("find").arg(&unpacked).args(["-printf", "x"])).len();
            fs::remove_dir_all(&unpacked).expect("remove what was unpacked");
        }
        Case { name, references, blobs, packed, content, files }
    }

    /// Seconds and CPU seconds of `zcat | sha256sum` over the layers: what nobody can do without.
    pub fn floor(&self) -> (f64, f64) {
        let work = || -> Result<(), String> {
            for blob in &self.blobs {
                let mut zcat = Command::new("zcat")
                    .arg(blob)
                    .stdout(Stdio::piped())
                    .spawn()
                    .map_err(|e| e.to_string())?;
                let out = zcat.stdout.take().ok_or("zcat has no output")?;
                let sum = Command::new("sha256sum").stdin(out).stdout(Stdio::null()).status();
                let ended = (sum.map_err(|e| e.to_string())?, zcat.wait().map_err(|e| e.to_string())?);
                if !(ended.0.success() && ended.1.success()) {
                    return Err(format!("zcat | sha256sum of {} failed", blob.display()));
                }
            }
            Ok(())
        };
        measure(|| 0.0, work).unwrap_or_else(|e| panic!("{e}"))
    }
}
