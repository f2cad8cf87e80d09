//! A process that is killed in the middle of its pulls, and the next one that opens its store.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use husk_images::Silent;

use crate::server::Server;
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

#[tokio::test]
async fn whenever_a_process_is_killed_its_store_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", &[1; 5000]), ("b", &[2; 50_000]), ("c", b"3"), ("d", b"4")]);
    let server = Server::honest(&layout.dir);
    let name = format!("{}/x:test", server.host());
    let mut unfinished = 0;
    for round in 0..10 {
        crash(dir.path(), &server, &name, Duration::from_millis(23 * round));
        unfinished += stored(dir.path())[2].len();
        let store = store(dir.path());
        let images = store.list().unwrap();
        let expected = if images.is_empty() { [0, 0, 0] } else { [4, 1, 0] };
        assert_eq!(stored(dir.path()).map(|names| names.len()), expected, "round {round}");
        for image in images {
            for extent in store.disk(&image.id).unwrap().extents {
                assert_eq!(fs::metadata(&extent.file).unwrap().len(), extent.length, "round {round}");
            }
        }
        store.pull(&name, None, &Silent).await.unwrap();
        store.remove(&name).unwrap();
        assert_empty(dir.path());
    }
    assert_ne!(unfinished, 0, "no pull was interrupted");
}
