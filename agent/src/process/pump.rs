//! Moves what a process writes from its pipe or terminal into its [`Output`].

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use husk_proto::agent::{ExitStatus, OutputStream};
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::output::{MAX_CHUNK, Output};
use crate::clock;
use crate::sys;

/// How long output is still awaited after the process has ended: what it had written itself is in the pipe by
/// then, and a process that it left behind may hold the pipe for ever.
const DRAIN: Duration = Duration::from_millis(100);

/// Reads `source` to its end, or until the process has ended and the pipe has been drained.
pub async fn run(
    source: Arc<AsyncFd<OwnedFd>>,
    stream: OutputStream,
    output: Arc<Output>,
    mut exit: watch::Receiver<Option<ExitStatus>>,
) {
    let mut buffer = vec![0; MAX_CHUNK];
    let mut drain: Option<Drain> = None;
    loop {
        output.wait_for_room().await;
        let read = match &mut drain {
            None => tokio::select! {
                biased;
                read = read(&source, &mut buffer) => read,
                // An error means that the process is forgotten, which it is only after its end.
                _ = exit.wait_for(Option::is_some) => {
                    drain = Some(Drain::begin(&source));
                    continue;
                }
            },
            // Read at once: what was there at the end must not be lost to a timer.
            Some(drain) if drain.left > 0 => match nix::unistd::read(source.get_ref(), &mut buffer) {
                Err(Errno::EAGAIN) => {
                    drain.left = 0;
                    continue;
                }
                read => read.map_err(io::Error::from),
            },
            Some(drain) => match timeout_at(drain.until, read(&source, &mut buffer)).await {
                Ok(read) if Instant::now() < drain.until => read,
                _ => Ok(0),
            },
        };
        match read {
            // EIO is how a terminal says that its last process is gone.
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if let Some(drain) = &mut drain {
                    drain.left = drain.left.saturating_sub(count);
                }
                output.push(stream, &buffer[..count], clock::now_nanos());
            }
        }
    }
    output.close_stream();
}

/// What is still read after the process's end.
struct Drain {
    until: Instant,
    /// Bytes that were in the pipe when the process ended.
    left: usize,
}

impl Drain {
    fn begin(source: &AsyncFd<OwnedFd>) -> Self {
        let left = sys::readable_bytes(source.get_ref().as_fd()).unwrap_or(0);
        Self { until: Instant::now() + DRAIN, left }
    }
}

async fn read(source: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = source.readable().await?;
        match ready.try_io(|fd| nix::unistd::read(fd.get_ref(), buffer).map_err(io::Error::from)) {
            Ok(Err(e)) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}

/// Writes all of `data`.
pub async fn write_all(target: &AsyncFd<OwnedFd>, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let mut ready = target.writable().await?;
        match ready.try_io(|fd| nix::unistd::write(fd.get_ref(), data).map_err(io::Error::from)) {
            Ok(Err(e)) if e.raw_os_error() == Some(Errno::EINTR as i32) => {}
            Ok(Ok(written)) => data = &data[written..],
            Ok(Err(e)) => return Err(e),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;

    use super::super::output::{MAX_BUFFER, Next};
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    async fn read_all(output: &Output) -> Vec<u8> {
        let reader = output.start_reader(0).unwrap();
        let mut all = Vec::new();
        loop {
            match output.next(reader, all.len() as u64).await {
                Next::Chunk(chunk) if chunk.eof => return all,
                Next::Chunk(chunk) => all.extend(chunk.data),
                Next::Replaced => panic!("replaced"),
            }
            output.acknowledge(all.len() as u64);
        }
    }

    #[test]
    fn the_end_comes_though_another_process_holds_the_pipe() {
        block_on(async {
            let (ours, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
            nix::unistd::write(&theirs, b"last words").unwrap();
            let (exit, seen) = watch::channel(None);
            let output = Arc::new(Output::new(1));
            let source = Arc::new(sys::watch(ours).unwrap());
            let pump = tokio::spawn(run(source, OutputStream::Stdout, Arc::clone(&output), seen));
            exit.send_replace(Some(ExitStatus::default()));
            assert_eq!(read_all(&output).await, b"last words");
            pump.await.unwrap();
            drop(theirs);
        });
    }

    #[test]
    fn more_than_the_buffer_arrives_whole_after_the_end() {
        block_on(async {
            let (ours, theirs) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap();
            let (exit, seen) = watch::channel(None);
            let output = Arc::new(Output::new(1));
            let source = Arc::new(sys::watch(ours).unwrap());
            tokio::spawn(run(source, OutputStream::Stdout, Arc::clone(&output), seen));
            let sink = sys::watch(theirs).unwrap();
            let data: Vec<u8> = (0..2 * MAX_BUFFER).map(|i| i as u8).collect();
            let expected = data.clone();
            tokio::spawn(async move {
                write_all(&sink, &data).await.unwrap();
                exit.send_replace(Some(ExitStatus::default()));
                // Held open for ever.
                std::mem::forget(sink);
            });
            // The host comes late.
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert!(read_all(&output).await == expected);
        });
    }
}
