//! What a large layer takes of memory: no more than a small one.

use std::collections::BTreeMap;
use std::env;
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use flate2::write::GzEncoder;
use husk_images::Silent;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::server::Server;
use crate::support::layers::noise;
use crate::support::layout::Layout;
use crate::support::store;

/// For the process that is measured: where its store is, and what it pulls.
const STORE: &str = "HUSK_IMAGES_MEMORY_STORE";
const REFERENCE: &str = "HUSK_IMAGES_MEMORY_REFERENCE";

/// Bytes of the layer's only file.
const FILE: u64 = 2 << 30;
/// Most memory of the puller and its workers together, in kB.
const MEMORY_MAX: u64 = 64 << 10;

#[test]
#[ignore = "this is the process that the other test starts and measures"]
fn pulls_and_tells_its_memory() {
    let (dir, reference) = (env::var(STORE).unwrap(), env::var(REFERENCE).unwrap());
    let store = store(Path::new(&dir));
    let done = AtomicBool::new(false);
    let workers = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch_children(&done));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let pulled = runtime.block_on(store.pull(&reference, None, &Silent));
        done.store(true, Relaxed);
        pulled.unwrap();
        watcher.join().unwrap()
    });
    let own = peak("self").unwrap();
    fs::write(Path::new(&dir).join("memory"), format!("{own} {workers}")).unwrap();
}

/// The highest peak among this process's children until `done`, in kB; they run one after another.
fn watch_children(done: &AtomicBool) -> u64 {
    let mut peaks = BTreeMap::new();
    while !done.load(Relaxed) {
        for task in fs::read_dir("/proc/self/task").unwrap() {
            let children = fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
            for child in children.split_whitespace() {
                if let Some(peak) = peak(child) {
                    peaks.insert(child.to_owned(), peak);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    peaks.into_values().max().unwrap()
}

/// The most memory that a process has had, in kB.
fn peak(process: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Hashes what passes.
struct Hashed<W> {
    out: W,
    hash: Sha256,
    length: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        self.out.write_all(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

fn hashed<W>(out: W) -> Hashed<W> {
    Hashed { out, hash: Sha256::new(), length: 0 }
}

fn show(hash: Sha256) -> String {
    hash.finalize().iter().fold("sha256:".into(), |text, byte| format!("{text}{byte:02x}"))
}

/// An image with one file, whose bytes compress to a thirtieth.
fn large_image(layout: &mut Layout) {
    let path = layout.dir.join("layer");
    let packed = hashed(BufWriter::new(File::create_new(&path).unwrap()));
    let mut tar = hashed(GzEncoder::new(packed, flate2::Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_path("large").unwrap();
    header.set_size(FILE);
    header.set_mode(0o644);
    header.set_cksum();
    tar.write_all(header.as_bytes()).unwrap();
    let mut block = noise(32 << 10);
    block.resize(1 << 20, b'x');
    for _ in 0..FILE >> 20 {
        tar.write_all(&block).unwrap();
    }
    tar.write_all(&[0; 1024]).unwrap();
    let diff_id = show(tar.hash);
    let mut packed = tar.out.finish().unwrap();
    packed.flush().unwrap();
    let digest = show(packed.hash);
    fs::rename(path, layout.blob_path(&digest)).unwrap();
    let config =
        json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]}});
    let config = layout.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layer = json!({"mediaType": media_type, "digest": digest, "size": packed.length});
    let manifest = layout.manifest(&config, &[layer], "amd64");
    layout.tag("test", manifest);
}

#[test]
fn a_layer_of_two_gigabytes_takes_less_than_64_megabytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&dir.path().join("layout"));
    large_image(&mut layout);
    let server = Server::honest(&layout.dir);
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", "memory::pulls_and_tells_its_memory", "--ignored", "--nocapture"])
        .env(STORE, dir.path())
        .env(REFERENCE, format!("{}/x:test", server.host()))
        .status()
        .unwrap();
    assert!(status.success(), "the pull failed");
    let mut told = String::new();
    File::open(dir.path().join("memory")).unwrap().read_to_string(&mut told).unwrap();
    let [own, workers] = told.split(' ').map(|n| n.parse().unwrap()).collect::<Vec<u64>>()[..] else {
        panic!("{told}")
    };
    println!("puller {own} kB, worker {workers} kB");
    assert!(own + workers < MEMORY_MAX, "puller {own} kB, worker {workers} kB");
}
