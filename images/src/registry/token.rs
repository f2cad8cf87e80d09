//! Access tokens: from a token service (distribution's "Token Authentication" and its OAuth2 variant).

use reqwest::header::HeaderMap;
use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::auth::{Challenge, may_see_credentials};
use super::endpoint::{Endpoint, basic, pause};
use super::http::{Ask, NoAnswer};
use super::pace::read_body;
use crate::credentials::Credentials;
use crate::digest;
use crate::error::{ImageError, Result};

/// Longest answer of a token service, in bytes.
const TOKEN_MAX: u64 = 256 << 10;
/// The name by which token services know their clients.
const CLIENT_ID: &str = "husk";

/// A token service's answer.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl TokenAnswer {
    fn token(self) -> Option<String> {
        self.token.or(self.access_token).filter(|token| !token.is_empty())
    }
}

impl Endpoint {
    /// A token that meets the challenge `bearer`, to pull from `repository`. `what` is for messages.
    pub(super) async fn token(&self, bearer: &Challenge, what: &str, repository: &str) -> Result<String> {
        if let Some(Credentials::RegistryToken(token)) = &self.credentials {
            return Ok(token.clone());
        }
        let realm = bearer.param("realm").unwrap_or_default();
        let shown = digest::clip(realm);
        let url = Url::parse(realm).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.ok_or_else(|| {
            self.refused(what, &format!("{} names the token service {shown:?}, which is no URL", self.name()))
        })?;
        let ask = self.ask_for_token(url, bearer, repository, what)?;
        let mut attempt = 0;
        loop {
            let transient = match self.http.send(&ask, &self.base, self.stall).await {
                Err(NoAnswer::Ever(reason)) => {
                    return Err(self.unavailable(format!("the token service {shown:?}: {reason}")));
                }
                Err(NoAnswer::ForNow(reason)) => reason.into(),
                Ok(mut response) if response.status() == StatusCode::OK => {
                    let body = read_body(&mut response, TOKEN_MAX, self.stall).await.ok().flatten();
                    let answer = serde_json::from_slice::<TokenAnswer>(&body.unwrap_or_default());
                    return answer.ok().and_then(TokenAnswer::token).ok_or_else(|| {
                        self.refused(what, &format!("the token service {shown:?} gave no token"))
                    });
                }
                Ok(mut response) => {
                    let status = response.status();
                    match self.refusal(&mut response, status, what).await {
                        Ok(transient) => transient,
                        Err(_) => {
                            let reason = format!("the token service {shown:?} answered {status}");
                            return Err(self.refused(what, &reason));
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

    fn ask_for_token(&self, mut url: Url, bearer: &Challenge, repository: &str, what: &str) -> Result<Ask> {
        let usual = format!("repository:{repository}:pull");
        let scope = bearer.param("scope").unwrap_or(&usual);
        let service = bearer.param("service");
        let (headers, mut secrets) = (HeaderMap::new(), HeaderMap::new());
        let credentials = self.credentials.as_ref().filter(|_| may_see_credentials(&url, &self.base));
        if let Some(Credentials::IdentityToken(token)) = credentials {
            let mut form = vec![("grant_type", "refresh_token".to_owned()), ("client_id", CLIENT_ID.into())];
            form.extend(service.map(|service| ("service", service.to_owned())));
            form.extend([("scope", scope.to_owned()), ("refresh_token", token.clone())]);
            return Ok(Ask { url, headers, secrets, form: Some(form) });
        }
        if let Some(Credentials::Password { username, password }) = credentials {
            let value = basic(username, password)
                .ok_or_else(|| self.refused(what, "the credentials fit no header"))?;
            secrets.insert(reqwest::header::AUTHORIZATION, value);
        }
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", scope);
        }
        Ok(Ask { url, headers, secrets, form: None })
    }

    /// An error for `what`, with what is known of the credentials.
    pub(super) fn refused(&self, what: &str, reason: &str) -> ImageError {
        let reason = match &self.no_credentials {
            Some(why) => format!("{reason}; no credentials were found: {why}"),
            None => reason.to_owned(),
        };
        ImageError::Unauthorized { what: what.to_owned(), reason }
    }
}
