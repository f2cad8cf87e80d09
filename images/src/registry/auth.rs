//! Authentication: the challenges of RFC 9110 and the bearer tokens of the distribution specification.

use reqwest::Url;

use super::http::same_origin;

/// A challenge of a `WWW-Authenticate` header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    /// Lower-case.
    pub(super) scheme: String,
    /// Names in lower case, and values.
    params: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The challenges in one header, as far as it is well-formed.
pub(super) fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let (token, after) = token(rest);
        if token.is_empty() {
            break;
        }
        if let Some(value) = after.strip_prefix('=') {
            let Some((value, after)) = value_of(value) else { break };
            let Some(challenge) = challenges.last_mut() else { break };
            challenge.params.push((token.to_ascii_lowercase(), value));
            rest = after;
        } else {
            challenges.push(Challenge { scheme: token.to_ascii_lowercase(), params: Vec::new() });
            rest = after;
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    challenges
}

fn token(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && !"!#$%&'*+-.^_`|~".contains(c));
    text.split_at(end.unwrap_or(text.len()))
}

fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = token(text);
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => return Some((value, &quoted[at + 1..])),
            (_, '\\') => value.push(chars.next()?.1),
            (_, c) => value.push(c),
        }
    }
}

/// Whether the token service at `realm` may see the credentials for `registry`: it is the same host, or one
/// below the registry's own domain (auth.docker.io for registry-1.docker.io), and no less protected. A domain in
/// which anyone can have a name (a "public suffix", as co.uk and github.io are) is no one's own.
pub(super) fn may_see_credentials(realm: &Url, registry: &Url) -> bool {
    if same_origin(realm, registry) {
        return true;
    }
    let (Some(theirs), Some(ours)) = (realm.domain(), registry.domain()) else { return false };
    if realm.scheme() != "https" {
        return false;
    }
    let within =
        |domain: &str| theirs == domain || theirs.strip_suffix(domain).is_some_and(|sub| sub.ends_with('.'));
    let parent = ours.split_once('.').map_or("", |(_, parent)| parent);
    within(ours) || (psl::domain_str(parent).is_some() && within(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let list = parse_challenges(
            r#"Basic realm="a \"b\", c", Bearer realm="https://auth.docker.io/token",service=registry,scope="repository:x:pull,push""#,
        );
        assert_eq!(list.len(), 2);
        assert_eq!((list[0].scheme.as_str(), list[0].param("realm")), ("basic", Some("a \"b\", c")));
        assert_eq!(list[1].param("service"), Some("registry"));
        assert_eq!(list[1].param("scope"), Some("repository:x:pull,push"));
        assert_eq!(parse_challenges(" , Negotiate , BEARER Realm=x")[1].param("realm"), Some("x"));
    }

    #[test]
    fn odd_challenges_do_no_harm() {
        for text in
            ["", "=", "Bearer realm=\"unended", "realm=\"x\"", "Bearer realm=\"a\\", "\u{e4}", "Bearer ==="]
        {
            assert!(
                parse_challenges(text)
                    .iter()
                    .all(|challenge| challenge.param("realm").is_none_or(str::is_empty))
            );
        }
    }

    #[test]
    fn credentials_stay_with_their_host() {
        let may = |realm: &str, registry: &str| {
            may_see_credentials(&Url::parse(realm).unwrap(), &Url::parse(registry).unwrap())
        };
        assert!(may("https://auth.docker.io/token", "https://registry-1.docker.io"));
        assert!(may("https://gitlab.com/jwt/auth", "https://registry.gitlab.com"));
        assert!(may("https://quay.io/v2/auth", "https://quay.io"));
        assert!(may("https://auth.quay.io/v2/auth", "https://quay.io"));
        assert!(may("http://localhost:5000/token", "http://localhost:5000"));
        assert!(!may("https://evil.example/token", "https://registry.gitlab.com"));
        assert!(!may("https://evildocker.io/token", "https://registry-1.docker.io"));
        assert!(!may("https://docker.io.evil.example/", "https://registry-1.docker.io"));
        assert!(!may("http://auth.docker.io/token", "https://registry-1.docker.io"));
        assert!(!may("https://other.io/", "https://quay.io"));
        assert!(!may("http://localhost:6000/token", "http://localhost:5000"));
        assert!(!may("https://10.0.0.1/token", "https://10.0.0.2"));
        assert!(may("https://gitlab.corp.example/jwt/auth", "https://registry.corp.example:5050"));
        assert!(may("https://auth.registry.co.uk/token", "https://registry.co.uk"));
        for (realm, registry) in [
            ("https://evil.co.uk/token", "https://registry.co.uk"),
            ("https://evil.github.io/token", "https://registry.github.io"),
            ("https://evil.s3.amazonaws.com/token", "https://registry.s3.amazonaws.com"),
            ("https://evil.example/token", "https://registry.example"),
        ] {
            assert!(!may(realm, registry), "{realm} for {registry}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_header_makes_it_panic(text in "[a-zA-Z=\", \\\\\u{e4}]{0,60}") {
            parse_challenges(&text);
        }
    }
}
