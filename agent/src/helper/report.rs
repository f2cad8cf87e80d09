//! What a helper tells the agent, over a pipe whose end says that the new process has begun its own program:
//! one line each of `pid N`, `missing TEXT`, `denied TEXT`, `error TEXT`.

use std::os::fd::OwnedFd;

use crate::error::Error;

/// The longest line, in bytes: what one write puts into a pipe whole (`PIPE_BUF`).
const MAX_LINE: usize = 4096;

/// The most bytes the agent reads of one helper.
pub const MAX_REPORT: usize = 64 << 10;

/// The helper's side.
#[derive(Debug)]
pub struct Reporter(OwnedFd);

impl Reporter {
    /// Writes to `pipe`.
    pub fn new(pipe: OwnedFd) -> Self {
        Self(pipe)
    }

    /// The new process's pid.
    pub fn pid(&self, pid: i32) {
        self.line("pid", &pid.to_string());
    }

    /// The command does not exist.
    pub fn missing(&self, text: &str) {
        self.line("missing", text);
    }

    /// The command cannot be executed.
    pub fn denied(&self, text: &str) {
        self.line("denied", text);
    }

    /// Something else failed.
    pub fn error(&self, text: &str) {
        self.line("error", text);
    }

    fn line(&self, kind: &str, text: &str) {
        let mut line = format!("{kind} {}", text.replace(['\n', '\0'], " "));
        let mut end = line.len().min(MAX_LINE - 1);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('\n');
        // The agent is gone or no longer listens: there is nobody else to tell.
        let _ = nix::unistd::write(&self.0, line.as_bytes());
    }
}

/// What the agent makes of a helper's lines.
#[derive(Debug, Default)]
pub struct Report {
    /// The new process's pid, when it came so far.
    pub pid: Option<i32>,
    /// Why it did not become what it should.
    pub failure: Option<Error>,
}

impl Report {
    /// Parses the lines; of several failures the first that says most about the command counts.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut report = Self::default();
        for line in String::from_utf8_lossy(bytes).lines() {
            let (kind, text) = line.split_once(' ').unwrap_or((line, ""));
            let text = text.to_owned();
            match kind {
                "pid" => report.pid = text.parse().ok().filter(|pid| *pid > 0),
                "missing" => report.failure = Some(Error::NotFound(text)),
                "denied" => report.failure = Some(Error::State(text)),
                _ if report.failure.is_none() => report.failure = Some(Error::Internal(text)),
                _ => {}
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn through_a_pipe(tell: impl FnOnce(&Reporter)) -> Report {
        let (mut read, write) = std::io::pipe().unwrap();
        let reporter = Reporter::new(write.into());
        tell(&reporter);
        drop(reporter);
        let mut bytes = Vec::new();
        read.read_to_end(&mut bytes).unwrap();
        Report::parse(&bytes)
    }

    #[test]
    fn lines_arrive() {
        let report = through_a_pipe(|r| r.pid(42));
        assert!(report.failure.is_none());
        assert_eq!(report.pid, Some(42));
        let report = through_a_pipe(|r| {
            r.pid(42);
            r.missing("no\nsuch");
            r.error("later");
        });
        assert!(matches!(report.failure, Some(Error::NotFound(text)) if text == "no such"));
    }

    #[test]
    fn long_and_odd_lines_are_bounded() {
        let report = through_a_pipe(|r| r.error(&"ä".repeat(5000)));
        assert!(matches!(report.failure, Some(Error::Internal(text)) if text.len() < MAX_LINE));
        assert_eq!(Report::parse(b"pid -5\n").pid, None);
        assert!(Report::parse(b"").failure.is_none());
    }
}
