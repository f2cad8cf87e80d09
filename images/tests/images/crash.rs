//! A process that is killed in the middle of its pulls, and the next one that opens its store.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use husk_images::{Image, ImageStore, RegistryConfig, Silent};

use crate::server::{End, Server, blob_in};
use crate::support::layers::noise;
use crate::support::layout::simple;
use crate::support::{assert_empty, config, extract, store, stored};

/// For the process to be killed: where its store is, and what it pulls.
const STORE: &str = "HUSK_IMAGES_CRASH_STORE";
const REFERENCE: &str = "HUSK_IMAGES_CRASH_REFERENCE";
/// How many layers it pulls at once.
const PARALLEL: &str = "HUSK_IMAGES_CRASH_PARALLEL";

#[tokio::test]
#[ignore = "this is the process that the other test starts and kills"]
async fn pulls_until_killed() {
    let (dir, reference) = (env::var(STORE).unwrap(), env::var(REFERENCE).unwrap());
    let parallel_layers = env::var(PARALLEL).unwrap().parse().unwrap();
    let store =
        ImageStore::open(&Path::new(&dir).join("store"), RegistryConfig { parallel_layers, ..config() })
            .unwrap();
    loop {
        store.pull(&reference, None, &Silent).await.unwrap();
        // So that some of the kills find a whole image.
        std::thread::sleep(Duration::from_millis(20));
        store.remove(&reference).unwrap();
    }
}

/// Starts that process.
fn start(dir: &Path, reference: &str, parallel: usize) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash::pulls_until_killed", "--ignored"])
        .env(STORE, dir)
        .env(REFERENCE, reference)
        .env(PARALLEL, parallel.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Runs that process for `time` from its first request on, and kills it.
fn crash(dir: &Path, server: &Server, reference: &str, time: Duration) {
    let before = server.seen().len();
    let mut child = start(dir, reference, config().parallel_layers);
    let begun = Instant::now();
    while server.seen().len() == before {
        assert!(begun.elapsed() < Duration::from_secs(20), "the process to be killed asks for nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(time);
    let ended = child.try_wait().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ended.is_none(), "it ended by itself: {ended:?}");
}

/// Kills; together they take half a minute.
const KILLS: u32 = 100;

#[tokio::test]
async fn whenever_a_process_is_killed_its_store_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (long, longer) = (noise(500_000), noise(3_000_000));
    let layout = simple(dir.path(), &[("a", &[1; 5000]), ("b", &long), ("c", &longer), ("d", b"4")]);
    let server = Server::honest(&layout.dir);
    let name = format!("{}/x:test", server.host());
    let life = life(dir.path(), &name).await;
    let (mut unfinished, mut whole) = (0, 0);
    for round in 0..KILLS {
        // The golden ratio's multiples spread evenly over a pull and its removal, and a little more.
        crash(dir.path(), &server, &name, life.mul_f64(f64::from(round) * 0.618_034 % 1.0 * 1.2));
        unfinished += u32::from(!stored(dir.path())[2].is_empty());
        let store = store(dir.path());
        let images = store.list().unwrap();
        whole += u32::from(!images.is_empty());
        let [layers, whole_images, unfinished] = stored(dir.path()).map(|names| names.len());
        assert_eq!((whole_images, unfinished), (images.len(), 0), "round {round}");
        // Without the image, those that the next pull goes on from.
        assert!(if images.is_empty() { layers <= 4 } else { layers == 4 }, "round {round}: {layers}");
        check(&store, &images, round);
        let image = store.pull(&name, None, &Silent).await.unwrap();
        assert_eq!(stored(dir.path()).map(|names| names.len()), [4, 1, 0], "round {round}");
        check(&store, &[image], round);
        store.remove(&name).unwrap();
        assert_empty(dir.path());
    }
    println!("of {KILLS} kills {unfinished} left unfinished work, {whole} a whole image");
    assert!(unfinished > KILLS / 10, "only {unfinished} of {KILLS} kills came in the middle of something");
}

#[tokio::test]
async fn after_a_kill_a_pull_goes_on_from_the_layers_that_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let long = noise(500_000);
    let layout = simple(dir.path(), &[("first", &[1; 5000]), ("second", &long)]);
    let blobs = fs::read_dir(layout.dir.join("blobs/sha256")).unwrap().flatten();
    let largest = blobs.max_by_key(|blob| blob.metadata().unwrap().len()).expect("a layer");
    let second = format!("sha256:{}", largest.file_name().display());
    let mut asked = 0;
    let stalled = second.clone();
    let server = Server::start(&layout.dir, move |request, honest| {
        let is_second = blob_in(&request.path) == Some(stalled.as_str());
        asked += usize::from(is_second);
        // Until the first process is killed nothing more comes.
        if is_second && asked == 1 { honest.end(End::Stall(100_000)) } else { honest }
    });
    let name = format!("{}/x:test", server.host());
    // The second is asked for once the first is recorded.
    let mut child = start(dir.path(), &name, 1);
    let begun = Instant::now();
    while server.count(&second) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the first layer does not arrive");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let before = server.seen().len();
    let store = store(dir.path());
    assert_eq!((stored(dir.path())[0].len(), store.list().unwrap().len()), (1, 0));
    let image = store.pull(&name, None, &Silent).await.unwrap();
    let seen = server.seen();
    let fetched: Vec<_> = seen[before..].iter().filter_map(|request| blob_in(&request.path)).collect();
    // The configuration and what was missing.
    assert_eq!((fetched.len(), fetched.contains(&second.as_str())), (2, true), "{fetched:?}");
    let extracted = extract(&store, &image.id, dir.path());
    assert_eq!(fs::read(extracted.join("first")).unwrap(), [1; 5000]);
    assert_eq!(fs::read(extracted.join("second")).unwrap(), long);
    store.remove(&name).unwrap();
    assert_empty(dir.path());
}

/// How long a pull and its removal take.
async fn life(dir: &Path, name: &str) -> Duration {
    let store = store(dir);
    let begun = Instant::now();
    store.pull(name, None, &Silent).await.unwrap();
    store.remove(name).unwrap();
    begun.elapsed()
}

/// Fails unless every disk of `images` is complete, to its last byte.
fn check(store: &ImageStore, images: &[Image], round: u32) {
    for image in images {
        let mut contents = Vec::new();
        for extent in store.disk(&image.id).unwrap().extents {
            let bytes = fs::read(&extent.file).unwrap();
            assert_eq!(bytes.len() as u64, extent.length, "round {round}");
            contents.push(bytes);
        }
        // Behind the metadata, each layer's only file.
        assert_eq!(contents[1][..5000], [1; 5000], "round {round}");
        assert_eq!(contents[2][..500_000], noise(500_000), "round {round}");
        assert_eq!(contents[3][..3_000_000], noise(3_000_000), "round {round}");
        assert_eq!(&contents[4][..1], b"4", "round {round}");
    }
}
