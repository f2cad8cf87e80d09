//! A process that is killed in the middle of its pulls, and the next one that opens its store.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use husk_images::{Image, ImageStore, Silent};

use crate::server::Server;
use crate::support::layers::noise;
use crate::support::layout::simple;
use crate::support::{assert_empty, store, stored};

/// For the process to be killed: where its store is, and what it pulls.
const STORE: &str = "HUSK_IMAGES_CRASH_STORE";
const REFERENCE: &str = "HUSK_IMAGES_CRASH_REFERENCE";

#[tokio::test]
#[ignore = "this is the process that the other test starts and kills"]
async fn pulls_until_killed() {
    let (dir, reference) = (env::var(STORE).unwrap(), env::var(REFERENCE).unwrap());
    let store = store(Path::new(&dir));
    loop {
        store.pull(&reference, None, &Silent).await.unwrap();
        // So that some of the kills find a whole image.
        std::thread::sleep(Duration::from_millis(20));
        store.remove(&reference).unwrap();
    }
}

/// Runs that process for `time` from its first request on, and kills it.
fn crash(dir: &Path, server: &Server, reference: &str, time: Duration) {
    let before = server.seen().len();
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "crash::pulls_until_killed", "--ignored"])
        .env(STORE, dir)
        .env(REFERENCE, reference)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
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
        let expected = if images.is_empty() { [0, 0, 0] } else { [4, 1, 0] };
        assert_eq!(stored(dir.path()).map(|names| names.len()), expected, "round {round}");
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
