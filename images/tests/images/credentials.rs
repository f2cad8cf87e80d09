//! Credentials: every kind of them, and docker's configuration with a helper that is a real program.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use husk_images::{Credentials, ImageError, ImageStore, RegistryConfig, Silent};
use husk_tests::{REGISTRY_PASSWORD, REGISTRY_USER, Registry, RegistryOptions, install_script};
use serde_json::json;

use crate::server::{Reply, Server};
use crate::support::layout::simple;
use crate::support::{config, run};

/// base64 of the user, a colon and the password.
const BASIC: &str = "YWRhOmNvcnJlY3QgaG9yc2U=";

/// A token service and registry in one, that wants `Bearer very-secret`.
fn with_tokens(layout: &Path, give: impl Fn(&crate::server::Request) -> bool + Send + 'static) -> Server {
    Server::start(layout, move |request, honest| {
        let host = request.header("host").unwrap();
        if request.path.starts_with("/token") {
            return if give(request) {
                Reply::new(200).body(r#"{"access_token":"very-secret"}"#)
            } else {
                Reply::new(401)
            };
        }
        match request.header("authorization") {
            Some("Bearer very-secret") => honest,
            _ => Reply::new(401)
                .header("WWW-Authenticate", &format!(r#"Bearer realm="http://{host}/token",service="s""#)),
        }
    })
}

#[tokio::test]
async fn an_identity_token_is_posted_to_the_token_service() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let server = with_tokens(&layout.dir, |request| {
        let mut fields: Vec<_> = request.body.split('&').collect();
        fields.sort_unstable();
        let expected = [
            "client_id=husk",
            "grant_type=refresh_token",
            "refresh_token=refresh+me",
            "scope=repository%3Ax%3Apull",
            "service=s",
        ];
        fields == expected
    });
    let store = crate::support::store(dir.path());
    let name = format!("{}/x:test", server.host());
    let wrong =
        store.pull(&name, Some(Credentials::IdentityToken("other".into())), &Silent).await.unwrap_err();
    assert!(matches!(wrong, ImageError::Unauthorized { .. }), "{wrong}");
    store.pull(&name, Some(Credentials::IdentityToken("refresh me".into())), &Silent).await.unwrap();
    assert!(server.seen().iter().all(|seen| !seen.path.contains("refresh")));
}

#[tokio::test]
async fn a_posted_token_does_not_follow_a_redirect() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let thief = Server::start(&layout.dir, |_, _| Reply::new(200).body(r#"{"token":"x"}"#));
    let elsewhere = format!("{}/token", thief.url());
    let server = Server::start(&layout.dir, move |request, _| {
        let realm = format!("http://{}/token", request.header("host").unwrap());
        match request.path.starts_with("/token") {
            true => Reply::new(307).header("Location", &elsewhere),
            false => Reply::new(401).header("WWW-Authenticate", &format!(r#"Bearer realm="{realm}""#)),
        }
    });
    let store = crate::support::store(dir.path());
    let token = Some(Credentials::IdentityToken("secret".into()));
    let error = store.pull(&format!("{}/x:test", server.host()), token, &Silent).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    assert_eq!((server.count("/token"), thief.seen().len()), (1, 0));
}

#[tokio::test]
async fn a_registry_token_goes_to_the_registry_alone() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let server = with_tokens(&layout.dir, |_| false);
    let store = crate::support::store(dir.path());
    let name = format!("{}/x:test", server.host());
    let token = |text: &str| Some(Credentials::RegistryToken(text.into()));
    store.pull(&name, token("very-secret"), &Silent).await.unwrap();
    assert_eq!(server.count("/token"), 0);
    let error = store.pull(&name, token("expired"), &Silent).await.unwrap_err();
    assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    let error = store.pull(&name, token("a\nb: c"), &Silent).await.unwrap_err();
    assert!(error.to_string().contains("fit no header"), "{error}");
}

/// A store that knows docker's configuration `json`.
fn store_with(dir: &Path, json: serde_json::Value) -> ImageStore {
    let docker = dir.join("config.json");
    fs::create_dir_all(dir).unwrap();
    fs::write(&docker, json.to_string()).unwrap();
    let config = RegistryConfig { docker_config: Some(docker), stall: Duration::from_secs(2), ..config() };
    ImageStore::open(&dir.join("store"), config).unwrap()
}

/// Where the process that the tests below start finds its helpers.
const HELPERS: &str = "HUSK_IMAGES_HELPERS";

/// Installs the credential helper `name`, a shell script.
fn helper(name: &str, script: &str) -> PathBuf {
    let program = Path::new(&env::var(HELPERS).unwrap()).join(format!("docker-credential-{name}"));
    install_script(&program, script);
    program
}

/// Helpers are looked for in the PATH, which is the whole process's: these run in one of their own.
#[test]
fn helpers_are_programs() {
    for test in ["dockers_configuration_opens_a_guarded_registry", "helpers_that_fail_are_named_and_bounded"]
    {
        let dir = tempfile::tempdir().unwrap();
        let path = format!("{}:{}", dir.path().display(), env::var("PATH").unwrap());
        let mut own = Command::new(env::current_exe().unwrap());
        own.args(["--exact", &format!("credentials::{test}"), "--ignored", "--nocapture"]);
        let output = run(own.env("PATH", path).env(HELPERS, dir.path()));
        assert!(output.contains("1 passed"), "{test} did not run: {output}");
    }
}

#[tokio::test]
#[ignore = "helpers_are_programs runs it"]
async fn dockers_configuration_opens_a_guarded_registry() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let registry = Registry::with(dir.path(), RegistryOptions { guarded: true, ..Default::default() });
    registry.push(&layout.dir, "test", "team/private:1");
    let host = registry.host();
    let name = format!("{host}/team/private:1");
    let answer = json!({"ServerURL": host, "Username": REGISTRY_USER, "Secret": REGISTRY_PASSWORD});
    let asked = dir.path().join("asked");
    helper("husktest", &format!("test \"$1\" = get && cat >'{}' && echo '{answer}'", asked.display()));
    helper("huskempty", "echo 'credentials not found in native keychain'; exit 1");
    for (number, good) in [
        json!({"auths": {&host: {"auth": BASIC}}}),
        json!({"auths": {format!("https://{host}/v2/"): {"username": REGISTRY_USER, "password": REGISTRY_PASSWORD}}}),
        json!({"auths": {&host: {"auth": "YTox"}, format!("{host}/team"): {"auth": BASIC}}}),
        json!({"credHelpers": {&host: "husktest"}}),
        json!({"credsStore": "husktest"}),
        json!({"credsStore": "huskempty", "auths": {&host: {"auth": BASIC}}}),
    ]
    .into_iter()
    .enumerate()
    {
        let store = store_with(&dir.path().join(number.to_string()), good.clone());
        store.pull(&name, None, &Silent).await.unwrap_or_else(|error| panic!("{good}: {error}"));
        // Those of the request come first.
        let given = Some(Credentials::password(REGISTRY_USER, "wrong"));
        let error = store.pull(&name, given, &Silent).await.unwrap_err();
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    }
    assert_eq!(fs::read_to_string(asked).unwrap(), host);
    let store = store_with(&dir.path().join("other"), json!({"auths": {"other.example": {"auth": BASIC}}}));
    assert!(matches!(store.pull(&name, None, &Silent).await, Err(ImageError::Unauthorized { .. })));
}

#[tokio::test]
#[ignore = "helpers_are_programs runs it"]
async fn helpers_that_fail_are_named_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let server =
        Server::start(&layout.dir, |_, _| Reply::new(401).header("WWW-Authenticate", "Basic realm=x"));
    let name = format!("{}/x:test", server.host());
    for (number, (script, says)) in [
        ("exec sleep 1000", "did not answer within"),
        ("exec yes", "over 65536 bytes"),
        ("echo nonsense", "no valid answer"),
        ("echo the keychain is locked; exit 2", "the keychain is locked"),
        ("kill -9 $$", "failed"),
    ]
    .into_iter()
    .enumerate()
    {
        let helper_name = format!("huskbad{number}");
        let program = helper(&helper_name, script);
        let store = store_with(&dir.path().join(number.to_string()), json!({"credsStore": helper_name}));
        let begun = Instant::now();
        let error = store.pull(&name, None, &Silent).await.unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(8), "{script}: {:?}", begun.elapsed());
        let program = program.file_name().unwrap().to_str().unwrap();
        let text = error.to_string();
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{script}: {text}");
        assert!(text.contains(says) && text.contains(program), "{script}: {text}");
    }
    for (number, bad) in ["no-such-helper", "../x", "a b", "a/b"].into_iter().enumerate() {
        let store = store_with(&dir.path().join(format!("bad{number}")), json!({"credsStore": bad}));
        let error = store.pull(&name, None, &Silent).await.unwrap_err().to_string();
        assert!(error.contains(bad) && error.contains("helper"), "{error}");
    }
    // Whoever serves everyone needs no credentials.
    let open = Server::honest(&layout.dir);
    let store = store_with(&dir.path().join("open"), json!({"credsStore": "no-such-helper"}));
    store.pull(&format!("{}/x:test", open.host()), None, &Silent).await.unwrap();
}

#[tokio::test]
async fn a_mirror_gets_its_own_credentials_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let layout = simple(dir.path(), &[("a", b"b")]);
    let mirror = Registry::with(dir.path(), RegistryOptions { guarded: true, ..Default::default() });
    mirror.push(&layout.dir, "test", "x:test");
    let registry = Server::start(&layout.dir, |_, _| Reply::new(503));
    let docker = dir.path().join("config.json");
    let mirrors: std::collections::BTreeMap<_, _> = [(registry.host(), vec![mirror.url()])].into();
    let name = format!("{}/x:test", registry.host());
    for (host, works) in [(mirror.host(), true), (registry.host(), false)] {
        fs::write(&docker, json!({"auths": {host: {"auth": BASIC}}}).to_string()).unwrap();
        let config = RegistryConfig {
            docker_config: Some(docker.clone()),
            mirrors: mirrors.clone(),
            retries: 0,
            ..config()
        };
        let store = ImageStore::open(&dir.path().join(works.to_string()), config).unwrap();
        assert_eq!(store.pull(&name, None, &Silent).await.is_ok(), works);
    }
}
