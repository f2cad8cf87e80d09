//! A client of registries (OCI distribution specification, "Pull").

mod auth;
mod blob;
mod endpoint;
mod http;

use bytes::Bytes;

use crate::config::{Credentials, RegistryConfig};
use crate::digest;
use crate::error::{ImageError, Result};
use crate::manifest::{self, ACCEPT, DOCUMENT_MAX};
use crate::reference::{Reference, Version};

pub(crate) use blob::Blob;
use endpoint::Endpoint;
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
    pub(crate) fn new(
        http: &Http,
        config: &RegistryConfig,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<Self> {
        let host = &reference.registry;
        let mut endpoints = Vec::new();
        let mirrors = config.mirrors.get(host).or_else(|| config.mirrors.get("*"));
        for mirror in mirrors.into_iter().flatten() {
            endpoints.push(Endpoint::mirror(http, config, mirror, host)?);
        }
        let own = if host == DOCKER_HUB.0 { DOCKER_HUB.1 } else { host };
        endpoints.push(Endpoint::registry(http, config, own, credentials)?);
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
