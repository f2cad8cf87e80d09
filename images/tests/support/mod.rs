//! What tests of images share.

// Each test program compiles all of it and uses its part.
#![allow(dead_code)]

pub mod archive;
pub mod chance;
pub mod containerd;
pub mod layers;
pub mod layout;
pub mod oracle;
pub mod place;
pub mod snapshot;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use husk_images::{ImageStore, Progress, RegistryConfig, Step};

/// A configuration with this build's worker, and little patience.
pub fn config() -> RegistryConfig {
    RegistryConfig {
        worker: PathBuf::from(env!("CARGO_BIN_EXE_husk-convert")),
        retries: 2,
        stall: Duration::from_secs(20),
        ..Default::default()
    }
}

/// A store in `dir`.
pub fn store(dir: &Path) -> ImageStore {
    ImageStore::open(&dir.join("store"), config()).unwrap()
}

/// Runs a tool, which must succeed, and gives its output.
pub fn run(command: &mut Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|e| panic!("{name}: {e}; tests/deps/install installs it"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The disk of the image `id`, in one file.
pub fn compose(store: &ImageStore, id: &str, to: &Path) {
    let mut disk = File::create_new(to).unwrap();
    for extent in store.disk(id).unwrap().extents {
        assert_eq!(extent.length % 4096, 0);
        let mut file = File::open(&extent.file).unwrap();
        file.seek(SeekFrom::Start(extent.offset)).unwrap();
        assert_eq!(io::copy(&mut file.take(extent.length), &mut disk).unwrap(), extent.length);
    }
}

/// Checks the disk of the image `id` with `fsck.erofs` and extracts it below `dir`.
pub fn extract(store: &ImageStore, id: &str, dir: &Path) -> PathBuf {
    let (disk, out) = (dir.join("disk"), dir.join("extracted"));
    compose(store, id, &disk);
    run(Command::new("fsck.erofs").arg(format!("--extract={}", out.display())).arg("--preserve").arg(&disk));
    out
}

/// Names in the folders of the store in `dir`: layers, images, and unfinished work.
pub fn stored(dir: &Path) -> [Vec<String>; 3] {
    ["layers", "images", "tmp"].map(|folder| {
        let entries = std::fs::read_dir(dir.join("store").join(folder)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    })
}

/// Fails unless the store in `dir` soon holds that many layers, images, and pieces of unfinished work: what a
/// failed pull was writing is finished and removed in the background.
pub fn assert_counts(dir: &Path, expected: [usize; 3]) {
    let begun = Instant::now();
    loop {
        let found = stored(dir);
        if found.each_ref().map(Vec::len) == expected {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{found:?} instead of {expected:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Fails unless the store in `dir` is soon without any content.
pub fn assert_empty(dir: &Path) {
    assert_counts(dir, [0, 0, 0]);
}

/// Keeps a pull's steps.
#[derive(Default)]
pub struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    /// The steps, in words.
    pub fn steps(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Recorder {
    fn step(&self, step: Step<'_>) {
        self.0.lock().unwrap().push(match step {
            Step::Resolved { id, layers, bytes } => format!("resolved {id}: {layers} layers, {bytes} bytes"),
            Step::Layer { digest, done, total } => format!("layer {digest}: {done} of {total}"),
            Step::Merging => "merging".into(),
        });
    }
}
