//! One place that serves a repository: requests with authentication and patience.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use tokio::time::{sleep, timeout};

use super::auth::{Challenge, TokenAnswer, may_see_credentials, parse_challenges};
use super::http::{Http, explain, is_local};
use crate::config::{Credentials, RegistryConfig};
use crate::digest;
use crate::error::{ImageError, Result};

/// First pause before a repeated request; it doubles each time.
const BACK_OFF: Duration = Duration::from_millis(200);
/// The longest pause that a registry may ask for.
const PAUSE_MAX: Duration = Duration::from_secs(20);
/// Longest answer of a token service, and the part of an error's body that is read.
const TOKEN_MAX: u64 = 256 << 10;
const ERROR_MAX: u64 = 8 << 10;

/// A base URL with what is known about it.
pub(super) struct Endpoint {
    http: Http,
    /// Without a slash at its end.
    base: Url,
    /// The registry that a mirror stands for.
    mirrored: Option<String>,
    credentials: Option<Credentials>,
    /// The `Authorization` header that worked last.
    authorization: Mutex<Option<HeaderValue>>,
    retries: u32,
    stall: Duration,
}

/// A request that may work when it is repeated.
struct Transient {
    reason: String,
    pause: Option<Duration>,
}

impl Endpoint {
    /// The registry at `host` itself: over TLS, except on this machine.
    pub(super) fn registry(
        http: &Http,
        config: &RegistryConfig,
        host: &str,
        credentials: Option<Credentials>,
    ) -> Result<Self> {
        let parse = |scheme| {
            Url::parse(&format!("{scheme}://{host}")).map_err(|e| ImageError::InvalidReference {
                reference: host.to_owned(),
                reason: format!("no host: {e}"),
            })
        };
        let mut base = parse("https")?;
        if is_local(&base) {
            base = parse("http")?;
        }
        Ok(Self::new(http, config, base, None, credentials))
    }

    /// A mirror of `registry`, which gets no credentials.
    pub(super) fn mirror(http: &Http, config: &RegistryConfig, url: &str, registry: &str) -> Result<Self> {
        let bad = |reason: &str| ImageError::Unavailable {
            registry: registry.to_owned(),
            reason: format!("its mirror {url:?} in the configuration is invalid: {reason}"),
        };
        let base = Url::parse(url).map_err(|e| bad(&e.to_string()))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(bad("it must begin with http:// or https:// and a host"));
        }
        if !base.username().is_empty() || base.password().is_some() || base.query().is_some() {
            return Err(bad("it may hold neither credentials nor a query"));
        }
        Ok(Self::new(http, config, base, Some(registry.to_owned()), None))
    }

    fn new(
        http: &Http,
        config: &RegistryConfig,
        base: Url,
        mirrored: Option<String>,
        credentials: Option<Credentials>,
    ) -> Self {
        Self {
            http: http.clone(),
            base,
            mirrored,
            credentials,
            authorization: Mutex::new(None),
            retries: config.retries,
            stall: config.stall,
        }
    }

    /// Host and port, for messages.
    pub(super) fn name(&self) -> &str {
        self.base.authority()
    }

    pub(super) fn is_mirror(&self) -> bool {
        self.mirrored.is_some()
    }

    pub(super) fn stall(&self) -> Duration {
        self.stall
    }

    pub(super) fn retries(&self) -> u32 {
        self.retries
    }

    pub(super) fn unavailable(&self, reason: impl Into<String>) -> ImageError {
        ImageError::Unavailable { registry: self.name().to_owned(), reason: reason.into() }
    }

    fn url(&self, path: &str) -> Result<Url> {
        let base = self.base.as_str().trim_end_matches('/').trim_end_matches("/v2");
        let mut url =
            Url::parse(&format!("{base}/v2/{path}")).map_err(|e| self.unavailable(format!("{path}: {e}")))?;
        if let Some(registry) = &self.mirrored {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        Ok(url)
    }

    /// The whole body at `path` below `/v2/`, at most `limit` bytes. `what` is for messages; `repository` is
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
        let url = self.url(path)?;
        let mut attempt = 0;
        let mut asked = false;
        loop {
            let mut request = self.http.client(&url).get(url.clone());
            if let Some(accept) = accept {
                request = request.header(ACCEPT, accept);
            }
            if offset != 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(authorization) = known {
                request = request.header(AUTHORIZATION, authorization);
            }
            let transient = match self.send(request).await? {
                Err(transient) => transient,
                Ok(mut response) => match response.status() {
                    StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(response),
                    // Only the registry itself is answered: whoever it redirected to gets no credentials.
                    StatusCode::UNAUTHORIZED if !asked && self.is_own(response.url()) => {
                        asked = true;
                        self.authenticate(response.headers(), what, repository).await?;
                        continue;
                    }
                    status => match self.refusal(&mut response, status, what).await {
                        Ok(transient) => transient,
                        Err(error) => return Err(error),
                    },
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

    fn is_own(&self, url: &Url) -> bool {
        url.scheme() == self.base.scheme() && url.authority() == self.base.authority()
    }

    async fn send(&self, request: RequestBuilder) -> Result<std::result::Result<Response, Transient>> {
        let reason = match timeout(self.stall, request.send()).await {
            Ok(Ok(response)) => return Ok(Ok(response)),
            Ok(Err(error)) if error.is_connect() || error.is_redirect() || error.is_builder() => {
                return Err(self.unavailable(explain(&error)));
            }
            Ok(Err(error)) => explain(&error),
            Err(_) => format!("no answer within {:?}", self.stall),
        };
        Ok(Err(Transient { reason, pause: None }))
    }

    /// What a status other than success means.
    async fn refusal(&self, response: &mut Response, status: StatusCode, what: &str) -> Result<Transient> {
        let asked_pause =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let body = read_body(response, ERROR_MAX, self.stall).await.ok().flatten().unwrap_or_default();
        let reason = format!("{} answered {status}{}", self.name(), error_text(&body));
        match status {
            StatusCode::NOT_FOUND => Err(ImageError::NotFound(what.to_owned())),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(ImageError::Unauthorized { what: what.to_owned(), reason })
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Ok(Transient { reason, pause: asked_pause.map(Duration::from_secs) })
            }
            status if status.is_server_error() => {
                Ok(Transient { reason, pause: asked_pause.map(Duration::from_secs) })
            }
            _ => Err(self.unavailable(format!("{what}: {reason}"))),
        }
    }

    /// Meets a challenge and keeps the header that does.
    async fn authenticate(&self, headers: &HeaderMap, what: &str, repository: &str) -> Result<()> {
        let refused = |reason: String| ImageError::Unauthorized { what: what.to_owned(), reason };
        let challenges: Vec<Challenge> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(parse_challenges)
            .collect();
        let by_scheme = |scheme| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let header = if let Some(bearer) = by_scheme("bearer") {
            format!("Bearer {}", self.token(bearer, what, repository).await?)
        } else if by_scheme("basic").is_some() {
            let Some(credentials) = &self.credentials else {
                return Err(refused(format!("{} wants a user's name and password", self.name())));
            };
            return self.keep(basic(&self.http, &self.base, credentials), what);
        } else {
            return Err(refused(format!("{} wants no kind of authentication that is known", self.name())));
        };
        let mut value = HeaderValue::from_str(&header)
            .map_err(|_| refused(format!("{} got a token that fits no header", self.name())))?;
        value.set_sensitive(true);
        self.keep(Some(value), what)
    }

    fn keep(&self, value: Option<HeaderValue>, what: &str) -> Result<()> {
        let value = value.ok_or_else(|| ImageError::Unauthorized {
            what: what.to_owned(),
            reason: "the credentials fit no header".into(),
        })?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    async fn token(&self, bearer: &Challenge, what: &str, repository: &str) -> Result<String> {
        let refused = |reason: String| ImageError::Unauthorized { what: what.to_owned(), reason };
        let realm = bearer.param("realm").unwrap_or_default();
        let shown = digest::clip(realm);
        let mut url =
            Url::parse(realm).ok().filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(
                || refused(format!("{} names the token service {shown:?}, which is no URL", self.name())),
            )?;
        let scope = format!("repository:{repository}:pull");
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = bearer.param("service") {
                query.append_pair("service", service);
            }
            query.append_pair("scope", bearer.param("scope").unwrap_or(&scope));
        }
        let credentials = self.credentials.as_ref().filter(|_| may_see_credentials(&url, &self.base));
        let mut attempt = 0;
        loop {
            let mut request = self.http.client(&url).get(url.clone());
            if let Some(Credentials { username, password }) = credentials {
                request = request.basic_auth(username, Some(password));
            }
            let transient = match self.send(request).await? {
                Err(transient) => transient,
                Ok(mut response) if response.status() == StatusCode::OK => {
                    let body = read_body(&mut response, TOKEN_MAX, self.stall)
                        .await
                        .ok()
                        .flatten()
                        .unwrap_or_default();
                    let answer =
                        serde_json::from_slice::<TokenAnswer>(&body).ok().and_then(TokenAnswer::token);
                    return answer
                        .ok_or_else(|| refused(format!("the token service {shown:?} gave no token")));
                }
                Ok(mut response) => {
                    let status = response.status();
                    match self.refusal(&mut response, status, what).await {
                        Ok(transient) => transient,
                        Err(_) => {
                            return Err(refused(format!("the token service {shown:?} answered {status}")));
                        }
                    }
                }
            };
            if attempt >= self.retries {
                return Err(self.unavailable(format!("the token service {shown:?}: {}", transient.reason)));
            }
            pause(attempt, transient.pause).await;
            attempt += 1;
        }
    }
}

/// The header of basic authentication, as reqwest writes it.
fn basic(http: &Http, base: &Url, credentials: &Credentials) -> Option<HeaderValue> {
    let request =
        http.client(base).get(base.clone()).basic_auth(&credentials.username, Some(&credentials.password));
    request.build().ok()?.headers().get(AUTHORIZATION).cloned()
}

pub(super) async fn pause(attempt: u32, asked: Option<Duration>) {
    sleep(asked.unwrap_or(BACK_OFF * 2_u32.saturating_pow(attempt)).min(PAUSE_MAX)).await;
}

/// A body of at most `limit` bytes; none if it is longer.
async fn read_body(
    response: &mut Response,
    limit: u64,
    stall: Duration,
) -> std::result::Result<Option<Bytes>, String> {
    let mut body = BytesMut::new();
    loop {
        match timeout(stall, response.chunk()).await {
            Ok(Ok(Some(chunk))) if (body.len() + chunk.len()) as u64 > limit => return Ok(None),
            Ok(Ok(Some(chunk))) => body.extend_from_slice(&chunk),
            Ok(Ok(None)) => return Ok(Some(body.freeze())),
            Ok(Err(error)) => return Err(explain(&error)),
            Err(_) => return Err(format!("no bytes for {stall:?}")),
        }
    }
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
