//! Credentials for registries, and where they are found.

mod docker;
mod helper;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

pub(crate) use docker::find;

/// What proves to a registry who is asking.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user's name and secret, for the registry or its token service.
    Password {
        /// The name.
        username: String,
        /// The secret.
        password: String,
    },
    /// A refresh token (OAuth2), which the token service gives access tokens for.
    IdentityToken(String),
    /// An access token, for the registry alone.
    RegistryToken(String),
}

impl Credentials {
    /// A user's name and secret.
    pub fn password(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Password { username: username.into(), password: password.into() }
    }

    /// The base64 of a name, a colon and a secret, as docker's configuration and the CRI have it. None if it is
    /// anything else.
    pub fn from_basic(text: &str) -> Option<Self> {
        let bytes = BASE64_STANDARD.decode(text.trim()).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (username, password) = text.split_once(':')?;
        // Docker once wrote NULs behind it.
        (!username.is_empty()).then(|| Self::password(username, password.trim_end_matches('\0')))
    }
}

impl std::fmt::Debug for Credentials {
    /// Without the secret, so that no log can hold it.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { username, .. } => {
                out.debug_struct("Password").field("username", username).finish_non_exhaustive()
            }
            Self::IdentityToken(_) => out.write_str("IdentityToken(..)"),
            Self::RegistryToken(_) => out.write_str("RegistryToken(..)"),
        }
    }
}

/// The registry that `address` means, as references have it: docker writes URLs, and names Docker Hub by an older
/// address.
pub fn registry_of(address: &str) -> &str {
    let rest =
        ["https://", "http://"].iter().find_map(|scheme| address.strip_prefix(scheme)).unwrap_or(address);
    match rest.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for secret in [
            Credentials::password("ada", "secret"),
            Credentials::IdentityToken("secret".into()),
            Credentials::RegistryToken("secret".into()),
        ] {
            assert!(!format!("{secret:?}").contains("secret"));
        }
    }

    #[test]
    fn basic_is_read_as_docker_writes_it() {
        let read = |text: &str| Credentials::from_basic(&BASE64_STANDARD.encode(text));
        assert_eq!(read("ada:a:b"), Some(Credentials::password("ada", "a:b")));
        assert_eq!(read("ada:b\0\0"), Some(Credentials::password("ada", "b")));
        assert_eq!((read("ada"), read(":b"), read("")), (None, None, None));
        assert_eq!(Credentials::from_basic("?"), None);
        assert_eq!(Credentials::from_basic("//79"), None);
    }

    #[test]
    fn addresses_are_registries() {
        for (address, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("quay.io", "quay.io"),
            ("http://localhost:5000/v2/", "localhost:5000"),
            ("", ""),
        ] {
            assert_eq!(registry_of(address), registry);
        }
    }
}
