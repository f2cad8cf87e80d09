//! Port-forward's streams over SPDY: for each connection a pair, `data` and `error`, which a request id joins.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::spdy::Stream;

/// How long one of a pair waits for the other; kubelet's own patience.
pub const PAIR_LIMIT: Duration = Duration::from_secs(30);

/// A connection to be forwarded.
pub struct Pair {
    /// The pod's port.
    pub port: u16,
    /// Both ways.
    pub data: Arc<Stream>,
    /// What went wrong.
    pub error: Stream,
}

struct Half {
    port: u16,
    data: Option<Arc<Stream>>,
    error: Option<Stream>,
    since: Instant,
}

/// Streams that wait for their other.
#[derive(Default)]
pub struct Pairs(HashMap<String, Half>);

impl Pairs {
    /// Takes a stream in; answers the pair that it completes. A stream that belongs to none is dropped, which
    /// cancels it.
    pub fn add(&mut self, stream: Stream) -> Option<Pair> {
        self.forget_old();
        let port = stream.header("port")?.parse::<u16>().ok().filter(|port| *port != 0)?;
        let is_data = match stream.header("streamtype")? {
            "data" => true,
            "error" => false,
            _ => return None,
        };
        // Clients of old give no request id: they open the error stream and then the data stream.
        let request = match stream.header("requestid") {
            Some(id) => id.to_owned(),
            None => format!("stream {}", if is_data { stream.id().saturating_sub(2) } else { stream.id() }),
        };
        let since = Instant::now();
        let half = self.0.entry(request.clone()).or_insert(Half { port, data: None, error: None, since });
        let taken = if is_data { half.data.is_some() } else { half.error.is_some() };
        if taken || half.port != port {
            return None;
        }
        match is_data {
            true => half.data = Some(Arc::new(stream)),
            false => half.error = Some(stream),
        }
        if half.data.is_none() || half.error.is_none() {
            return None;
        }
        let half = self.0.remove(&request)?;
        Some(Pair { port, data: half.data?, error: half.error? })
    }

    /// Cancels those whose other has not come in time.
    pub fn forget_old(&mut self) {
        self.0.retain(|_, half| half.since.elapsed() < PAIR_LIMIT);
    }
}
