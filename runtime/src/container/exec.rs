//! ExecSync.

use std::sync::Arc;
use std::time::Duration;

use husk_proto::agent::OutputStream;

use super::exec_process::{ExecOptions, ExecProcess, lost};
use crate::error::{Error, Result};
use crate::node::Node;

/// The most output, in bytes a stream, that one ExecSync keeps; the rest is dropped, as containerd does.
const OUTPUT_LIMIT: usize = 16 << 20;

/// What came of it.
#[derive(Debug, Default)]
pub struct ExecOutcome {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// 0 to 255.
    pub exit_code: i32,
}

impl Node {
    /// Runs a command in a running container to its end. `timeout` in seconds, 0 or less: none.
    pub async fn exec_sync(
        self: &Arc<Self>,
        id: &str,
        args: Vec<String>,
        timeout: i64,
    ) -> Result<ExecOutcome> {
        let options = ExecOptions { args, ..Default::default() };
        let mut process = ExecProcess::start(self, id, options).await?;
        let collected = match u64::try_from(timeout).ok().filter(|seconds| *seconds > 0) {
            None => collect(&mut process).await,
            Some(seconds) => tokio::time::timeout(Duration::from_secs(seconds), collect(&mut process))
                .await
                .unwrap_or_else(|_| {
                    let text = format!("the command did not end within {seconds} s and was killed");
                    Err(Error::Deadline(text))
                }),
        };
        if collected.is_err() {
            process.kill().await;
        }
        process.forget().await;
        collected
    }
}

async fn collect(process: &mut ExecProcess) -> Result<ExecOutcome> {
    let mut output = process.output().await?;
    let mut outcome = ExecOutcome::default();
    while let Some(chunk) = output.next().await.map_err(lost)? {
        let stream = match chunk.stream() {
            OutputStream::Stdout => &mut outcome.stdout,
            OutputStream::Stderr => &mut outcome.stderr,
        };
        let room = OUTPUT_LIMIT.saturating_sub(stream.len()).min(chunk.data.len());
        stream.extend_from_slice(&chunk.data[..room]);
        output.acknowledge(chunk.offset.saturating_add(chunk.data.len() as u64)).await;
    }
    outcome.exit_code = process.wait().await?;
    Ok(outcome)
}
