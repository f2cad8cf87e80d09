//! A client of registries (OCI distribution specification, "Pull").

mod auth;
mod blob;
mod endpoint;
mod hosts;
mod http;
mod pace;
mod token;

use bytes::Bytes;
use reqwest::Url;

use crate::config::RegistryConfig;
use crate::credentials::{self, Credentials};
use crate::digest;
use crate::error::{ImageError, Result};
use crate::manifest::{self, ACCEPT, DOCUMENT_MAX};
use crate::reference::{Reference, Version};

pub(crate) use blob::Blob;
use endpoint::Endpoint;
use hosts::{Host, Hosts};
pub(crate) use http::Http;

/// Docker Hub's name in references is not that of its registry.
const DOCKER_HUB: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// One repository, at its mirrors and its own registry.
pub(crate) struct Repository {
    /// Tried in order.
    endpoints: Vec<Endpoint>,
    reference: Reference,
}

impl Repository {
    /// `given` are credentials for the registry itself; without any, and for mirrors, docker's configuration is
    /// looked at.
    pub(crate) async fn new(
        http: &Http,
        config: &RegistryConfig,
        reference: &Reference,
        given: Option<Credentials>,
    ) -> Result<Self> {
        let host = reference.registry.as_str();
        let bad = |url: &str, reason: String| ImageError::Unavailable {
            registry: host.to_owned(),
            reason: format!("{url:?} in the configuration is invalid: {reason}"),
        };
        let mut places: Vec<(Url, Host)> = Vec::new();
        let mirrors = config.mirrors.get(host).or_else(|| config.mirrors.get("*"));
        for mirror in mirrors.into_iter().flatten() {
            let usual = Host::default();
            if !mirror.starts_with("http://") && !mirror.starts_with("https://") {
                return Err(bad(mirror, "it must begin with http:// or https://".into()));
            }
            let base = hosts::base(mirror, false, &usual.tls).map_err(|reason| bad(mirror, reason))?;
            places.push((base, usual));
        }
        let (mirrors, server) = match hosts::read(&config.hosts_dirs, host)? {
            Some(Hosts { mirrors, server }) => (mirrors, server),
            None => (Vec::new(), Host::default()),
        };
        places.extend(mirrors.into_iter().filter_map(|mirror| Some((mirror.url.clone()?, mirror))));
        let own = if host == DOCKER_HUB.0 { DOCKER_HUB.1 } else { host };
        let own_base = hosts::base(own, false, &server.tls).map_err(|reason| {
            ImageError::InvalidReference { reference: host.to_owned(), reason: format!("no host: {reason}") }
        })?;
        // Docker Hub's name in references is often written for its registry there.
        let named = server.url.clone().filter(|url| url.host_str() != Some(DOCKER_HUB.0));
        places.push((named.unwrap_or_else(|| own_base.clone()), server));
        let mut endpoints = Vec::new();
        for (base, place) in places {
            let is_own = base.authority() == own_base.authority();
            let ns = (!is_own).then_some(host);
            let endpoint = Endpoint::new(http, config, &place, base, ns)?;
            // Docker's configuration knows Docker Hub by its name in references.
            let name = if is_own { host.to_owned() } else { endpoint.name().to_owned() };
            let found = match (&given, &config.docker_config) {
                (Some(given), _) if is_own => Ok(Some(given.clone())),
                (_, Some(path)) => credentials::find(path, &name, reference, config.stall).await,
                _ => Ok(None),
            };
            if let Err(reason) = &found {
                tracing::warn!(registry = name, "no credentials: {reason}");
            }
            endpoints.push(endpoint.with(found));
        }
        Ok(Self { endpoints, reference: reference.clone() })
    }

    /// The registry's name, as references have it.
    pub(crate) fn registry(&self) -> &str {
        &self.reference.registry
    }

    /// The manifest of that tag or digest, from the first endpoint that has it, verified where a digest says
    /// what it must be.
    pub(crate) async fn manifest(&self, version: &Version) -> Result<Bytes> {
        let reference = Reference { version: version.clone(), ..self.reference.clone() };
        let path = format!("{}/manifests/{}", reference.repository, reference.version());
        self.small(&path, &reference.to_string(), version).await
    }

    /// A whole blob of at most [`DOCUMENT_MAX`] bytes, verified.
    pub(crate) async fn document(&self, digest: &str) -> Result<Bytes> {
        let path = format!("{}/blobs/{digest}", self.reference.repository);
        self.small(&path, &self.reference.at(digest).to_string(), &Version::Digest(digest.to_owned())).await
    }

    async fn small(&self, path: &str, what: &str, version: &Version) -> Result<Bytes> {
        let mut failures = Failures::default();
        for endpoint in &self.endpoints {
            let may = match version {
                Version::Tag(_) => endpoint.resolve,
                Version::Digest(_) => endpoint.pull,
            };
            if !may {
                continue;
            }
            let bytes =
                match endpoint.small(path, ACCEPT, DOCUMENT_MAX, what, &self.reference.repository).await {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        failures.add(endpoint, error);
                        continue;
                    }
                };
            match version {
                Version::Digest(digest) => match digest::verify(&bytes, digest) {
                    Ok(()) => return Ok(bytes),
                    Err(error) => failures.add(endpoint, error),
                },
                // No digest says what a tag leads to, but a page of a portal or proxy is no manifest.
                Version::Tag(_) => match manifest::parse(&bytes) {
                    Ok(_) => return Ok(bytes),
                    Err(error) => failures.add(endpoint, error.of(what)),
                },
            }
        }
        Err(failures.into_error(what))
    }

    /// A blob's bytes as a stream, resumed where the connection breaks, from the endpoints from the number
    /// `first` on. The caller verifies the digest.
    pub(crate) fn blob(&self, digest: &str, size: u64, first: usize) -> Blob<'_> {
        Blob::new(self, digest, size, first)
    }
}

/// What went wrong at the endpoints so far.
#[derive(Default)]
struct Failures(Option<ImageError>);

impl Failures {
    /// The last failure counts, the registry's own, whose word stands above its mirrors'; unless it could not be
    /// asked and one of them could.
    fn add(&mut self, endpoint: &Endpoint, error: ImageError) {
        if endpoint.is_mirror() && !matches!(error, ImageError::NotFound(_)) {
            tracing::warn!(mirror = endpoint.name(), "a mirror fails: {error}");
        }
        if self.0.is_none() || !matches!(error, ImageError::Unavailable { .. }) {
            self.0 = Some(error);
        }
    }

    fn into_error(self, what: &str) -> ImageError {
        self.0.unwrap_or_else(|| ImageError::NotFound(what.to_owned()))
    }
}
