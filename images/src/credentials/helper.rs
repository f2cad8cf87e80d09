//! Docker's credential helpers: programs called `docker-credential-NAME` that know secrets.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::timeout;

use super::Credentials;
use crate::digest;

/// Longest answer, in bytes.
const ANSWER_MAX: u64 = 64 << 10;
/// The user of an answer whose secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// What the helper `name` has for `server`, within `patience`.
pub(super) async fn get(name: &str, server: &str, patience: Duration) -> Result<Option<Credentials>, String> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err(format!("{:?} is no name of a credential helper", digest::clip(name)));
    }
    let program = format!("docker-credential-{name}");
    let (output, succeeded) = match timeout(patience, run(&program, server)).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!("the credential helper {program} is not in the PATH"));
        }
        Ok(Err(error)) => return Err(format!("the credential helper {program}: {error}")),
        Err(_) => return Err(format!("the credential helper {program} did not answer within {patience:?}")),
    };
    if output.len() as u64 > ANSWER_MAX {
        return Err(format!("the credential helper {program} answered with over {ANSWER_MAX} bytes"));
    }
    if !succeeded {
        let said = String::from_utf8_lossy(&output);
        let said = said.trim();
        // The words are part of the protocol.
        if said.contains("credentials not found") {
            return Ok(None);
        }
        return Err(format!("the credential helper {program} failed: {:?}", digest::clip(said)));
    }
    let Ok(Answer { username, secret }) = serde_json::from_slice(&output) else {
        return Err(format!("the credential helper {program} gave no valid answer"));
    };
    Ok(match (username.as_str(), secret.as_str()) {
        (_, "") => None,
        (TOKEN_USER, _) => Some(Credentials::IdentityToken(secret)),
        _ => Some(Credentials::password(username, secret)),
    })
}

/// What `program get` answers about `server`, and whether it succeeded. Dropping the future kills it.
async fn run(program: &str, server: &str) -> io::Result<(Vec<u8>, bool)> {
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    match input.write_all(server.as_bytes()).await {
        // One that does not care for the question may have an answer all the same.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
        _ => drop(input),
    }
    let mut answer = Vec::new();
    let mut output = output.take(ANSWER_MAX + 1);
    output.read_to_end(&mut answer).await?;
    // One that has more to say would wait for a reader for ever.
    drop(output);
    Ok((answer, child.wait().await?.success()))
}
