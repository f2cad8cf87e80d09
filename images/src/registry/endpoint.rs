//! One place that serves a repository: requests with authentication and patience.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use tokio::time::sleep;

use super::auth::{Challenge, parse_challenges};
use super::hosts::Host;
use super::http::{Ask, Http, NoAnswer, same_origin};
use super::pace::{Pace, read_body};
use crate::config::RegistryConfig;
use crate::credentials::Credentials;
use crate::digest;
use crate::error::{ImageError, Result};

/// First pause before a repeated request; it doubles each time.
const BACK_OFF: Duration = Duration::from_millis(200);
/// The longest pause that a registry may ask for: who wants a longer one has said no.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// The part of an error's body that is read, in bytes.
const ERROR_MAX: u64 = 8 << 10;

/// A base URL with what is known about it.
pub(super) struct Endpoint {
    pub(super) http: Http,
    /// With the API's "/v2".
    pub(super) base: Url,
    /// The registry that a mirror stands for.
    mirrored: Option<String>,
    /// Headers for this host alone.
    headers: HeaderMap,
    /// Whether it may say what a tag leads to.
    pub(super) resolve: bool,
    /// Whether it may be asked for content.
    pub(super) pull: bool,
    pub(super) credentials: Option<Credentials>,
    /// Why there are none, where there should be some.
    pub(super) no_credentials: Option<String>,
    /// The `Authorization` header that worked last.
    authorization: Mutex<Option<HeaderValue>>,
    pub(super) retries: u32,
    pub(super) stall: Duration,
    min_rate: u64,
}

/// A request that may work when it is repeated.
pub(super) struct Transient {
    pub(super) reason: String,
    pub(super) pause: Option<Duration>,
}

impl From<String> for Transient {
    fn from(reason: String) -> Self {
        Self { reason, pause: None }
    }
}

impl Endpoint {
    /// The place at `base` that `host` tells of, which stands for the registry `mirrored` or is one itself.
    pub(super) fn new(
        http: &Http,
        config: &RegistryConfig,
        host: &Host,
        base: Url,
        mirrored: Option<&str>,
    ) -> Result<Self> {
        let http = match host.tls.is_usual() {
            true => http.clone(),
            false => Http::special(&host.tls, &base).map_err(|reason| ImageError::Unavailable {
                registry: base.authority().to_owned(),
                reason: format!("its hosts.toml: {reason}"),
            })?,
        };
        Ok(Self {
            http,
            base,
            mirrored: mirrored.map(str::to_owned),
            headers: host.headers.clone(),
            resolve: host.resolve,
            pull: host.pull,
            credentials: None,
            no_credentials: None,
            authorization: Mutex::new(None),
            retries: config.retries,
            stall: config.stall,
            min_rate: config.min_rate,
        })
    }

    /// With the credentials that were found, or what went wrong when they were looked for.
    pub(super) fn with(mut self, found: std::result::Result<Option<Credentials>, String>) -> Self {
        match found {
            Ok(credentials) => self.credentials = credentials,
            Err(reason) => self.no_credentials = Some(reason),
        }
        self
    }

    /// Host and port, for messages.
    pub(super) fn name(&self) -> &str {
        self.base.authority()
    }

    pub(super) fn is_mirror(&self) -> bool {
        self.mirrored.is_some()
    }

    /// The patience with a blob's body.
    pub(super) fn pace(&self) -> Pace {
        Pace::new(self.stall, self.min_rate)
    }

    pub(super) fn unavailable(&self, reason: impl Into<String>) -> ImageError {
        ImageError::Unavailable { registry: self.name().to_owned(), reason: reason.into() }
    }

    fn url(&self, path: &str) -> Result<Url> {
        let base = self.base.as_str().trim_end_matches('/');
        let mut url =
            Url::parse(&format!("{base}/{path}")).map_err(|e| self.unavailable(format!("{path}: {e}")))?;
        if let Some(registry) = &self.mirrored {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }

    /// The whole body at `path` of the API, at most `limit` bytes. `what` is for messages; `repository` is
    /// what a token is asked for.
    pub(super) async fn small(
        &self,
        path: &str,
        accept: &str,
        limit: u64,
        what: &str,
        repository: &str,
    ) -> Result<Bytes> {
        let mut attempt = 0;
        loop {
            let mut response = self.get(path, Some(accept), 0, what, repository).await?;
            match read_body(&mut response, limit, self.stall).await {
                Ok(Some(body)) => return Ok(body),
                Ok(None) => return Err(ImageError::TooLarge(format!("{what} is over {limit} bytes"))),
                Err(_) if attempt < self.retries => pause(attempt, None).await,
                Err(reason) => return Err(self.unavailable(format!("{what}: {reason}"))),
            }
            attempt += 1;
        }
    }

    /// The answer to a GET from byte `offset` on, its body yet to be read; its status is 200 or 206.
    pub(super) async fn get(
        &self,
        path: &str,
        accept: Option<&str>,
        offset: u64,
        what: &str,
        repository: &str,
    ) -> Result<Response> {
        let mut ask = Ask {
            url: self.url(path)?,
            headers: HeaderMap::new(),
            secrets: self.headers.clone(),
            form: None,
        };
        if let Some(accept) = accept.and_then(|accept| accept.parse().ok()) {
            ask.headers.insert(ACCEPT, accept);
        }
        if offset != 0
            && let Ok(range) = format!("bytes={offset}-").parse()
        {
            ask.headers.insert(RANGE, range);
        }
        let mut attempt = 0;
        let mut asked = false;
        loop {
            let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(authorization) = known {
                ask.secrets.insert(AUTHORIZATION, authorization);
            }
            let transient = match self.http.send(&ask, &self.base, self.stall).await {
                Err(NoAnswer::Ever(reason)) => return Err(self.unavailable(reason)),
                Err(NoAnswer::ForNow(reason)) => reason.into(),
                Ok(mut response) => match response.status() {
                    StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                    // Only the registry itself is answered: whoever it redirected to gets no credentials.
                    StatusCode::UNAUTHORIZED if !asked && same_origin(response.url(), &self.base) => {
                        asked = true;
                        self.authenticate(response.headers(), what, repository).await?;
                        continue;
                    }
                    status => self.refusal(&mut response, status, what).await?,
                },
            };
            if attempt >= self.retries {
                return Err(self.unavailable(format!("{what}: {}", transient.reason)));
            }
            tracing::debug!(registry = self.name(), attempt, "{what}: {}", transient.reason);
            pause(attempt, transient.pause).await;
            attempt += 1;
        }
    }

    /// What a status other than success means.
    pub(super) async fn refusal(
        &self,
        response: &mut Response,
        status: StatusCode,
        what: &str,
    ) -> Result<Transient> {
        let pause = response.headers().get(RETRY_AFTER).and_then(retry_after);
        let body = read_body(response, ERROR_MAX, self.stall).await.ok().flatten().unwrap_or_default();
        let reason = format!("{} answered {status}{}", self.name(), error_text(&body));
        match status {
            StatusCode::NOT_FOUND => Err(ImageError::NotFound(what.to_owned())),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.refused(what, &reason)),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => self.later(what, reason, pause),
            status if status.is_server_error() => self.later(what, reason, pause),
            _ => Err(self.unavailable(format!("{what}: {reason}"))),
        }
    }

    fn later(&self, what: &str, reason: String, pause: Option<Duration>) -> Result<Transient> {
        match pause {
            Some(pause) if pause > PAUSE_MAX => {
                Err(self.unavailable(format!("{what}: {reason}, and asks not to come back for {pause:.0?}")))
            }
            pause => Ok(Transient { reason, pause }),
        }
    }

    /// Meets a challenge and keeps the header that does.
    async fn authenticate(&self, headers: &HeaderMap, what: &str, repository: &str) -> Result<()> {
        let challenges: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(parse_challenges)
            .collect();
        let by_scheme = |scheme| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let value = if let Some(bearer) = by_scheme("bearer") {
            secret(&format!("Bearer {}", self.token(bearer, what, repository).await?))
        } else if by_scheme("basic").is_some() {
            let Some(Credentials::Password { username, password }) = &self.credentials else {
                let reason = format!("{} wants a user's name and password", self.name());
                return Err(self.refused(what, &reason));
            };
            basic(username, password)
        } else {
            let reason = format!("{} wants no kind of authentication that is known", self.name());
            return Err(self.refused(what, &reason));
        };
        let value = value.ok_or_else(|| self.refused(what, "the credentials fit no header"))?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }
}

/// A header's value that no log may hold.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The header of basic authentication (RFC 7617).
pub(super) fn basic(username: &str, password: &str) -> Option<HeaderValue> {
    secret(&format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}"))))
}

/// How long to wait (RFC 9110, "Retry-After"): seconds, or a date.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            Some(date.duration_since(SystemTime::now()).unwrap_or_default())
        }
    }
}

pub(super) async fn pause(attempt: u32, asked: Option<Duration>) {
    sleep(asked.unwrap_or(BACK_OFF * 2_u32.saturating_pow(attempt)).min(PAUSE_MAX)).await;
}

/// The first message of an error's body (OCI distribution, "Error Codes"), made safe to print.
fn error_text(body: &[u8]) -> String {
    let message = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|value| {
        let error = value.get("errors")?.get(0)?;
        let text = |name| error.get(name).and_then(|text| text.as_str());
        text("message").filter(|text| !text.is_empty()).or_else(|| text("code")).map(str::to_owned)
    });
    message.map_or_else(String::new, |message| format!(" ({:?})", digest::clip(&message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_seconds_or_dates() {
        let pause = |text: &str| retry_after(&text.parse().unwrap());
        assert_eq!(pause("7"), Some(Duration::from_secs(7)));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
        let found = pause(&soon).unwrap();
        assert!((80..=90).contains(&found.as_secs()), "{found:?}");
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!((pause("-1"), pause("soon"), pause("")), (None, None, None));
    }

    #[test]
    fn basic_is_as_rfc_7617_has_it() {
        assert_eq!(basic("Aladdin", "open sesame").unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }
}
