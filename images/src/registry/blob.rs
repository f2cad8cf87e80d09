//! A blob's bytes, whatever happens to the connection.

use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};

use super::endpoint::{Endpoint, pause};
use super::pace::Pace;
use super::{Failures, Repository};
use crate::error::{ImageError, Result};

/// Progress after which earlier failures are forgiven, in bytes.
const FORGIVING: u64 = 1 << 20;

/// A blob being read.
pub(crate) struct Blob<'a> {
    repository: &'a Repository,
    digest: String,
    size: u64,
    /// Endpoints before this one are given up.
    first: usize,
    /// The last of the endpoints that bytes came from.
    last: usize,
    /// Bytes handed out.
    done: u64,
    open: Option<Open<'a>>,
    failures: u32,
    /// `done` at the last failure.
    failed_at: u64,
}

struct Open<'a> {
    endpoint: &'a Endpoint,
    /// Its number.
    number: usize,
    response: Response,
    pace: Pace,
    /// Bytes that were handed out already and come again: the endpoint knows no ranges.
    again: u64,
}

impl<'a> Blob<'a> {
    pub(super) fn new(repository: &'a Repository, digest: &str, size: u64, first: usize) -> Self {
        let digest = digest.to_owned();
        Self { repository, digest, size, first, last: first, done: 0, open: None, failures: 0, failed_at: 0 }
    }

    /// The endpoint to begin with if what came is of no use.
    pub(crate) fn next_endpoint(&self) -> Option<usize> {
        Some(self.last + 1).filter(|next| *next < self.repository.endpoints.len())
    }

    /// The next bytes, or none once `size` bytes have come.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while self.done < self.size {
            let mut open = match self.open.take() {
                Some(open) => open,
                None => self.open().await?,
            };
            let reason = match open.pace.next(&mut open.response).await {
                Ok(Some(mut chunk)) => {
                    let again = usize::try_from(open.again).unwrap_or(usize::MAX).min(chunk.len());
                    open.again -= again as u64;
                    self.last = self.last.max(open.number);
                    let chunk = chunk.split_off(again);
                    self.open = Some(open);
                    if chunk.len() as u64 > self.size - self.done {
                        return Err(ImageError::Corrupt(format!(
                            "the blob {} is longer than its {} bytes",
                            self.digest, self.size
                        )));
                    }
                    self.done += chunk.len() as u64;
                    if chunk.is_empty() {
                        continue;
                    }
                    return Ok(Some(chunk));
                }
                Ok(None) => "the answer ended".to_owned(),
                Err(reason) => reason,
            };
            if self.done - self.failed_at > FORGIVING {
                self.failures = 0;
            }
            self.failed_at = self.done;
            if self.failures >= open.endpoint.retries {
                let reason = format!("{}: {reason} after {} of {} bytes", self.digest, self.done, self.size);
                let error = open.endpoint.unavailable(reason);
                if open.number + 1 == self.repository.endpoints.len() {
                    return Err(error);
                }
                tracing::warn!(mirror = open.endpoint.name(), "a mirror fails: {error}");
                (self.first, self.failures) = (open.number + 1, 0);
                continue;
            }
            tracing::debug!(
                registry = open.endpoint.name(),
                "{}: {reason}; resuming at {}",
                self.digest,
                self.done
            );
            pause(self.failures, None).await;
            self.failures += 1;
        }
        Ok(None)
    }

    /// An answer that begins at or before `done`.
    async fn open(&self) -> Result<Open<'a>> {
        let repository = &self.repository.reference.repository;
        let what = self.repository.reference.at(&self.digest).to_string();
        let path = format!("{repository}/blobs/{}", self.digest);
        let mut failures = Failures::default();
        for (number, endpoint) in self.repository.endpoints.iter().enumerate().skip(self.first) {
            if !endpoint.pull {
                continue;
            }
            match endpoint.get(&path, None, self.done, &what, repository).await {
                Ok(response) => match self.offset(&response) {
                    Some(offset) => {
                        let (pace, again) = (endpoint.pace(), self.done - offset);
                        return Ok(Open { endpoint, number, response, pace, again });
                    }
                    None => failures
                        .add(endpoint, endpoint.unavailable(format!("{what}: not the range asked for"))),
                },
                Err(error) => failures.add(endpoint, error),
            }
        }
        Err(failures.into_error(&what))
    }

    /// Where the body of `response` begins, if that is of use.
    fn offset(&self, response: &Response) -> Option<u64> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Some(0);
        }
        let range = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
        let start: u64 = range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()?;
        (start <= self.done).then_some(start)
    }
}
