//! Image references, by the grammar of `distribution/reference` and Docker's short forms.

use std::fmt;
use std::net::Ipv6Addr;

use crate::digest;
use crate::error::{ImageError, Result};

/// Longest repository with its registry, in bytes (distribution's `RepositoryNameTotalLengthMax`).
const NAME_MAX: usize = 255;
/// Longest tag, in bytes.
const TAG_MAX: usize = 128;
/// The registry and namespace of names that give none.
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_NAMESPACE: &str = "library";

/// What a reference names beside the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Tag(String),
    /// "sha256:…".
    Digest(String),
}

/// A complete reference: `busybox` is `docker.io/library/busybox:latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Host, with a port where one is given.
    pub(crate) registry: String,
    /// Path of the repository in its registry.
    pub(crate) repository: String,
    pub(crate) version: Version,
}

impl Reference {
    /// Parses and completes `text`. Where it has a tag and a digest the digest alone counts, as it says more.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let bad = |reason: &str| ImageError::InvalidReference {
            reference: digest::clip(text).to_owned(),
            reason: reason.to_owned(),
        };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if let Some(digest) = digest
            && digest::hex(digest).is_err()
        {
            return Err(bad("what follows \"@\" must be sha256: and 64 lower-case hexadecimal digits"));
        }
        // A colon before the last slash belongs to a port.
        let slash = rest.rfind('/').map_or(0, |at| at + 1);
        let (name, tag) = match rest[slash..].find(':') {
            Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
            None => (rest, None),
        };
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(bad(
                "a tag has 1 to 128 letters, digits, \"_\", \".\" and \"-\", the last two not first",
            ));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry(first) => (first, path),
            _ => (DEFAULT_REGISTRY, name),
        };
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if !is_host(registry) {
            return Err(bad("the registry is no host name with an optional port"));
        }
        if path.is_empty() {
            return Err(bad("the repository's name is missing"));
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(bad("the repository's name must be lower-case"));
        }
        if !path.split('/').all(is_path_component) {
            return Err(bad(
                "a part of the repository's name is not of a-z, 0-9 and single separators between them",
            ));
        }
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{DEFAULT_NAMESPACE}/{path}")
        } else {
            path.to_owned()
        };
        if registry.len() + 1 + repository.len() > NAME_MAX {
            return Err(bad("the name is over 255 bytes"));
        }
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(digest.to_owned()),
            (None, tag) => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Self { registry: registry.to_owned(), repository, version })
    }

    /// The same repository at `digest`.
    pub(crate) fn at(&self, digest: &str) -> Self {
        Self { version: Version::Digest(digest.to_owned()), ..self.clone() }
    }

    /// Tag or digest, as it stands in a registry's URLs.
    pub(crate) fn version(&self) -> &str {
        match &self.version {
            Version::Tag(text) | Version::Digest(text) => text,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if matches!(self.version, Version::Tag(_)) { ':' } else { '@' };
        write!(out, "{}/{}{mark}{}", self.registry, self.repository, self.version())
    }
}

/// Whether a name's first part is a registry, as Docker tells it from a user's name.
fn is_registry(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':', '['])
        || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((address, rest)) = rest.split_once(']') else { return false };
            if address.parse::<Ipv6Addr>().is_err() {
                return false;
            }
            match rest {
                "" => return true,
                _ => (None, rest.strip_prefix(':').unwrap_or_default()),
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (Some(host), port),
            None => (Some(text), "0"),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    digits && port.parse::<u16>().is_ok() && host.is_none_or(|host| host.split('.').all(label))
}

/// `[a-z0-9]+` joined by one of `.`, `_`, `__` or any number of `-`.
fn is_path_component(part: &str) -> bool {
    let is_alnum = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(is_alnum);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .split(is_alnum)
            .all(|run| matches!(run, b"" | b"." | b"_" | b"__") || run.iter().all(|byte| *byte == b'-'))
}

fn is_tag(tag: &str) -> bool {
    (1..=TAG_MAX).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn short_forms_are_completed() {
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/a/b:c", "docker.io/a/b:c"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:1", "localhost:5000/x:1"),
            ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000/a/b/c:latest"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            (
                "registry.k8s.io/e2e-test-images/busybox:1.29-2",
                "registry.k8s.io/e2e-test-images/busybox:1.29-2",
            ),
            ("a__b/c---d:e", "docker.io/a__b/c---d:e"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), full);
            assert_eq!(Reference::parse(full).unwrap().to_string(), full, "completing is idempotent");
        }
        let both = Reference::parse(&format!("busybox:1@{DIGEST}")).unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/busybox@{DIGEST}"));
    }

    #[test]
    fn malformed_references_say_why() {
        let long = format!("x/{}", "a".repeat(250));
        let tag = format!("x:{}", "t".repeat(129));
        let cut = &DIGEST[..70];
        for (text, reason) in [
            ("", "missing"),
            ("Busybox", "lower-case"),
            ("busybox:", "tag"),
            ("busybox:a b", "tag"),
            ("busybox:.x", "tag"),
            (&tag, "tag"),
            ("a//b", "part"),
            ("a/../b", "part"),
            ("-a", "part"),
            ("a._b", "part"),
            ("a___b", "part"),
            ("a/b/", "part"),
            ("x@sha512:00", "sha256"),
            ("x@", "sha256"),
            (&format!("x@{cut}"), "sha256"),
            ("host:99999/x", "host"),
            ("host:/x", "host"),
            ("-h.io/x", "host"),
            ("[::g]:1/x", "host"),
            ("[::1]x/y", "host"),
            ("[::1/y", "host"),
            ("ex\u{e4}mple.org/x", "host"),
            ("x\u{e4}", "part"),
            ("user:pass@host/x", "sha256"),
            ("https://host/x", "host"),
            (&long, "255"),
        ] {
            let error = Reference::parse(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_parses_is_stable(text in "[a-zA-Z0-9:/@._\\[\\]-]{0,60}") {
            if let Ok(reference) = Reference::parse(&text) {
                let full = reference.to_string();
                proptest::prop_assert_eq!(Reference::parse(&full).unwrap(), reference);
            }
        }
    }
}
