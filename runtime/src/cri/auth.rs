//! A pull's AuthConfig.

use husk_images::{Credentials, registry_of};
use husk_proto::cri::AuthConfig;
use tonic::Status;

/// The credentials in `auth` for the image `reference`; none if there are none for its registry.
///
/// # Errors
/// INVALID_ARGUMENT if `auth` cannot be read; it says nothing of what is in it.
pub fn credentials(auth: AuthConfig, reference: &str) -> Result<Option<Credentials>, Status> {
    let server = registry_of(&auth.server_address);
    if !server.is_empty() && server != registry_of_reference(reference) {
        tracing::warn!(image = reference, "the credentials are for {server:?} and are not used");
        return Ok(None);
    }
    if !auth.username.is_empty() {
        return Ok(Some(Credentials::password(auth.username, auth.password)));
    }
    if !auth.identity_token.is_empty() {
        return Ok(Some(Credentials::IdentityToken(auth.identity_token)));
    }
    if !auth.auth.is_empty() {
        let basic = Credentials::from_basic(&auth.auth);
        let bad = || Status::invalid_argument("auth.auth is no base64 of NAME:PASSWORD");
        return basic.map(Some).ok_or_else(bad);
    }
    Ok((!auth.registry_token.is_empty()).then_some(Credentials::RegistryToken(auth.registry_token)))
}

/// The registry of an image's name, which may be a short form.
fn registry_of_reference(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((first, _)) if first == "localhost" || first.contains(['.', ':']) => registry_of(first),
        _ => "docker.io",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(auth: AuthConfig, reference: &str) -> Option<Credentials> {
        credentials(auth, reference).unwrap()
    }

    #[test]
    fn every_field_counts() {
        let password = Some(Credentials::password("ada", "secret"));
        let plain = AuthConfig { username: "ada".into(), password: "secret".into(), ..Default::default() };
        assert_eq!(read(plain.clone(), "x"), password);
        assert_eq!(read(AuthConfig { auth: "YWRhOnNlY3JldA==".into(), ..Default::default() }, "x"), password);
        let identity = AuthConfig { identity_token: "t".into(), ..Default::default() };
        assert_eq!(read(identity, "x"), Some(Credentials::IdentityToken("t".into())));
        let registry = AuthConfig { registry_token: "t".into(), ..Default::default() };
        assert_eq!(read(registry, "x"), Some(Credentials::RegistryToken("t".into())));
        assert_eq!(read(AuthConfig::default(), "x"), None);
        let bad = credentials(AuthConfig { auth: "?secret?".into(), ..Default::default() }, "x").unwrap_err();
        assert_eq!(bad.code(), tonic::Code::InvalidArgument);
        assert!(!bad.message().contains("secret"));
    }

    #[test]
    fn credentials_of_another_server_are_not_used() {
        let auth = |server: &str| AuthConfig {
            username: "ada".into(),
            server_address: server.into(),
            ..Default::default()
        };
        for (server, reference, used) in [
            ("https://index.docker.io/v1/", "busybox", true),
            ("docker.io", "docker.io/library/busybox", true),
            ("quay.io", "quay.io/x", true),
            ("https://localhost:5000", "localhost:5000/x", true),
            ("quay.io", "busybox", false),
            ("quay.io", "quay.io.evil.example/x", false),
            ("localhost:5000", "localhost:6000/x", false),
        ] {
            assert_eq!(read(auth(server), reference).is_some(), used, "{server} for {reference}");
        }
    }
}
