//! Pulls from registries that fail, lie or dawdle.

use std::path::Path;
use std::time::{Duration, Instant};

use husk_images::{Image, ImageError, ImageStore, RegistryConfig, Silent};
use serde_json::json;

use crate::server::{End, Reply, Server, blob_in, spoil};
use crate::support::layout::{Compression, Layout, digest, digest_of, one_file, simple};
use crate::support::{assert_counts, assert_empty, config, extract, store, stored};

/// A layer's content that is no small thing to send.
static LARGE: [u8; 400_000] = [b'x'; 400_000];

async fn pull(store: &ImageStore, server: &Server) -> Result<Image, ImageError> {
    store.pull(&format!("{}/repo:test", server.host()), None, &Silent).await
}

/// The digest of the layer with [`LARGE`].
fn large() -> String {
    digest(&one_file("large", &LARGE))
}

/// A store that gives up soon.
fn hasty(dir: &Path) -> ImageStore {
    let config = RegistryConfig { retries: 1, stall: Duration::from_millis(300), ..config() };
    ImageStore::open(&dir.join("store"), config).unwrap()
}

#[tokio::test]
async fn a_busy_registry_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let mut answers = 0;
    let server = Server::start(&layout.dir, move |_, honest| {
        answers += 1;
        match answers {
            1 => Reply::new(429).header("Retry-After", "0"),
            3 => Reply::new(503),
            5 => honest.end(End::Cut(10)),
            _ => honest,
        }
    });
    pull(&store(dir.path()), &server).await.unwrap();
    assert_eq!(server.seen().len(), 6);
}

#[tokio::test]
async fn one_that_wants_to_be_left_alone_is() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    for (status, pause) in [(429, "3600"), (503, "Tue, 31 Dec 2199 23:59:59 GMT")] {
        let server = Server::start(&layout.dir, move |_, _| Reply::new(status).header("Retry-After", pause));
        let begun = Instant::now();
        let error = pull(&store(&dir.path().join(pause)), &server).await.unwrap_err();
        assert!(matches!(&error, ImageError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("not to come back"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn one_that_drips_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("large", &LARGE)]);
    let pause = Duration::from_millis(10);
    for part in [large(), "/manifests/".into()] {
        let server = Server::start(&layout.dir, move |request, honest| {
            if request.path.contains(&part) { honest.end(End::Drip(10, pause)) } else { honest }
        });
        let begun = Instant::now();
        let error = pull(&hasty(dir.path()), &server).await.unwrap_err();
        assert!(matches!(error, ImageError::Unavailable { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert_empty(dir.path());
    }
    // Slower than the line, but fast enough.
    let config = RegistryConfig { stall: Duration::from_millis(300), min_rate: 10, ..config() };
    let store = ImageStore::open(&dir.path().join("patient"), config).unwrap();
    let server = Server::start(&layout.dir, move |request, honest| {
        let end = honest.body.len() - 60;
        if blob_in(&request.path) == Some(&large()) { honest.end(End::Drip(end, pause)) } else { honest }
    });
    pull(&store, &server).await.unwrap();
}

#[tokio::test]
async fn one_that_stays_broken_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let body = json!({"errors": [{"code": "UNKNOWN", "message": "the disk is\u{1b}[31m full"}]}).to_string();
    let server = Server::start(&layout.dir, move |_, _| Reply::new(500).body(body.as_str()));
    let error = pull(&store(dir.path()), &server).await.unwrap_err();
    assert!(
        matches!(&error, ImageError::Unavailable { registry, .. } if *registry == server.host()),
        "{error}"
    );
    let text = error.to_string();
    assert!(text.contains("500") && text.contains("the disk is\\u{1b}"), "{text:?}");
    assert_eq!(server.seen().len(), 1 + config().retries as usize);
    assert_empty(dir.path());
}

#[tokio::test]
async fn a_cut_blob_is_resumed_where_it_broke() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("large", &LARGE)]);
    let cut = 150_000;
    let mut blobs = 0;
    let server = Server::start(&layout.dir, move |request, honest| {
        blobs += usize::from(blob_in(&request.path) == Some(&large()));
        if blobs == 1 { honest.end(End::Cut(cut)) } else { honest }
    });
    let store = store(dir.path());
    let image = pull(&store, &server).await.unwrap();
    let ranges: Vec<_> = server.seen().iter().filter_map(|seen| seen.headers.get("range").cloned()).collect();
    assert_eq!(ranges, [format!("bytes={cut}-")]);
    assert_eq!(std::fs::read(extract(&store, &image.id, dir.path()).join("large")).unwrap(), LARGE);
}

#[tokio::test]
async fn one_without_ranges_is_read_again_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("large", &LARGE)]);
    let whole = std::fs::read(layout.blob_path(&large())).unwrap();
    let mut blobs = 0;
    let server = Server::start(&layout.dir, move |request, honest| {
        if blob_in(&request.path) != Some(&large()) {
            return honest;
        }
        blobs += 1;
        let reply = Reply::new(200).body(whole.as_slice());
        if blobs <= 2 { reply.end(End::Cut(blobs * 100_001)) } else { reply }
    });
    let store = store(dir.path());
    let image = pull(&store, &server).await.unwrap();
    assert_eq!(server.count(&large()), 3);
    assert_eq!(std::fs::read(extract(&store, &image.id, dir.path()).join("large")).unwrap(), LARGE);
}

#[tokio::test]
async fn a_range_that_was_not_asked_for_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("large", &LARGE)]);
    for range in ["bytes 200000-1/2", "bytes x-y/z", "", "bytes 99999999999999999999999-0/0"] {
        let server = Server::start(&layout.dir, move |request, honest| match request.header("range") {
            Some(_) => Reply::new(206).header("Content-Range", range).body(honest.body),
            None if blob_in(&request.path) == Some(&large()) => honest.end(End::Cut(1000)),
            None => honest,
        });
        let error = pull(&hasty(dir.path()), &server).await.unwrap_err();
        assert!(matches!(error, ImageError::Unavailable { .. }), "{range}: {error}");
        assert_empty(dir.path());
    }
}

#[tokio::test]
async fn content_that_does_not_match_its_digest_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("base", b"honest"), ("large", &LARGE)]);
    let store = store(dir.path());
    let manifest = std::fs::read_to_string(layout.dir.join("index.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let manifest = digest_of(&manifest["manifests"][0]);
    for spoilt in [&manifest, &large()] {
        let target = spoilt.clone();
        let server = Server::start(&layout.dir, move |request, honest| {
            let hit = request.path.contains(&target);
            if hit { Reply::new(200).body(spoil(honest.body)) } else { honest }
        });
        let name = format!("{}/repo@{manifest}", server.host());
        let error = store.pull(&name, None, &Silent).await.unwrap_err();
        assert!(matches!(&error, ImageError::Corrupt(what) if what.contains(spoilt.as_str())), "{error}");
        assert_empty(dir.path());
    }
}

#[tokio::test]
async fn blobs_of_another_size_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("large", &LARGE)]);
    let longer = Server::start(&layout.dir, |request, mut honest| {
        if blob_in(&request.path) == Some(&large()) {
            honest.body.extend([0; 512]);
        }
        honest
    });
    let error = pull(&store(dir.path()), &longer).await.unwrap_err();
    assert!(matches!(&error, ImageError::Corrupt(what) if what.contains("longer")), "{error}");
    // One that ends too soon looks like a broken connection, each time anew.
    let shorter = Server::start(&layout.dir, |request, mut honest| {
        if blob_in(&request.path) == Some(&large()) {
            honest.body.truncate(if request.header("range").is_some() { 0 } else { 1000 });
        }
        honest
    });
    let error = pull(&hasty(dir.path()), &shorter).await.unwrap_err();
    assert!(matches!(error, ImageError::Unavailable { .. }), "{error}");
    assert_empty(dir.path());
}

#[tokio::test]
async fn endless_documents_are_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    for part in ["/manifests/", "/blobs/"] {
        let server = Server::start(&layout.dir, move |request, honest| {
            if request.path.contains(part) { honest.body(vec![b' '; (4 << 20) + 1]) } else { honest }
        });
        let error = pull(&store(dir.path()), &server).await.unwrap_err();
        assert!(matches!(error, ImageError::TooLarge(_)), "{part}: {error}");
    }
    assert_empty(dir.path());
}

#[tokio::test]
async fn a_silent_registry_holds_up_nobody_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("large", &LARGE)]);
    for (part, at) in [("/manifests/", 0), (large().as_str(), 0), (large().as_str(), 100_000)] {
        let part = part.to_owned();
        let server = Server::start(&layout.dir, move |request, honest| {
            // What is left of a resumed blob may be shorter.
            let at = if honest.body.len() < at { 0 } else { at };
            if request.path.contains(&part) { honest.end(End::Stall(at)) } else { honest }
        });
        let begun = Instant::now();
        let error = pull(&hasty(dir.path()), &server).await.unwrap_err();
        assert!(matches!(error, ImageError::Unavailable { .. }), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        assert_empty(dir.path());
    }
}

#[tokio::test]
async fn an_abandoned_pull_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("base", b"done soon"), ("large", &LARGE)]);
    let server = Server::start(&layout.dir, |request, honest| {
        if request.path.contains(&large()) { honest.end(End::Stall(1000)) } else { honest }
    });
    let store = store(dir.path());
    let base = digest(&one_file("base", b"done soon")).replace("sha256:", "");
    let begun = async {
        while stored(dir.path())[0] != [base.as_str()] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        ended = pull(&store, &server) => panic!("{ended:?}"),
        begun = tokio::time::timeout(Duration::from_secs(10), begun) => begun.unwrap(),
    }
    assert_empty(dir.path());
    let honest = Server::honest(&layout.dir);
    pull(&store, &honest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_image_pulled_many_times_at_once_is_fetched_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = simple(dir.path(), &[("large", &LARGE)]);
    layout.add("other", &[("large", &LARGE), ("more", b"more")]);
    let server = Server::honest(&layout.dir);
    let store = store(dir.path());
    let pulls: Vec<_> = (0..8)
        .map(|n| {
            let tag = if n % 2 == 0 { "test" } else { "other" };
            let (store, name) = (store.clone(), format!("{}/repo:{tag}", server.host()));
            tokio::spawn(async move { store.pull(&name, None, &Silent).await })
        })
        .collect();
    for pull in pulls {
        pull.await.unwrap().unwrap();
    }
    assert_eq!(server.count(&large()), 1);
    assert_eq!(store.list().unwrap().len(), 2);
    assert_counts(dir.path(), [2, 2, 0]);
}

#[tokio::test]
async fn indexes_within_indexes_come_to_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&dir.path().join("layout"));
    let mut entry = layout.image(&[(&one_file("a", b"b"), Compression::None)], "amd64", json!({}));
    for depth in 1..=4 {
        entry = layout.index(&[entry]);
        layout.tag(&format!("depth{depth}"), entry.clone());
    }
    let server = Server::honest(&layout.dir);
    let store = store(dir.path());
    let pull = async |tag: &str| store.pull(&format!("{}/x:{tag}", server.host()), None, &Silent).await;
    let error = pull("depth4").await.unwrap_err();
    assert!(matches!(&error, ImageError::Corrupt(what) if what.contains("indexes")), "{error}");
    assert_empty(dir.path());
    pull("depth3").await.unwrap();
}
