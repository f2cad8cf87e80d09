//! The streams of an exec or attach over SPDY (`v4.channel.k8s.io`): the client opens one of each type.

use std::sync::Arc;
use std::time::Duration;

use super::spdy::{Connection, Stream};
use super::streams::{Input, Output, Streams, Wanted};

/// How long a client may take to open its streams; kubelet's own patience.
pub const OPEN_LIMIT: Duration = Duration::from_secs(30);

/// The most streams of such a connection; five are of use.
pub const MAX_STREAMS: usize = 16;

/// Accepts the wanted streams; `None` when they do not come in time.
pub async fn gather(connection: &Connection, wanted: Wanted) -> Option<Streams> {
    tokio::time::timeout(OPEN_LIMIT, accept_all(connection, wanted)).await.ok().flatten()
}

async fn accept_all(connection: &Connection, wanted: Wanted) -> Option<Streams> {
    let (mut stdin, mut stdout, mut stderr, mut resize, mut error) = (None, None, None, None, None);
    loop {
        let open = |slot: &Option<Arc<Stream>>, wanted: bool| slot.is_some() || !wanted;
        if open(&stdin, wanted.stdin)
            && open(&stdout, wanted.stdout)
            && open(&stderr, wanted.stderr)
            && open(&resize, wanted.tty)
            && let Some(error) = error
        {
            return Some(Streams {
                stdin: stdin.map(Input::Spdy),
                stdout: stdout.map(Output::Spdy),
                stderr: stderr.map(Output::Spdy),
                resize: resize.map(Input::Spdy),
                error: Output::Spdy(error),
            });
        }
        let stream = connection.accept().await?;
        let (slot, wanted) = match stream.header("streamtype") {
            Some("stdin") => (&mut stdin, wanted.stdin),
            Some("stdout") => (&mut stdout, wanted.stdout),
            Some("stderr") => (&mut stderr, wanted.stderr),
            Some("resize") => (&mut resize, wanted.tty),
            Some("error") => (&mut error, true),
            // Dropped, it is cancelled.
            _ => continue,
        };
        if wanted && slot.is_none() {
            *slot = Some(Arc::new(stream));
        }
    }
}
