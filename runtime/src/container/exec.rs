//! ExecSync.

use std::sync::Arc;
use std::time::Duration;

use husk_proto::agent::OutputStream;

use super::exec_process::{ExecOptions, ExecProcess, lost};
use super::exec_room::Share;
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
        let collecting = collect(&mut process, self.exec_room.share());
        let collected = match u64::try_from(timeout).ok().filter(|seconds| *seconds > 0) {
            None => collecting.await,
            Some(seconds) => {
                let late = format!("the command did not end within {seconds} s and was killed");
                let limited = tokio::time::timeout(Duration::from_secs(seconds), collecting).await;
                limited.unwrap_or(Err(Error::Deadline(late)))
            }
        };
        if collected.is_err() {
            process.kill().await;
        }
        process.forget().await;
        collected
    }
}

async fn collect(process: &mut ExecProcess, mut room: Share<'_>) -> Result<ExecOutcome> {
    let mut output = process.output().await?;
    let mut outcome = ExecOutcome::default();
    while let Some(chunk) = output.next().await.map_err(lost)? {
        let stream = match chunk.stream() {
            OutputStream::Stdout => &mut outcome.stdout,
            OutputStream::Stderr => &mut outcome.stderr,
        };
        let kept = OUTPUT_LIMIT.saturating_sub(stream.len()).min(chunk.data.len());
        room.take(kept)?;
        stream.extend_from_slice(&chunk.data[..kept]);
        output.acknowledge(chunk.offset.saturating_add(chunk.data.len() as u64)).await;
    }
    outcome.exit_code = process.wait().await?;
    Ok(outcome)
}
