//! `hosts.toml` in a directory for each registry, as containerd has it in `/etc/containerd/certs.d`: which hosts
//! to ask, in which order and how.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::http::{Tls, is_local};
use crate::error::{ImageError, Result};

const FILE: &str = "hosts.toml";
/// The directory for registries without one of their own.
const DEFAULT: &str = "_default";

/// The hosts for one registry.
#[derive(Debug)]
pub(super) struct Hosts {
    /// To be asked in order, before the server.
    pub(super) mirrors: Vec<Host>,
    /// The registry itself.
    pub(super) server: Host,
}

/// How to ask one host.
#[derive(Debug)]
pub(super) struct Host {
    /// The base of the API's paths, "/v2" included; none if it is the registry's usual one.
    pub(super) url: Option<Url>,
    /// Whether it may say what a tag leads to.
    pub(super) resolve: bool,
    /// Whether it may be asked for content.
    pub(super) pull: bool,
    pub(super) tls: Tls,
    /// For this host alone.
    pub(super) headers: HeaderMap,
}

impl Default for Host {
    /// As a registry is asked of which no one says anything.
    fn default() -> Self {
        Self { url: None, resolve: true, pull: true, tls: Tls::default(), headers: HeaderMap::new() }
    }
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    server: Option<String>,
    /// In the file's order.
    #[serde(default)]
    host: toml::Table,
    #[serde(flatten)]
    own: Settings,
}

#[derive(Deserialize)]
struct Settings {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany<PathBuf>>,
    client: Option<Client>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: BTreeMap<String, OneOrMany<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

/// Files with a certificate and its key, or pairs of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Client {
    One(PathBuf),
    Many(Vec<OneOrMany<PathBuf>>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// What the first of `dirs` that knows the registry `host` says of it. Files that it names are relative to the
/// directory that `hosts.toml` is in.
pub(super) fn read(dirs: &[PathBuf], host: &str) -> Result<Option<Hosts>> {
    // A colon is no part of names everywhere, so containerd has another spelling for it.
    let spelt = host.rsplit_once(':').map(|(name, port)| format!("{name}_{port}_"));
    for name in spelt.iter().map(String::as_str).chain([host, DEFAULT]) {
        for dir in dirs.iter().map(|dir| dir.join(name)) {
            let path = dir.join(FILE);
            let text = match std::fs::read_to_string(&path) {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
                {
                    continue;
                }
                text => text.map_err(|e| e.to_string()),
            };
            let hosts = text.and_then(|text| parse(&text, &dir));
            return hosts.map(Some).map_err(|reason| ImageError::Unavailable {
                registry: host.to_owned(),
                reason: format!("{}: {}", path.display(), reason.trim_end()),
            });
        }
    }
    Ok(None)
}

fn parse(text: &str, dir: &Path) -> std::result::Result<Hosts, String> {
    let file: File = toml::from_str(text).map_err(|e| e.to_string())?;
    let mut mirrors = Vec::new();
    for (url, settings) in file.host {
        let settings: Settings = settings.try_into().map_err(|e| format!("host {url:?}: {e}"))?;
        mirrors.push(settings.into_host(Some(&url), dir).map_err(|e| format!("host {url:?}: {e}"))?);
    }
    let server = file.server.filter(|server| !server.is_empty());
    let server = file.own.into_host(server.as_deref(), dir).map_err(|e| format!("the server: {e}"))?;
    Ok(Hosts { mirrors, server })
}

impl Settings {
    fn into_host(self, url: Option<&str>, dir: &Path) -> std::result::Result<Host, String> {
        let capabilities = self.capabilities.unwrap_or_else(|| vec!["pull".into(), "resolve".into()]);
        if let Some(unknown) =
            capabilities.iter().find(|name| !matches!(name.as_str(), "pull" | "resolve" | "push"))
        {
            return Err(format!("the capability {unknown:?} is not known"));
        }
        let may = |name: &str| capabilities.iter().any(|capability| capability == name);
        let mut identities = Vec::new();
        let clients = match self.client {
            Some(Client::One(file)) => vec![OneOrMany::One(file)],
            Some(Client::Many(clients)) => clients,
            None => Vec::new(),
        };
        for pair in clients {
            // An empty name stands for a key that is in the certificate's file.
            let named = pair.into_vec().into_iter().filter(|file| !file.as_os_str().is_empty());
            let files: Vec<PathBuf> = named.map(|file| dir.join(file)).collect();
            if !(1..=2).contains(&files.len()) {
                return Err("client: give a certificate and its key, or one file with both".into());
            }
            identities.push(files);
        }
        let mut headers = HeaderMap::new();
        for (name, values) in self.header {
            let key: HeaderName = name.parse().map_err(|_| format!("{name:?} is no name of a header"))?;
            for value in values.into_vec() {
                let mut value: HeaderValue =
                    value.parse().map_err(|_| format!("the value of the header {name:?} fits none"))?;
                value.set_sensitive(true);
                headers.append(key.clone(), value);
            }
        }
        let tls = Tls {
            ca: self
                .ca
                .map(OneOrMany::into_vec)
                .unwrap_or_default()
                .iter()
                .map(|file| dir.join(file))
                .collect(),
            identities,
            skip_verify: self.skip_verify,
        };
        Ok(Host {
            url: url.map(|url| base(url, self.override_path, &tls)).transpose()?,
            resolve: may("resolve"),
            pull: may("pull"),
            tls,
            headers,
        })
    }
}

/// The base of the API's paths at `url`.
pub(super) fn base(url: &str, is_whole: bool, tls: &Tls) -> std::result::Result<Url, String> {
    let parse = |text: &str| Url::parse(text).map_err(|e| e.to_string());
    let mut base = if url.contains("://") {
        parse(url)?
    } else {
        let secure = parse(&format!("https://{url}"))?;
        if is_local(&secure) && tls.is_usual() { parse(&format!("http://{url}"))? } else { secure }
    };
    if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
        return Err("it must begin with http:// or https:// and a host".into());
    }
    if !base.username().is_empty() || base.password().is_some() || base.query().is_some() {
        return Err("it may hold neither credentials nor a query".into());
    }
    let path = base.path().trim_end_matches('/').to_owned();
    let is_whole = is_whole || path.ends_with("/v2");
    base.set_path(&if is_whole { path } else { format!("{path}/v2") });
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(text: &str) -> std::result::Result<Hosts, String> {
        parse(text, Path::new("/dir"))
    }

    #[test]
    fn a_file_is_read_as_containerd_does() {
        let found = hosts(
            r#"
            server = "https://registry-1.docker.io"
            ca = "own.pem"
            [host."https://z.example"]
              capabilities = ["pull"]
              ca = ["a.pem", "/etc/b.pem"]
              client = [["c.pem", "c.key"], "both.pem", ["other.pem", ""]]
              dial_timeout = "1s"
            [host."http://a.example:5000/team/"]
              override_path = true
              skip_verify = true
              [host."http://a.example:5000/team/".header]
                x-one = "1"
                x-two = ["2", "3"]
            [host."m.example"]
            "#,
        )
        .unwrap();
        let urls: Vec<_> =
            found.mirrors.iter().map(|host| host.url.as_ref().map(Url::as_str).unwrap_or_default()).collect();
        assert_eq!(urls, ["https://z.example/v2", "http://a.example:5000/team", "https://m.example/v2"]);
        let [first, second, third] = &found.mirrors[..] else { panic!() };
        assert_eq!((first.pull, first.resolve, third.resolve), (true, false, true));
        assert_eq!(first.tls.ca, [Path::new("/dir/a.pem"), Path::new("/etc/b.pem")]);
        let pair: &[&Path] = &[Path::new("/dir/c.pem"), Path::new("/dir/c.key")];
        let (one, other) = ([Path::new("/dir/both.pem")], [Path::new("/dir/other.pem")]);
        assert_eq!(first.tls.identities, [pair, &one[..], &other[..]]);
        assert!(second.tls.skip_verify && !first.tls.skip_verify);
        assert_eq!(
            (second.headers["x-one"].as_bytes(), second.headers.get_all("x-two").iter().count()),
            (&b"1"[..], 2)
        );
        assert_eq!(found.server.url.unwrap().as_str(), "https://registry-1.docker.io/v2");
        assert_eq!(found.server.tls.ca, [Path::new("/dir/own.pem")]);
        assert!(hosts("").unwrap().server.url.is_none());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("server = 1", "server"),
            ("[host.\"ftp://x\"]", "http://"),
            ("[host.\"https://user:word@x\"]", "credentials"),
            ("[host.\"https://x\"]\ncapabilities = [\"fetch\"]", "fetch"),
            ("[host.\"https://x\"]\nclient = [[\"a\", \"b\", \"c\"]]", "client"),
            ("[host.\"https://x\".header]\n\"a b\" = \"c\"", "a b"),
            ("[host.\"https://x\".header]\na = \"c\\nd\"", "header"),
            ("host = 3", "host"),
        ] {
            let error = hosts(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn directories_are_tried_from_the_most_particular_on() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().join("absent"), dir.path().to_owned()];
        let server = |host: &str| Some(read(&dirs, host).unwrap()?.server.url.unwrap().to_string());
        assert_eq!(server("x.example:5000"), None);
        for (name, url) in
            [("_default", "default"), ("x.example:5000", "colon"), ("x.example_5000_", "underscores")]
        {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join(FILE), format!("server = 'https://{url}'")).unwrap();
            assert_eq!(server("x.example:5000"), Some(format!("https://{url}/v2")));
        }
        assert_eq!(server("y.example"), Some("https://default/v2".into()));
        std::fs::write(dir.path().join("_default").join(FILE), "server =").unwrap();
        assert!(read(&dirs, "y.example").unwrap_err().to_string().contains("_default/hosts.toml"));
    }
}
