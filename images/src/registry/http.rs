//! HTTP requests: TLS, redirects, and who gets to see which header.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{HeaderMap, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Response, Url};
use tokio::time::timeout;

use crate::error::{ImageError, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REDIRECTS_MAX: usize = 5;
const USER_AGENT: &str = concat!("husk/", env!("CARGO_PKG_VERSION"));

/// How to speak TLS with one host.
#[derive(Clone, Debug, Default)]
pub(super) struct Tls {
    /// Files (PEM) of authorities to trust beside the system's.
    pub(super) ca: Vec<PathBuf>,
    /// Files (PEM) with a certificate and its key, together or in two, to show to the host.
    pub(super) identities: Vec<Vec<PathBuf>>,
    /// Believe everyone.
    pub(super) skip_verify: bool,
}

impl Tls {
    /// Whether nothing is special.
    pub(super) fn is_usual(&self) -> bool {
        self.ca.is_empty() && self.identities.is_empty() && !self.skip_verify
    }
}

/// Clients with their connections. No secret is in them but the key of a certificate for the host itself.
#[derive(Clone)]
pub(crate) struct Http {
    /// For the host itself, where that wants something special.
    own: Option<Client>,
    outside: Client,
    /// For this machine's own addresses, to which no proxy leads.
    local: Client,
}

/// A request.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) url: Url,
    /// For whoever answers.
    pub(super) headers: HeaderMap,
    /// For the host of `url` alone.
    pub(super) secrets: HeaderMap,
    /// What to post, if it is no GET.
    pub(super) form: Option<Vec<(&'static str, String)>>,
}

/// A request that got no answer.
pub(super) enum NoAnswer {
    /// It may when it is repeated.
    ForNow(String),
    Ever(String),
}

impl Http {
    pub(crate) fn new() -> Result<Self> {
        Self::trusting(&[], false).map_err(|error| ImageError::Io {
            what: "setting up the registry client".into(),
            source: std::io::Error::other(error),
        })
    }

    fn trusting(ca: &[Certificate], skip_verify: bool) -> reqwest::Result<Self> {
        let outside = builder(ca, skip_verify).build()?;
        Ok(Self { own: None, outside, local: builder(ca, skip_verify).no_proxy().build()? })
    }

    /// Clients for the host of `url`. Whoever that redirects to is trusted alike, as it often shares the host's
    /// private authority, but is shown no certificate.
    pub(super) fn special(tls: &Tls, url: &Url) -> std::result::Result<Self, String> {
        let mut ca = Vec::new();
        for path in &tls.ca {
            let bad = |e: reqwest::Error| format!("{}: {}", path.display(), explain(&e));
            let found = Certificate::from_pem_bundle(&read(path)?).map_err(bad)?;
            if found.is_empty() {
                return Err(format!("{} holds no certificate", path.display()));
            }
            ca.extend(found);
        }
        let failed = |e: reqwest::Error| explain(&e);
        let mut http = Self::trusting(&ca, tls.skip_verify).map_err(failed)?;
        if let Some(files) = tls.identities.first() {
            let mut pem = Vec::new();
            for path in files {
                pem.extend(read(path)?);
                pem.push(b'\n');
            }
            let bad = |e: reqwest::Error| format!("{}: {}", files[0].display(), explain(&e));
            let mut own = builder(&ca, tls.skip_verify).identity(Identity::from_pem(&pem).map_err(bad)?);
            if is_local(url) {
                own = own.no_proxy();
            }
            http.own = Some(own.build().map_err(failed)?);
        }
        Ok(http)
    }

    /// Sends `ask` and follows where the answers lead, within `patience` each. `host` is the one that these
    /// clients are for.
    pub(super) async fn send(
        &self,
        ask: &Ask,
        host: &Url,
        patience: Duration,
    ) -> std::result::Result<Response, NoAnswer> {
        let mut url = ask.url.clone();
        // Whoever was led away is not trusted with a way back.
        let mut is_first = true;
        for _ in 0..=REDIRECTS_MAX {
            is_first &= same_origin(&url, &ask.url);
            let client = match &self.own {
                Some(own) if is_first && same_origin(&url, host) => own,
                _ if is_local(&url) => &self.local,
                _ => &self.outside,
            };
            let mut request = match &ask.form {
                Some(form) => client.post(url.clone()).form(form),
                None => client.get(url.clone()),
            };
            request = request.headers(ask.headers.clone());
            if is_first {
                request = request.headers(ask.secrets.clone());
            }
            let response = match timeout(patience, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) if error.is_connect() || error.is_builder() => {
                    return Err(NoAnswer::Ever(explain(&error)));
                }
                Ok(Err(error)) => return Err(NoAnswer::ForNow(explain(&error))),
                Err(_) => return Err(NoAnswer::ForNow(format!("no answer within {patience:?}"))),
            };
            let target = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            // What is posted is a secret, and goes nowhere else.
            let Some(target) = target.filter(|_| ask.form.is_none()) else { return Ok(response) };
            let target = target.to_str().ok().and_then(|target| url.join(target).ok());
            let target =
                target.filter(|target| matches!(target.scheme(), "http" | "https") && target.has_host());
            let Some(target) = target else {
                return Err(NoAnswer::Ever("a redirect to what is no web address".into()));
            };
            if url.scheme() == "https" && target.scheme() != "https" {
                return Err(NoAnswer::Ever("a redirect from https to plain http".into()));
            }
            url = target;
        }
        Err(NoAnswer::Ever("too many redirects".into()))
    }
}

fn builder(ca: &[Certificate], skip_verify: bool) -> ClientBuilder {
    let builder = Client::builder().user_agent(USER_AGENT).connect_timeout(CONNECT_TIMEOUT);
    let builder = builder.redirect(Policy::none()).danger_accept_invalid_certs(skip_verify);
    ca.iter().fold(builder, |builder, ca| builder.add_root_certificate(ca.clone()))
}

fn read(path: &Path) -> std::result::Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Whether both lead to one host and port in one way.
pub(super) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Whether `url` leads to this machine.
pub(super) fn is_local(url: &Url) -> bool {
    match url.host_str().unwrap_or_default() {
        "localhost" | "[::1]" => true,
        host => host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback()),
    }
}

/// An error with its causes: reqwest's own texts say little.
pub(super) fn explain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    if text.contains("UnknownIssuer") {
        text += " (if it has an authority of its own, name that as `ca` in its hosts.toml)";
    }
    text
}
