//! Container logs in the CRI's format: `<RFC 3339 time> <stdout|stderr> <P|F> <line>`.

use std::io::Write;

use husk_proto::agent::OutputStream;

/// A line longer than this, in bytes, is written in parts marked `P`; the last is marked `F`.
pub const MAX_LINE: usize = 16 << 10;

/// Turns output as it comes into log lines.
#[derive(Debug, Default)]
pub struct LogEncoder {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl LogEncoder {
    /// One that goes on with what [`Self::unfinished`] gave.
    pub fn with_unfinished(stdout: Vec<u8>, stderr: Vec<u8>) -> Self {
        Self { stdout, stderr }
    }

    /// The unfinished lines of standard output and standard error, each of at most [`MAX_LINE`] bytes.
    pub fn unfinished(&self) -> (&[u8], &[u8]) {
        (&self.stdout, &self.stderr)
    }

    /// Appends what can be written now to `out`; an unfinished line waits.
    pub fn push(&mut self, stream: OutputStream, data: &[u8], time: &str, out: &mut Vec<u8>) {
        let (name, pending) = self.stream(stream);
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let (line, complete) = match piece.split_last() {
                Some((b'\n', line)) => (line, true),
                _ => (piece, false),
            };
            let mut rest = line;
            while pending.len() + rest.len() > MAX_LINE {
                let (part, tail) = rest.split_at(MAX_LINE - pending.len());
                pending.extend_from_slice(part);
                write_line(out, time, name, b'P', pending);
                pending.clear();
                rest = tail;
            }
            pending.extend_from_slice(rest);
            if complete {
                write_line(out, time, name, b'F', pending);
                pending.clear();
            }
        }
    }

    /// The end of the output: unfinished lines are written as they are.
    pub fn finish(&mut self, time: &str, out: &mut Vec<u8>) {
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let (name, pending) = self.stream(stream);
            if !pending.is_empty() {
                write_line(out, time, name, b'F', pending);
                pending.clear();
            }
        }
    }

    fn stream(&mut self, stream: OutputStream) -> (&'static str, &mut Vec<u8>) {
        match stream {
            OutputStream::Stdout => ("stdout", &mut self.stdout),
            OutputStream::Stderr => ("stderr", &mut self.stderr),
        }
    }
}

/// One line of a log.
#[derive(Debug, PartialEq, Eq)]
pub struct LogRecord<'a> {
    /// Of standard error, not standard output.
    pub stderr: bool,
    /// Whether the line goes on in its stream's next record.
    pub partial: bool,
    /// What the container has written, with its line end.
    pub text: &'a [u8],
}

impl LogRecord<'_> {
    /// Reads a line, with or without its end; `None` when it is of another format.
    pub fn parse(line: &[u8]) -> Option<LogRecord<'_>> {
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        fields.next().filter(|time| !time.is_empty())?;
        let stderr = match fields.next()? {
            b"stdout" => false,
            b"stderr" => true,
            _ => return None,
        };
        let partial = match fields.next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        let text = fields.next()?;
        let text = if partial { text.strip_suffix(b"\n").unwrap_or(text) } else { text };
        Some(LogRecord { stderr, partial, text })
    }
}

fn write_line(out: &mut Vec<u8>, time: &str, name: &str, tag: u8, line: &[u8]) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{time} {name} {} ", tag as char);
    out.extend_from_slice(line);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(pieces: &[(OutputStream, &[u8])]) -> String {
        let mut encoder = LogEncoder::default();
        let mut out = Vec::new();
        for (stream, data) in pieces {
            encoder.push(*stream, data, "T", &mut out);
        }
        encoder.finish("T", &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_joined_over_reads_and_streams_do_not_mix() {
        let text = encode(&[
            (OutputStream::Stdout, b"he"),
            (OutputStream::Stderr, b"oops\n"),
            (OutputStream::Stdout, b"llo\n\nlast"),
        ]);
        assert_eq!(text, "T stderr F oops\nT stdout F hello\nT stdout F \nT stdout F last\n");
    }

    #[test]
    fn long_lines_are_parted_and_whole() {
        let long = vec![b'x'; MAX_LINE * 2 + 5];
        let text = encode(&[(OutputStream::Stdout, &long), (OutputStream::Stdout, b"\n")]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("T stdout P x") && lines[1].starts_with("T stdout P x"));
        assert_eq!(lines[2], "T stdout F xxxxx");
        let total: usize = lines.iter().map(|line| line.len() - "T stdout P ".len()).sum();
        assert_eq!(total, long.len());
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_not_parted() {
        let line = vec![b'x'; MAX_LINE];
        assert_eq!(
            encode(&[(OutputStream::Stdout, &line), (OutputStream::Stdout, b"\n")]).lines().count(),
            1
        );
    }

    #[test]
    fn what_is_written_can_be_read() {
        let long = vec![b'x'; MAX_LINE + 1];
        let text = encode(&[(OutputStream::Stdout, &long), (OutputStream::Stderr, b"a  b\n")]);
        let records: Vec<_> =
            text.split_inclusive('\n').map(|line| LogRecord::parse(line.as_bytes())).collect();
        let expected = [
            LogRecord { stderr: false, partial: true, text: &long[..MAX_LINE] },
            LogRecord { stderr: true, partial: false, text: b"a  b\n" },
            LogRecord { stderr: false, partial: false, text: b"x\n" },
        ];
        assert_eq!(records, expected.map(Some));
        for odd in ["", "T", "T stdout", "T stdout F", "T stdin F x\n", "T stdout X x\n", " stdout F x\n"] {
            assert_eq!(LogRecord::parse(odd.as_bytes()), None, "{odd}");
        }
    }
}
