//! Docker's `config.json`: credentials in the file, or a helper that has them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::{Credentials, helper, registry_of};
use crate::reference::Reference;

/// Longest file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// What helpers call Docker Hub.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    auths: BTreeMap<String, Entry>,
    /// The helper for every registry that none is named for.
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// What the file at `path` has for the repository of `reference` at the registry `host`. Helpers get `patience`.
///
/// # Errors
/// What is wrong with the file or a helper.
pub(crate) async fn find(
    path: &Path,
    host: &str,
    reference: &Reference,
    patience: Duration,
) -> Result<Option<Credentials>, String> {
    let Some(file) = read(path).map_err(|reason| format!("{}: {reason}", path.display()))? else {
        return Ok(None);
    };
    let registry = registry_of(host);
    let named = file.cred_helpers.iter().find(|(key, _)| registry_of(key) == registry).map(|(_, name)| name);
    if let Some(name) = named.or(file.creds_store.as_ref()).filter(|name| !name.is_empty()) {
        let server = if registry == "docker.io" { DOCKER_HUB } else { host };
        match helper::get(name, server, patience).await {
            Ok(None) => {}
            found => return found,
        }
    }
    let place = format!("{registry}/{}", reference.repository);
    let best = file
        .auths
        .iter()
        .map(|(key, entry)| (place_of(key), entry))
        .filter(|(key, _)| {
            place.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
        .max_by_key(|(key, _)| key.len());
    match best {
        Some((key, entry)) => {
            entry.credentials().map_err(|reason| format!("{}: auths of {key:?}: {reason}", path.display()))
        }
        None => Ok(None),
    }
}

fn read(path: &Path) -> Result<Option<File>, String> {
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|e| e.to_string())?,
    };
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("it is over {FILE_MAX} bytes"));
    }
    // Where it does not parse serde_json tells line and column, but may quote a value: a secret.
    let parsed = serde_json::from_slice(&bytes);
    parsed.map(Some).map_err(|e| format!("line {}, column {}: no valid configuration", e.line(), e.column()))
}

/// The registry that a key of `auths` names, with the path that other tools than docker give behind it.
fn place_of(key: &str) -> String {
    let registry = registry_of(key);
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path).trim_end_matches('/');
    match path {
        "" | "v1" | "v2" => registry.to_owned(),
        path => format!("{registry}/{path}"),
    }
}

impl Entry {
    fn credentials(&self) -> Result<Option<Credentials>, String> {
        let set = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(token) = set(&self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken(token)));
        }
        if let Some(token) = set(&self.registrytoken) {
            return Ok(Some(Credentials::RegistryToken(token)));
        }
        if let Some(auth) = set(&self.auth) {
            let decoded = Credentials::from_basic(&auth);
            return decoded.map(Some).ok_or_else(|| "auth is no base64 of NAME:SECRET".to_owned());
        }
        let username = set(&self.username);
        Ok(username.map(|username| Credentials::password(username, set(&self.password).unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn look(text: &str, host: &str, reference: &str) -> Result<Option<Credentials>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, text).unwrap();
        find(&path, host, &Reference::parse(reference).unwrap(), Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn the_longest_key_that_fits_counts() {
        // "YTox" is "a:1", "YToy" is "a:2", "YToz" is "a:3".
        let text = r#"{"auths":{"quay.io":{"auth":"YTox"},"quay.io/org/app":{"auth":"YToy"},
            "https://index.docker.io/v1/":{"auth":"YToz"},"empty.example":{},
            "tokens.example":{"identitytoken":"t","auth":"YTox"},"plain.example":{"username":"u","password":"p"}}}"#;
        let password = |password: &str| Some(Credentials::password("a", password));
        for (reference, expected) in [
            ("quay.io/x", password("1")),
            ("quay.io/org/app", password("2")),
            ("quay.io/org/app/more", password("2")),
            ("quay.io/org/apple", password("1")),
            ("busybox", password("3")),
            ("other.example/x", None),
            ("empty.example/x", None),
            ("tokens.example/x", Some(Credentials::IdentityToken("t".into()))),
            ("plain.example/x", Some(Credentials::password("u", "p"))),
        ] {
            let host = Reference::parse(reference).unwrap().registry;
            assert_eq!(look(text, &host, reference).await.unwrap(), expected, "{reference}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_wrong_is_named_without_its_secrets() {
        let error = look(r#"{"auths":{"x.example":{"auth":"???"}}}"#, "x.example", "x.example/a").await;
        assert!(error.unwrap_err().contains("base64"));
        for text in [r#"{"auths":"verysecret"}"#, r#"{"auths":{"x.example":{"auth":["verysecret"]}}}"#, "{"] {
            let error = look(text, "x.example", "x.example/a").await.unwrap_err();
            assert!(error.contains("config.json") && !error.contains("verysecret"), "{error}");
        }
        assert!(look(&" ".repeat(2 << 20), "x.example", "x.example/a").await.unwrap_err().contains("over"));
        let absent = Path::new("/nonexistent/config.json");
        let reference = Reference::parse("x.example/a").unwrap();
        assert_eq!(find(absent, "x.example", &reference, Duration::from_secs(1)).await, Ok(None));
    }
}
