//! The steps of a VM's start, for who looks for the time that it took: one line for each VM at the level "debug".

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use husk_proto::ReadyTimes;
use husk_vmm::control::{Mark, monotonic_micros};
use tokio::io::AsyncReadExt;
use tracing::Level;

use super::Vm;

/// How long a guest may take to say when it did what; it has said so already, unless it never will.
const PATIENCE: Duration = Duration::from_secs(1);

/// A start that is followed.
pub struct Trace {
    begun: u64,
}

impl Trace {
    /// It begins now.
    pub fn begin() -> Trace {
        Trace { begun: monotonic_micros() }
    }

    /// The agent has answered, now: logs how that came. `word` is the guest's, if it has booted.
    pub fn tell(self, sandbox: &str, vm: &Arc<Vm>, word: Option<UnixStream>) {
        if !tracing::enabled!(Level::DEBUG) {
            return;
        }
        let (sandbox, vm, answered) = (sandbox.to_owned(), Arc::clone(vm), monotonic_micros());
        tokio::spawn(async move {
            let times = match word {
                Some(word) => tokio::time::timeout(PATIENCE, read(word)).await.ok().flatten(),
                None => None,
            };
            let marks = vm.statistics().await.map(|statistics| statistics.marks).unwrap_or_default();
            tracing::debug!(sandbox, "the VM's start, ms: {}", text(self.begun, &marks, answered, times));
        });
    }
}

async fn read(word: UnixStream) -> Option<ReadyTimes> {
    word.set_nonblocking(true).ok()?;
    let mut word = tokio::net::UnixStream::from_std(word).ok()?;
    let mut bytes = [0; ReadyTimes::BYTES];
    word.read_exact(&mut bytes).await.ok()?;
    Some(ReadyTimes::from_bytes(bytes))
}

fn text(begun: u64, marks: &[Mark], answered: u64, times: Option<ReadyTimes>) -> String {
    let ms = |micros: u64| micros as f64 / 1000.0;
    let since = |micros: u64| ms(micros.saturating_sub(begun));
    let mut steps: Vec<String> =
        marks.iter().map(|mark| format!("{} {:.1}", mark.step, since(mark.micros))).collect();
    // The guest's clock begins with its kernel.
    if let Some(ReadyTimes { init, listening }) = times {
        steps.push(format!("init {:.1} and listening {:.1} after the kernel", ms(init), ms(listening)));
    }
    steps.push(format!("agent answered {:.1}", since(answered)));
    steps.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_from_the_beginning_on() {
        let mark = |step: &str, micros| Mark { step: step.into(), micros };
        let marks = [mark("started", 1_002_500), mark("confined", 1_004_000)];
        let times = ReadyTimes { init: 700_000, listening: 712_345 };
        assert_eq!(
            text(1_000_000, &marks, 1_800_000, Some(times)),
            "started 2.5, confined 4.0, init 700.0 and listening 712.3 after the kernel, agent answered 800.0"
        );
        assert_eq!(text(5, &[], 1005, None), "agent answered 1.0");
    }

    #[tokio::test]
    async fn a_guest_that_says_little_is_not_believed() {
        let (guest, host) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut &guest, &[1; 5]).unwrap();
        drop(guest);
        assert!(read(host).await.is_none());
    }
}
