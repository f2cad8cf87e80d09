//! What a process has written and the host has not yet acknowledged: bounded, so that a process which
//! writes faster than the host reads is made to wait.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use husk_proto::agent::{OutputChunk, OutputStream};
use tokio::sync::Notify;

/// The most bytes kept for one process.
pub const MAX_BUFFER: usize = 1 << 20;

/// The most bytes in one chunk.
pub const MAX_CHUNK: usize = 64 << 10;

/// What a chunk costs beside its data, so that many tiny ones are bounded too.
const CHUNK_COST: usize = 128;

/// The output of one process: both streams in the order in which they were read.
pub struct Output {
    inner: Mutex<Inner>,
    /// Something for the reader: data, the end, or a newer reader.
    news: Notify,
    /// Something was acknowledged.
    room: Notify,
}

struct Inner {
    chunks: VecDeque<OutputChunk>,
    /// Of `chunks`, with their overhead.
    cost: usize,
    /// Offset of the next byte to be written.
    end: u64,
    open_streams: usize,
    reader: u64,
}

/// What a reader finds.
#[derive(Debug, PartialEq)]
pub enum Next {
    /// Data, or the end of it.
    Chunk(OutputChunk),
    /// Another reader has taken over.
    Replaced,
}

impl Output {
    /// Of a process with `open_streams` streams.
    pub fn new(open_streams: usize) -> Self {
        let inner = Inner { chunks: VecDeque::new(), cost: 0, end: 0, open_streams, reader: 0 };
        Self { inner: Mutex::new(inner), news: Notify::new(), room: Notify::new() }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until more may be pushed.
    pub async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            if self.with(|inner| inner.cost < MAX_BUFFER) {
                return;
            }
            room.await;
        }
    }

    /// Adds what was read from one stream at `time_nanos`; at most [`MAX_CHUNK`] bytes.
    pub fn push(&self, stream: OutputStream, data: &[u8], time_nanos: i64) {
        self.with(|inner| {
            let chunk = OutputChunk {
                stream: stream.into(),
                offset: inner.end,
                data: data.to_vec(),
                time_nanos,
                eof: false,
            };
            inner.cost += data.len() + CHUNK_COST;
            inner.end += data.len() as u64;
            inner.chunks.push_back(chunk);
        });
        self.news.notify_waiters();
    }

    /// Says that one stream will bring nothing more.
    pub fn close_stream(&self) {
        self.with(|inner| inner.open_streams = inner.open_streams.saturating_sub(1));
        self.news.notify_waiters();
    }

    /// Says that nothing was or will be written, as after a start that failed.
    pub fn close(&self) {
        self.with(|inner| inner.open_streams = 0);
        self.news.notify_waiters();
    }

    /// Starts a new reader, which ends the one before; returns its number, or the end of the output when
    /// `offset` is beyond it.
    pub fn start_reader(&self, offset: u64) -> Result<u64, u64> {
        let reader = self.with(|inner| {
            if offset > inner.end {
                return Err(inner.end);
            }
            inner.reader += 1;
            Ok(inner.reader)
        });
        self.news.notify_waiters();
        reader
    }

    /// Forgets everything below `offset`.
    pub fn acknowledge(&self, offset: u64) {
        self.with(|inner| {
            while let Some(first) = inner.chunks.front_mut() {
                let length = first.data.len();
                let below = usize::try_from(offset.saturating_sub(first.offset)).unwrap_or(usize::MAX);
                if below < length {
                    first.data.drain(..below);
                    first.offset += below as u64;
                    inner.cost -= below;
                    break;
                }
                inner.cost -= length + CHUNK_COST;
                inner.chunks.pop_front();
            }
        });
        self.room.notify_waiters();
    }

    /// Waits for what `reader` has not seen: the first bytes of one stream from `offset` on that are still there, at most
    /// [`MAX_CHUNK`], or the end.
    pub async fn next(&self, reader: u64, offset: u64) -> Next {
        loop {
            let news = self.news.notified();
            if let Some(next) = self.with(|inner| inner.next(reader, offset)) {
                return next;
            }
            news.await;
        }
    }
}

impl Inner {
    fn next(&self, reader: u64, offset: u64) -> Option<Next> {
        if reader != self.reader {
            return Some(Next::Replaced);
        }
        let after = self.chunks.partition_point(|c| c.offset + c.data.len() as u64 <= offset);
        if let Some(chunk) = self.chunks.get(after) {
            let skip = usize::try_from(offset.saturating_sub(chunk.offset)).unwrap_or(0);
            let mut data = chunk.data[skip..].to_vec();
            // A message costs more than its bytes: what has come of the same stream meanwhile goes with it.
            for next in self.chunks.iter().skip(after + 1) {
                if next.stream != chunk.stream || data.len() + next.data.len() > MAX_CHUNK {
                    break;
                }
                data.extend_from_slice(&next.data);
            }
            return Some(Next::Chunk(OutputChunk {
                stream: chunk.stream,
                offset: chunk.offset + skip as u64,
                data,
                time_nanos: chunk.time_nanos,
                eof: false,
            }));
        }
        (self.open_streams == 0)
            .then(|| Next::Chunk(OutputChunk { offset: self.end, eof: true, ..OutputChunk::default() }))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    async fn chunk(output: &Output, reader: u64, offset: u64) -> OutputChunk {
        match output.next(reader, offset).await {
            Next::Chunk(chunk) => chunk,
            Next::Replaced => panic!("replaced"),
        }
    }

    #[test]
    fn what_has_come_of_one_stream_goes_in_one_chunk() {
        block_on(async {
            let output = Output::new(2);
            for (stream, data) in [
                (OutputStream::Stdout, vec![1; 3]),
                (OutputStream::Stdout, vec![2; MAX_CHUNK - 4]),
                (OutputStream::Stdout, vec![3; 3]),
                (OutputStream::Stderr, vec![4; 1]),
                (OutputStream::Stdout, vec![5; 1]),
            ] {
                output.push(stream, &data, 5);
            }
            let reader = output.start_reader(0).unwrap();
            let mut seen = Vec::new();
            let mut offset = 1;
            for _ in 0..4 {
                let chunk = chunk(&output, reader, offset).await;
                assert_eq!(chunk.offset, offset);
                offset += chunk.data.len() as u64;
                seen.push((chunk.stream(), chunk.data.len()));
            }
            let (stdout, stderr) = (OutputStream::Stdout, OutputStream::Stderr);
            assert_eq!(seen, [(stdout, MAX_CHUNK - 2), (stdout, 3), (stderr, 1), (stdout, 1)]);
        });
    }

    #[test]
    fn both_streams_in_order_and_the_end() {
        block_on(async {
            let output = Output::new(2);
            output.push(OutputStream::Stdout, b"abc", 5);
            output.push(OutputStream::Stderr, b"de", 6);
            let reader = output.start_reader(0).unwrap();
            let first = chunk(&output, reader, 0).await;
            assert_eq!((first.offset, first.data.as_slice(), first.time_nanos), (0, &b"abc"[..], 5));
            let second = chunk(&output, reader, 3).await;
            assert_eq!((second.offset, second.stream()), (3, OutputStream::Stderr));
            output.close_stream();
            assert!(timeout(Duration::from_millis(5), output.next(reader, 5)).await.is_err());
            output.close_stream();
            let end = chunk(&output, reader, 5).await;
            assert!(end.eof && end.data.is_empty() && end.offset == 5);
        });
    }

    #[test]
    fn a_reader_goes_on_in_the_middle_and_after_acknowledgement() {
        block_on(async {
            let output = Output::new(1);
            output.push(OutputStream::Stdout, b"abcdef", 0);
            let reader = output.start_reader(2).unwrap();
            assert_eq!(chunk(&output, reader, 2).await.data, b"cdef");
            output.acknowledge(4);
            let rest = chunk(&output, reader, 0).await;
            assert_eq!((rest.offset, rest.data.as_slice()), (4, &b"ef"[..]));
            output.acknowledge(u64::MAX);
            output.push(OutputStream::Stdout, b"g", 0);
            assert_eq!(chunk(&output, reader, 6).await.data, b"g");
            assert_eq!(output.start_reader(8), Err(7));
        });
    }

    #[test]
    fn a_new_reader_ends_the_old_one() {
        block_on(async {
            let output = Output::new(1);
            let old = output.start_reader(0).unwrap();
            let (ended, new) = tokio::join!(output.next(old, 0), async { output.start_reader(0).unwrap() });
            assert_eq!(ended, Next::Replaced);
            output.push(OutputStream::Stdout, b"x", 0);
            assert_eq!(chunk(&output, new, 0).await.data, b"x");
        });
    }

    #[test]
    fn a_full_buffer_waits_for_acknowledgement_and_tiny_chunks_count() {
        block_on(async {
            let output = Output::new(1);
            for _ in 0..MAX_BUFFER / CHUNK_COST {
                output.wait_for_room().await;
                output.push(OutputStream::Stdout, b"x", 0);
                if timeout(Duration::ZERO, output.wait_for_room()).await.is_err() {
                    break;
                }
            }
            assert!(timeout(Duration::from_millis(5), output.wait_for_room()).await.is_err());
            let (waited, ()) = tokio::join!(timeout(Duration::from_secs(1), output.wait_for_room()), async {
                output.acknowledge(100);
            });
            assert!(waited.is_ok());
        });
    }
}
