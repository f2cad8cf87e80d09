//! Signs of life, and waiting.

use std::os::fd::BorrowedFd;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Prints one line with the time since the first: no test is silent for long.
pub fn step(what: impl AsRef<str>) {
    println!("{:7.1} s    {}", BEGUN.elapsed().as_secs_f64(), what.as_ref());
}

/// Asks again and again until `probe` has an answer.
///
/// # Panics
/// When it has none within `limit`.
pub async fn wait_for<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begun = Instant::now();
    loop {
        if let Some(answer) = probe().await {
            return answer;
        }
        assert!(begun.elapsed() < limit, "waited {} s in vain for {what}", limit.as_secs());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until there is something to read; false when there is nothing within `limit`.
pub fn readable(fd: BorrowedFd<'_>, limit: Duration) -> bool {
    let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout).is_ok_and(|ready| ready > 0)
}
