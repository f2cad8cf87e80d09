//! Who is asked in which order, and who gets to see credentials.

use std::path::Path;

use husk_images::{Credentials, ImageError, ImageStore, RegistryConfig, Silent};
use serde_json::json;

use crate::server::{End, Reply, Server, blob_in, spoil};
use crate::support::layout::{Layout, digest, one_file, simple};
use crate::support::{assert_counts, assert_empty, config};

const TOKEN: &str = "Bearer very-secret";
/// base64 of "ada:correct horse".
const BASIC: &str = "Basic YWRhOmNvcnJlY3QgaG9yc2U=";

fn credentials() -> Option<Credentials> {
    Some(Credentials::password("ada", "correct horse"))
}

fn store(dir: &Path, registry: &Server, mirrors: &[String]) -> ImageStore {
    let mirrors = [(registry.host(), mirrors.to_vec())].into();
    ImageStore::open(&dir.join("store"), RegistryConfig { mirrors, retries: 1, ..config() }).unwrap()
}

async fn pull(store: &ImageStore, server: &Server) -> Result<husk_images::Image, ImageError> {
    store.pull(&format!("{}/repo:test", server.host()), credentials(), &Silent).await
}

/// Nobody without the header `authorization` gets anything but `challenge`.
fn guarded(layout: &Path, authorization: &'static str, challenge: String) -> Server {
    Server::start(layout, move |request, honest| {
        if request.path.starts_with("/token") {
            let basic = request.header("authorization");
            let token = if basic == Some(BASIC) { "very-secret" } else { "for anyone" };
            return Reply::new(200).body(format!(r#"{{"token":"{token}","expires_in":60}}"#));
        }
        match request.header("authorization") {
            Some(value) if value == authorization => honest,
            _ => Reply::new(401).header("WWW-Authenticate", &challenge),
        }
    })
}

/// Answers a challenge whose token service is at the same host, as that host is known only afterwards.
fn guarded_by_itself(layout: &Path) -> Server {
    Server::start(layout, |request, honest| {
        let host = request.header("host").unwrap();
        match (request.path.starts_with("/token"), request.header("authorization")) {
            (true, Some(BASIC)) => Reply::new(200).body(r#"{"access_token":"very-secret"}"#),
            (true, _) => Reply::new(401),
            (false, Some(TOKEN)) => honest,
            (false, _) => Reply::new(401)
                .header("WWW-Authenticate", &format!(r#"Bearer realm="http://{host}/token",service="s v""#)),
        }
    })
}

#[tokio::test]
async fn a_token_is_fetched_once_and_used() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let server = guarded_by_itself(&layout.dir);
    pull(&store(dir.path(), &server, &[]), &server).await.unwrap();
    let tokens: Vec<_> = server.seen().into_iter().filter(|seen| seen.path.starts_with("/token")).collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(tokens[0].path, "/token?service=s+v&scope=repository%3Arepo%3Apull");
    let sent: Vec<_> = server.seen().iter().map(|seen| seen.headers.get("authorization").cloned()).collect();
    let token = Some(TOKEN.to_owned());
    assert_eq!(sent, [None, Some(BASIC.into()), token.clone(), token.clone(), token]);
}

#[tokio::test]
async fn an_expired_token_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let (mut given, mut uses) = (0, 0);
    let server = Server::start(&layout.dir, move |request, honest| {
        if request.path.starts_with("/token") {
            (given, uses) = (given + 1, 0);
            return Reply::new(200).body(format!(r#"{{"token":"number-{given}"}}"#));
        }
        // Each token is good for two requests.
        uses += 1;
        if uses <= 2 && request.header("authorization") == Some(&format!("Bearer number-{given}")) {
            return honest;
        }
        let realm = format!("http://{}/token", request.header("host").unwrap());
        Reply::new(401).header("WWW-Authenticate", &format!(r#"Bearer realm="{realm}""#))
    });
    pull(&store(dir.path(), &server, &[]), &server).await.unwrap();
    assert_eq!(server.count("/token"), 2);
    // One that is refused at once is not asked for again and again.
    let server = Server::start(&layout.dir, |request, _| {
        let realm = format!("http://{}/token", request.header("host").unwrap());
        match request.path.starts_with("/token") {
            true => Reply::new(200).body(r#"{"token":"useless"}"#),
            false => Reply::new(401).header("WWW-Authenticate", &format!(r#"Bearer realm="{realm}""#)),
        }
    });
    let error = pull(&store(&dir.path().join("other"), &server, &[]), &server).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert_eq!(server.seen().len(), 3);
}

#[tokio::test]
async fn a_token_service_elsewhere_sees_no_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let thief = guarded(&layout.dir, "", String::new());
    let challenge = format!(r#"Bearer realm="{}/token""#, thief.url());
    let server = guarded(&layout.dir, TOKEN, challenge);
    let error = pull(&store(dir.path(), &server, &[]), &server).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert_eq!((thief.count("/token"), server.seen().len()), (1, 2));
    assert!(thief.seen().iter().all(|seen| seen.header("authorization").is_none()));
    // Nor is anything else asked for that is no web address.
    for realm in ["file:///etc/passwd", "", "http://", "gopher://x"] {
        let server = guarded(&layout.dir, TOKEN, format!(r#"Bearer realm="{realm}""#));
        let error = pull(&store(&dir.path().join("other"), &server, &[]), &server).await.unwrap_err();
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{realm}: {error}");
    }
    assert_empty(dir.path());
}

#[tokio::test]
async fn basic_credentials_are_sent_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let server = guarded(&layout.dir, BASIC, "Negotiate, Basic realm=\"x\"".into());
    let store = store(dir.path(), &server, &[]);
    let name = format!("{}/repo:test", server.host());
    let error = store.pull(&name, None, &Silent).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert_eq!(server.seen().len(), 1);
    pull(&store, &server).await.unwrap();
    assert!(server.seen()[1].header("authorization").is_none(), "sent without being asked");
}

#[tokio::test]
async fn whoever_a_blob_is_redirected_to_sees_no_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let storage = Server::honest(&layout.dir);
    let elsewhere = storage.url();
    let server = Server::start(&layout.dir, move |request, honest| {
        match (request.header("authorization"), blob_in(&request.path)) {
            (None, _) => Reply::new(401).header("WWW-Authenticate", "Basic realm=x"),
            (_, Some(_)) => Reply::new(307).header("Location", &format!("{elsewhere}{}", request.path)),
            _ => honest,
        }
    });
    pull(&store(dir.path(), &server, &[]), &server).await.unwrap();
    assert_eq!(storage.count("/blobs/"), 2);
    assert!(storage.seen().iter().all(|seen| seen.header("authorization").is_none()));

    // Nor can it ask for them.
    let asks = guarded(&layout.dir, BASIC, "Basic realm=x".into());
    let elsewhere = asks.url();
    let server = Server::start(&layout.dir, move |request, honest| match blob_in(&request.path) {
        Some(_) => Reply::new(307).header("Location", &format!("{elsewhere}{}", request.path)),
        None => honest,
    });
    let error = pull(&store(&dir.path().join("other"), &server, &[]), &server).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    for seen in asks.seen().iter().chain(&server.seen()) {
        assert!(seen.header("authorization").is_none(), "the challenge was answered at {}", seen.path);
    }
}

#[tokio::test]
async fn addresses_in_a_manifest_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::new(&dir.path().join("layout"));
    let foreign = Server::honest(&layout.dir);
    let tar = one_file("a", b"b");
    // The type of layers that registries do not keep, and where to find one.
    let media_type = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    let mut layer = layout.blob(media_type, &tar);
    layer["urls"] = json!([format!("{}/v2/x/blobs/{}", foreign.url(), digest(&tar))]);
    let config = json!({"rootfs": {"type": "layers", "diff_ids": [digest(&tar)]}}).to_string();
    let config = layout.blob("application/vnd.oci.image.config.v1+json", config.as_bytes());
    layout.tag("test", layout.manifest(&config, &[layer], "amd64"));
    let blob = digest(&tar);
    let server = Server::start(&layout.dir, move |request, honest| match blob_in(&request.path) {
        Some(digest) if digest == blob => Reply::new(404),
        _ => honest,
    });
    let error = pull(&store(dir.path(), &server, &[]), &server).await.unwrap_err();
    assert!(matches!(error, ImageError::NotFound(_)), "{error}");
    assert_eq!(foreign.seen().len(), 0);
    assert_empty(dir.path());
}

#[tokio::test]
async fn redirects_come_to_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let server = Server::start(&layout.dir, |request, _| Reply::new(302).header("Location", &request.path));
    let error = pull(&store(dir.path(), &server, &[]), &server).await.unwrap_err();
    assert!(matches!(error, ImageError::Unavailable { .. }), "{error}");
    assert!(server.seen().len() < 10, "{} requests", server.seen().len());
}

#[tokio::test]
async fn mirrors_are_asked_first_and_without_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let registry = guarded_by_itself(&layout.dir);
    let (empty, mirror) = (Server::start(&layout.dir, |_, _| Reply::new(404)), Server::honest(&layout.dir));
    let image = pull(&store(dir.path(), &registry, &[empty.url(), mirror.url()]), &registry).await.unwrap();
    assert_eq!(image.repo_tags, [format!("{}/repo:test", registry.host())]);
    assert_eq!((empty.seen().len(), mirror.seen().len(), registry.seen().len()), (3, 3, 0));
    for seen in empty.seen().iter().chain(&mirror.seen()) {
        assert!(seen.header("authorization").is_none());
        assert!(seen.path.ends_with(&format!("?ns=127.0.0.1%3A{}", &registry.host()[10..])), "{}", seen.path);
    }
}

#[tokio::test]
async fn a_bad_mirror_does_not_keep_an_image_from_its_registry() {
    let dir = tempfile::tempdir().unwrap();
    let content = [7; 100_000];
    let layout = simple(dir.path(), &[("a", &content)]);
    let layer = digest(&one_file("a", &content));
    type Script = fn(Reply) -> Reply;
    let bad: [(&str, Script); 8] = [
        ("", |_| Reply::new(500)),
        ("", |_| Reply::new(401).header("WWW-Authenticate", "Basic realm=x")),
        ("", |honest| honest.end(End::Cut(0))),
        ("/manifests/test", |_| Reply::new(200).body("<html>Please log in</html>")),
        ("/blobs/", |honest| Reply::new(200).body(spoil(honest.body))),
        (&layer, |_| Reply::new(404)),
        (&layer, |honest| honest.end(End::Cut(0))),
        (&layer, |honest| Reply::new(200).body(spoil(honest.body))),
    ];
    for (number, (part, script)) in bad.into_iter().enumerate() {
        let dir = dir.path().join(number.to_string());
        let part = part.to_owned();
        let mirror =
            Server::start(
                &layout.dir,
                move |request, honest| {
                    if request.path.contains(&part) { script(honest) } else { honest }
                },
            );
        let registry = guarded_by_itself(&layout.dir);
        let pulled = pull(&store(&dir, &registry, &[mirror.url()]), &registry).await;
        pulled.unwrap_or_else(|error| panic!("mirror {number}: {error}"));
        assert!(registry.count("/v2/") > 0 && mirror.count("/v2/") > 0);
        // Not even one that asks for them.
        assert!(mirror.seen().iter().all(|seen| seen.header("authorization").is_none()), "mirror {number}");
        assert_counts(&dir, [1, 1, 0]);
    }
    let registry = Server::honest(&layout.dir);
    for url in ["ftp://mirror", "no url", "http://user:word@mirror", "http://mirror/?x=y"] {
        let store = store(&dir.path().join("config"), &registry, &[url.into()]);
        let error = pull(&store, &registry).await.unwrap_err();
        assert!(error.to_string().contains("in the configuration"), "{error}");
    }
}
