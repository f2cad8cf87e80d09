//! What tenants have written, on its way to the operator's terminal.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use crate::container::LogRecord;
use crate::error::{Error, Result};

/// Standard output and standard error.
pub struct Streams {
    guarded: [bool; 2],
}

impl Streams {
    /// For what a tenant has written: a terminal is shown its control characters, and does not get them. Through a pipe
    /// and into a file all comes as it is.
    pub fn guarded() -> Streams {
        Streams { guarded: [io::stdout().is_terminal(), io::stderr().is_terminal()] }
    }

    /// For what the operator's own command writes.
    pub fn plain() -> Streams {
        Streams { guarded: [false; 2] }
    }

    /// Writes the bytes to standard error or standard output.
    pub fn write(&self, stderr: bool, bytes: &[u8]) -> io::Result<()> {
        let shown = if self.guarded[usize::from(stderr)] { &guard(bytes)[..] } else { bytes };
        if stderr {
            return io::stderr().write_all(shown);
        }
        let mut stdout = io::stdout().lock();
        stdout.write_all(shown)?;
        stdout.flush()
    }

    /// Writes whole lines of a log in the CRI's format, each to its stream. A line that is of no such format comes
    /// as it is.
    pub fn write_log(&self, lines: &[u8]) -> io::Result<()> {
        let (mut stderr, mut text) = (false, Vec::new());
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let record =
                LogRecord::parse(line).unwrap_or(LogRecord { stderr: false, partial: false, text: line });
            if record.stderr != stderr {
                self.write(stderr, &std::mem::take(&mut text))?;
                stderr = record.stderr;
            }
            text.extend_from_slice(record.text);
        }
        self.write(stderr, &text)
    }
}

/// Prints to standard output.
///
/// # Errors
/// When it cannot be written to; that nobody reads on is none.
pub fn print(text: &str) -> Result<ExitCode> {
    written(io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()))
}

/// What a command that has written ends with. Who reads just the beginning, as `head` does, ends it in peace.
pub fn written(outcome: io::Result<()>) -> Result<ExitCode> {
    match outcome {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::Internal(format!("cannot write the output: {e}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The text in one line that commands no terminal.
pub fn line(text: &str) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    text.trim().chars().map(plain).collect()
}

/// The bytes with all but line ends and tabs of what commands a terminal made visible.
fn guard(bytes: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        let mut letters = chunk.valid().chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                // The line end of a serial line.
                '\r' if letters.peek() == Some(&'\n') => {}
                '\n' | '\t' => shown.push(letter as u8),
                _ if letter.is_control() => shown.extend(letter.escape_default().map(|part| part as u8)),
                _ => shown.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        for byte in chunk.invalid() {
            shown.extend_from_slice(format!("\\x{byte:02x}").as_bytes());
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_gets_no_commands() {
        let hostile = "a\u{1b}[2J\tb\r\nc\rd\u{9b}31m\u{7} é\n".as_bytes();
        let shown = String::from_utf8(guard(hostile)).unwrap();
        assert_eq!(shown, "a\\u{1b}[2J\tb\nc\\rd\\u{9b}31m\\u{7} é\n");
        assert_eq!(guard(b"\xff\x9b\n"), b"\\xff\\x9b\n");
        assert_eq!(line(" two\nlines \u{1b}[0m\n"), "two lines  [0m");
    }

    #[test]
    fn who_reads_no_further_is_no_error() {
        assert!(written(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        assert!(written(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}
