//! The HTTP clients and what they share.

use std::error::Error;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Url};

use crate::error::{ImageError, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REDIRECTS_MAX: usize = 5;
const USER_AGENT: &str = concat!("husk/", env!("CARGO_PKG_VERSION"));

/// Clients with their connections. No secret is in them.
#[derive(Clone)]
pub(crate) struct Http {
    outside: Client,
    /// For this machine's own addresses, to which no proxy leads.
    local: Client,
}

impl Http {
    pub(crate) fn new() -> Result<Self> {
        let client = || {
            Client::builder().user_agent(USER_AGENT).connect_timeout(CONNECT_TIMEOUT).redirect(
                Policy::custom(|attempt| {
                    let from_tls = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
                    if attempt.previous().len() > REDIRECTS_MAX {
                        attempt.error("too many redirects")
                    } else if from_tls && attempt.url().scheme() != "https" {
                        attempt.error("a redirect from https to plain http")
                    } else {
                        // reqwest itself drops the Authorization header when host or port change.
                        attempt.follow()
                    }
                }),
            )
        };
        let failed = |error: reqwest::Error| ImageError::Io {
            what: "setting up the registry client".into(),
            source: std::io::Error::other(error),
        };
        let outside = client().build().map_err(failed)?;
        Ok(Self { outside, local: client().no_proxy().build().map_err(failed)? })
    }

    /// The client for `url`.
    pub(super) fn client(&self, url: &Url) -> &Client {
        if is_local(url) { &self.local } else { &self.outside }
    }
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
    text
}
