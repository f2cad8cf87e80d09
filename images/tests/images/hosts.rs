//! `hosts.toml`: TLS with authorities and certificates of one's own, capabilities, headers, and the order of hosts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use husk_images::{Credentials, ImageError, ImageStore, RegistryConfig, Silent};
use husk_tests::{Registry, RegistryOptions};

use crate::server::{Reply, Server, blob_in};
use crate::support::layout::simple;
use crate::support::{config, run};

/// An authority, and what it vouched for.
struct Authority(PathBuf);

impl Authority {
    fn new(dir: &Path, name: &str) -> Self {
        let stem = dir.join(name);
        run(Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=a test's authority"])
            .arg("-keyout")
            .arg(stem.with_extension("key"))
            .arg("-out")
            .arg(stem.with_extension("pem")));
        Self(stem)
    }

    fn file(&self) -> PathBuf {
        self.0.with_extension("pem")
    }

    /// A certificate for 127.0.0.1, for servers and clients, and its key.
    fn certify(&self, name: &str) -> (PathBuf, PathBuf) {
        let stem = self.0.with_file_name(name);
        let [request, key, certificate, extensions] =
            ["csr", "key", "pem", "ext"].map(|ending| stem.with_extension(ending));
        run(Command::new("openssl")
            .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
            .args(["-subj", "/CN=127.0.0.1"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&request));
        fs::write(&extensions, "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
            .unwrap();
        run(Command::new("openssl")
            .args(["x509", "-req", "-days", "2", "-CAcreateserial"])
            .arg("-in")
            .arg(&request)
            .arg("-CA")
            .arg(self.file())
            .arg("-CAkey")
            .arg(self.0.with_extension("key"))
            .arg("-extfile")
            .arg(&extensions)
            .arg("-out")
            .arg(&certificate));
        (certificate, key)
    }
}

/// Says how to ask the registry `host`.
fn write_hosts(dir: &Path, host: &str, text: &str) {
    let dir = dir.join("certs.d").join(host);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("hosts.toml"), text).unwrap();
}

/// A store called `name` in `dir` that reads what was written there.
fn store(dir: &Path, name: &str) -> ImageStore {
    let config = RegistryConfig { hosts_dirs: vec![dir.join("certs.d")], retries: 0, ..config() };
    ImageStore::open(&dir.join(name), config).unwrap()
}

#[tokio::test]
async fn a_registry_with_an_authority_of_its_own_is_trusted_where_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let (authority, stranger) = (Authority::new(dir.path(), "ca"), Authority::new(dir.path(), "stranger"));
    let tls = Some(authority.certify("server"));
    let registry = Registry::with(dir.path(), RegistryOptions { guarded: true, tls, ..Default::default() });
    registry.push(&layout.dir, "test", "x:1");
    let name = format!("{}/x:1", registry.host());
    let credentials =
        || Some(Credentials::password(husk_tests::REGISTRY_USER, husk_tests::REGISTRY_PASSWORD));
    let server = format!("server = \"{}\"\n", registry.url());

    write_hosts(dir.path(), &registry.host(), &server);
    let error = store(dir.path(), "none").pull(&name, credentials(), &Silent).await.unwrap_err();
    assert!(matches!(error, ImageError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("hosts.toml"), "it does not say how to mend it: {error}");
    let wrong = format!("{server}ca = \"{}\"", stranger.file().display());
    write_hosts(dir.path(), &registry.host(), &wrong);
    let error = store(dir.path(), "wrong").pull(&name, credentials(), &Silent).await.unwrap_err();
    assert!(matches!(error, ImageError::Unavailable { .. }), "{error}");

    let both =
        format!("{server}ca = [\"{}\", \"{}\"]", stranger.file().display(), authority.file().display());
    for (number, good) in [both, format!("{server}skip_verify = true")].into_iter().enumerate() {
        write_hosts(dir.path(), &registry.host(), &good);
        let store = store(dir.path(), &format!("good{number}"));
        store.pull(&name, credentials(), &Silent).await.unwrap_or_else(|error| panic!("{good}: {error}"));
        let error = store.pull(&name, None, &Silent).await.unwrap_err();
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    }
    for (bad, says) in [("ca = \"absent.pem\"", "absent.pem"), ("ca = \"hosts.toml\"", "no certificate")] {
        write_hosts(dir.path(), &registry.host(), &format!("{server}{bad}"));
        let error =
            store(dir.path(), says).pull(&name, credentials(), &Silent).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_client_shows_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let authority = Authority::new(dir.path(), "ca");
    let tls = Some(authority.certify("server"));
    // Two registries over one storage: to the first skopeo can push.
    let open = Registry::start(dir.path());
    open.push(&layout.dir, "test", "x:1");
    drop(open);
    let client_ca = Some(authority.file());
    let registry = Registry::with(dir.path(), RegistryOptions { tls, client_ca, guarded: false });
    let name = format!("{}/x:1", registry.host());
    let text = format!("server = \"{}\"\nca = \"{}\"\n", registry.url(), authority.file().display());
    write_hosts(dir.path(), &registry.host(), &text);
    let error = store(dir.path(), "without").pull(&name, None, &Silent).await.unwrap_err();
    assert!(matches!(error, ImageError::Unavailable { .. }), "{error}");
    let (certificate, key) = authority.certify("client");
    let pair = format!("client = [[\"{}\", \"{}\"]]\n", certificate.display(), key.display());
    write_hosts(dir.path(), &registry.host(), &(text + &pair));
    store(dir.path(), "with").pull(&name, None, &Silent).await.unwrap();
}

#[tokio::test]
async fn hosts_are_asked_in_the_files_order_for_what_they_can() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let (contents, broken, mirror, registry) = (
        Server::honest(&layout.dir),
        Server::start(&layout.dir, |_, _| Reply::new(500)),
        Server::start(&layout.dir, |request, honest| match blob_in(&request.path) {
            // Of the mirror only tags are wanted.
            Some(_) => Reply::new(404),
            None => honest,
        }),
        Server::honest(&layout.dir),
    );
    // The names in the file are in no order that a table would be sorted in.
    write_hosts(
        dir.path(),
        &registry.host(),
        &format!(
            "[host.\"{}\"]\n[host.\"{}\"]\ncapabilities = [\"resolve\"]\n[host.\"{}/team\"]\n\
             capabilities = [\"pull\"]\noverride_path = true\n[host.\"{}/team\".header]\nx-key = \"k\"\n",
            broken.url(),
            mirror.url(),
            contents.url(),
            contents.url()
        ),
    );
    let image = store(dir.path(), "store");
    let image = image.pull(&format!("{}/x:test", registry.host()), None, &Silent).await.unwrap();
    assert_eq!(image.repo_tags, [format!("{}/x:test", registry.host())]);
    assert_eq!((broken.seen().len(), mirror.seen().len(), registry.seen().len()), (3, 1, 0));
    let paths: Vec<_> = contents.seen().iter().map(|seen| seen.path.clone()).collect();
    assert!(paths.len() == 2 && paths.iter().all(|path| path.starts_with("/team/x/blobs/")), "{paths:?}");
    for seen in contents.seen() {
        assert_eq!(seen.header("x-key"), Some("k"));
        assert!(seen.path.contains("ns=127.0.0.1"), "{}", seen.path);
    }
    assert!(mirror.seen().iter().chain(&broken.seen()).all(|seen| seen.header("x-key").is_none()));
}

#[tokio::test]
async fn headers_and_credentials_do_not_follow_a_redirect() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let storage = Server::honest(&layout.dir);
    let elsewhere = storage.url();
    let registry = Server::start(&layout.dir, move |request, honest| match blob_in(&request.path) {
        Some(_) => Reply::new(302).header("Location", &format!("{elsewhere}{}", request.path)),
        None => honest,
    });
    write_hosts(
        dir.path(),
        "_default",
        "[header]\nauthorization = \"Bearer secret\"\nx-key = [\"1\", \"2\"]\n",
    );
    store(dir.path(), "store").pull(&format!("{}/x:test", registry.host()), None, &Silent).await.unwrap();
    assert!(registry.seen().iter().all(|seen| seen.header("authorization") == Some("Bearer secret")));
    assert_eq!(storage.seen().len(), 2);
    for seen in storage.seen() {
        assert!(seen.header("authorization").is_none() && seen.header("x-key").is_none());
    }
}

#[tokio::test]
async fn whoever_leads_away_and_back_gets_no_credentials_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let back = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let target = back.clone();
    let elsewhere = Server::start(&layout.dir, move |_, _| {
        Reply::new(302).header("Location", &format!("{}/v2/other/secret", target.lock().unwrap()))
    });
    let away = elsewhere.url();
    let registry = Server::start(&layout.dir, move |request, honest| {
        match (blob_in(&request.path), request.path.contains("/secret")) {
            (Some(_), _) => Reply::new(302).header("Location", &away),
            (None, true) => Reply::new(200).body("secret"),
            _ => honest,
        }
    });
    *back.lock().unwrap() = registry.url();
    write_hosts(dir.path(), "_default", "[header]\nauthorization = \"Bearer secret\"\n");
    let pulled = store(dir.path(), "store").pull(&format!("{}/x:test", registry.host()), None, &Silent).await;
    assert!(pulled.is_err());
    let led: Vec<_> = registry.seen().into_iter().filter(|seen| seen.path.contains("/secret")).collect();
    assert!(!led.is_empty() && led.iter().all(|seen| seen.header("authorization").is_none()));
}
