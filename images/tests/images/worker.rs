//! Workers that die, lie or dawdle in the place of `husk-convert`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use husk_images::convert::Limits;
use husk_images::{Image, ImageError, ImageStore, RegistryConfig};
use husk_tests::install_script;

use crate::support::archive::archive;
use crate::support::layout::{Compression, Layout, one_file, simple};
use crate::support::{assert_empty, config};

/// A worker that is the shell script `text`, which has the real one's path in `$REAL`.
fn script(dir: &Path, text: &str) -> PathBuf {
    let program = dir.join("worker");
    let real = env!("CARGO_BIN_EXE_husk-convert");
    let pids = dir.join("pids");
    // Its number outside of its PID namespace, where `$$` is 1.
    let note = format!("read PID REST </proc/self/stat; echo $PID >>'{}'", pids.display());
    install_script(&program, &format!("REAL='{real}'\n{note}\n{text}"));
    program
}

/// A store whose worker is the [`script`] `worker`.
fn store_with(dir: &Path, worker: &str, stall: Duration) -> ImageStore {
    let program = script(dir, worker);
    let limits = Limits { cpu_seconds: 1, ..Limits::default() };
    let config = RegistryConfig { worker: program, stall, limits, ..config() };
    ImageStore::open(&dir.join("store"), config).unwrap()
}

/// Imports a small image, or one larger than a pipe, with that worker.
async fn import(dir: &Path, worker: &str, content: &[u8], stall: Duration) -> Result<Image, ImageError> {
    let store = store_with(dir, worker, stall);
    let layout = simple(dir, &[("file", content)]);
    store.import_layout(&layout.dir, None).await
}

/// The same, which must fail soon and leave neither content nor a process.
async fn fails(worker: &str, content: &[u8], stall: Duration) -> ImageError {
    let dir = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let error = import(dir.path(), worker, content, stall).await.expect_err(worker);
    assert!(begun.elapsed() < Duration::from_secs(15), "{worker:?} took {:?}", begun.elapsed());
    assert_empty(dir.path());
    for pid in fs::read_to_string(dir.path().join("pids")).unwrap().lines() {
        let stat = format!("/proc/{pid}/stat");
        while fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(begun.elapsed() < Duration::from_secs(15), "{worker:?} still runs");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    error
}

/// Longer than a busy machine takes to start a script.
const PATIENT: Duration = Duration::from_secs(20);
const SMALL: &[u8] = b"small";
/// More than all pipes on the way hold.
const LARGE: &[u8] = &[1; 3_000_000];

#[tokio::test]
async fn the_real_one_works_from_a_script() {
    let dir = tempfile::tempdir().unwrap();
    import(dir.path(), r#"exec "$REAL" "$@""#, LARGE, PATIENT).await.unwrap();
}

#[tokio::test]
async fn a_worker_that_dies_is_an_error() {
    for content in [SMALL, LARGE] {
        for worker in ["exit 3", "exit 137", "cat >/dev/null; exit 159", "head -c 9; exit 139"] {
            let error = fails(worker, content, PATIENT).await;
            assert!(
                matches!(&error, ImageError::Io { what, .. } if what.contains("died")),
                "{worker}: {error}"
            );
        }
        // As `husk-convert` ends by SIGABRT, SIGXCPU and SIGXFSZ.
        for worker in ["exit 134", "exit 152", "cat >/dev/null; exit 153"] {
            let error = fails(worker, content, PATIENT).await;
            assert!(matches!(error, ImageError::TooLarge(_)), "{worker}: {error}");
        }
    }
}

#[tokio::test]
async fn a_worker_that_talks_nonsense_is_an_error() {
    let layer = |data: &str, tree: u64| {
        format!(r#"cat >/dev/null; echo '{{"Layer":{{"data_len":{data},"tree_len":{tree},"entries":1}}}}'"#)
    };
    // Only the layer's worker lies: its lie must not come this far.
    let then_image = |lie: &str| format!("case \"$1\" in *Image*) exec \"$REAL\" \"$@\";; esac; {lie}");
    for worker in [
        "cat >/dev/null",
        "cat >/dev/null; echo nonsense",
        "cat >/dev/null; echo '{\"Layer\":'",
        "cat >/dev/null; exec yes",
        "exec yes",
        "cat >/dev/null; head -c 100000 /dev/zero",
        "cat >/dev/null; echo '{\"Image\":{\"meta_len\":4096}}'",
        &then_image(&layer("4096", 0)),
        &then_image(&layer("18446744073709551615", 0)),
        &then_image(&layer("0", 1 << 63)),
        &then_image(&layer("-1", 0)),
        // What it wrote is as long as it says, but nothing that it may be.
        &then_image(&(layer("5", 0) + "; printf wrong >&3")),
        // The image's metadata instead of the layer's is asked for later.
        &format!("case \"$1\" in *Image*) {};; *) exec \"$REAL\" \"$@\";; esac", layer("0", 0)),
        "case \"$1\" in *Image*) echo '{\"Image\":{\"meta_len\":4096}}';; *) exec \"$REAL\" \"$@\";; esac",
        "case \"$1\" in *Image*) echo '{\"Image\":{\"meta_len\":0}}';; *) exec \"$REAL\" \"$@\";; esac",
    ] {
        let error = fails(worker, SMALL, PATIENT).await;
        assert!(
            matches!(&error, ImageError::Io { what, .. } if what.contains("conversion worker")),
            "{worker}: {error}"
        );
    }
    // The answer comes before the layer was read.
    let early = layer("0", 0).replace("cat >/dev/null; ", "exec 0<&-; ");
    let error = fails(&then_image(&early), LARGE, PATIENT).await.to_string();
    assert!(error.contains("conversion worker"), "{error}");
}

/// As if a hostile layer had taken over the worker that decompresses it, to pass other content off as it.
#[tokio::test]
async fn what_comes_out_of_decompression_must_be_the_layer_of_the_configuration() {
    let real = r#"exec "$REAL" "$@""#;
    for (lie, says) in [
        (r#"cat >/dev/null; printf other >&3; echo '"Unpacked"'"#, "middle"),
        (r#"cat >/dev/null; echo '"Unpacked"'"#, "unpacks to"),
        (r#"cat >/dev/null; head -c 100000 /dev/zero >&3; echo '"Unpacked"'"#, "unpacks to"),
        ("cat >/dev/null; exit 137", "died"),
        (r#"cat >/dev/null; echo '{"Image":{"meta_len":4096}}'"#, "not asked for"),
        (r#"cat >/dev/null; head -c 6000000 /dev/zero >&3; echo '"Unpacked"'"#, "than 4194304 bytes"),
        ("exec 3>&-; exec sleep 1000", "no progress"),
        ("cat >/dev/null; exec sleep 1000", "no progress"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let worker = script(dir.path(), &format!("case \"$1\" in *Unpack*) {lie};; *) {real};; esac"));
        let mut layout = Layout::new(&dir.path().join("layout"));
        let image =
            layout.image(&[(&one_file("file", LARGE), Compression::Gzip)], "amd64", serde_json::json!({}));
        layout.tag("test", image);
        let limits = Limits { layer_bytes: 4 << 20, ..Limits::default() };
        let stall = Duration::from_millis(if says == "no progress" { 500 } else { 20_000 });
        let config = RegistryConfig { worker, stall, limits, ..config() };
        let store = ImageStore::open(&dir.path().join("store"), config).unwrap();
        let error = store.import_layout(&layout.dir, None).await.expect_err(lie).to_string();
        assert!(error.contains(says), "{lie}: {error}");
        assert_empty(dir.path());
    }
}

#[tokio::test]
async fn a_worker_that_lies_of_a_disk_is_an_error() {
    // Of which file in which layer the disk is.
    for (layer, offset, size) in [(1, "0", "5"), (0, "4096", "1"), (0, "0", "18446744073709551615")] {
        let disk = format!(r#"{{"layer":{layer},"offset":{offset},"size":{size}}}"#);
        let image = format!(r#"{{"Image":{{"meta_len":4096,"disk":{disk}}}}}"#);
        let worker = format!(
            "case \"$1\" in *Image*) head -c 4096 /dev/zero >&3; echo '{image}';; *) exec \"$REAL\" \"$@\";; esac"
        );
        let error = fails(&worker, SMALL, PATIENT).await;
        assert!(
            matches!(&error, ImageError::Io { what, .. } if what.contains("conversion worker")),
            "{disk}: {error}"
        );
    }
    // How large it is, and what was written.
    for worker in [
        r#"echo '{"Disk":{"bytes":0}}'"#,
        r#"echo '{"Disk":{"bytes":511}}'"#,
        r#"echo '{"Disk":{"bytes":18446744073709551104}}'"#,
        r#"head -c 1024 /dev/zero >&3; echo '{"Disk":{"bytes":512}}'"#,
        r#"echo '{"Image":{"meta_len":4096}}'"#,
        "exit 137",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = store_with(dir.path(), worker, PATIENT);
        let disk = dir.path().join("disk");
        fs::write(&disk, b"QFI\xfb\0\0\0\x03").unwrap();
        let error = store.import_disk(&disk, None).await.expect_err(worker);
        assert!(
            matches!(&error, ImageError::Io { what, .. } if what.contains("conversion worker")),
            "{worker}: {error}"
        );
        assert_empty(dir.path());
    }
}

#[tokio::test]
async fn a_worker_that_does_nothing_is_ended() {
    let image = r#"case "$1" in *Image*) exec sleep 1000;; *) exec "$REAL" "$@";; esac"#;
    for (worker, content) in [
        ("exec sleep 1000", SMALL),
        ("exec sleep 1000", LARGE),
        ("exec yes", LARGE),
        ("cat >/dev/null; exec sleep 1000", LARGE),
        ("exec >&-; exec sleep 1000", SMALL),
        (image, SMALL),
    ] {
        let error = fails(worker, content, Duration::from_millis(500)).await;
        assert!(
            matches!(&error, ImageError::Io { what, .. } if what.contains("no progress")),
            "{worker}: {error}"
        );
    }
}

#[tokio::test]
async fn a_worker_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let config = RegistryConfig { worker: "/no/such/husk-convert".into(), ..config() };
    let store = ImageStore::open(&dir.path().join("store"), config).unwrap();
    let error = store.import_layout(&layout.dir, None).await.unwrap_err();
    assert!(error.to_string().contains("/no/such/husk-convert"), "{error}");
    assert_empty(dir.path());
}

#[tokio::test]
async fn memory_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&dir.path().join("layout"));
    let names: Vec<String> = (0..100_000).map(|n| format!("{n:0>90}")).collect();
    let links: Vec<_> = names.iter().map(|name| (name.as_str(), b'2', name.as_bytes())).collect();
    let image = layout.image(&[(&archive(&links), Compression::Zstd)], "amd64", serde_json::json!({}));
    layout.tag("test", image);
    let limits = Limits { memory: 24 << 20, ..Limits::default() };
    let store = ImageStore::open(&dir.path().join("store"), RegistryConfig { limits, ..config() }).unwrap();
    let error = store.import_layout(&layout.dir, None).await.unwrap_err();
    assert!(matches!(&error, ImageError::TooLarge(what) if what.contains("memory")), "{error}");
    assert_empty(dir.path());
    drop(store);
    crate::support::store(dir.path()).import_layout(&layout.dir, None).await.unwrap();
}
