//! A strict reader of the CRI's log format: `<RFC 3339 time> <stdout|stderr> <P|F> <line>`.

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// As written; of the same length in all lines, so that text order is time order.
    pub time: String,
    /// "stdout" or "stderr".
    pub stream: String,
    /// The line goes on in the stream's next one.
    pub partial: bool,
    /// Without the newline.
    pub text: Vec<u8>,
}

/// Reads a log up to its last whole line.
///
/// # Panics
/// When a line is not of the format, or earlier than the one before it.
pub fn parse(log: &[u8]) -> Vec<LogLine> {
    let whole = log.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let lines: Vec<LogLine> = log[..whole].split_inclusive(|byte| *byte == b'\n').map(line).collect();
    for pair in lines.windows(2) {
        assert!(
            pair[0].time <= pair[1].time,
            "the log's time goes back from {} to {}",
            pair[0].time,
            pair[1].time
        );
    }
    lines
}

fn line(raw: &[u8]) -> LogLine {
    let shown = || String::from_utf8_lossy(&raw[..raw.len().min(100)]).into_owned();
    let mut fields = raw[..raw.len() - 1].splitn(4, |byte| *byte == b' ');
    let mut field = || fields.next().unwrap_or_else(|| panic!("not a CRI log line: {:?}", shown()));
    let (time, stream, tag, text) = (field(), field(), field(), field());
    let time = String::from_utf8_lossy(time).into_owned();
    let form: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(form, "0000-00-00T00:00:00.000000000Z", "the log line's time in {:?}", shown());
    assert!(stream == b"stdout" || stream == b"stderr", "the log line's stream in {:?}", shown());
    assert!(tag == b"P" || tag == b"F", "the log line's tag in {:?}", shown());
    LogLine {
        time,
        stream: String::from_utf8_lossy(stream).into_owned(),
        partial: tag == b"P",
        text: text.to_vec(),
    }
}

/// The output as it was written, of one stream or of both.
pub fn joined(lines: &[LogLine], stream: Option<&str>) -> Vec<u8> {
    let mut output = Vec::new();
    for line in lines.iter().filter(|line| stream.is_none_or(|stream| stream == line.stream)) {
        output.extend_from_slice(&line.text);
        if !line.partial {
            output.push(b'\n');
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-01-02T03:04:05.000000006Z";

    #[test]
    fn parts_are_joined_by_stream() {
        let log = format!("{TIME} stdout P ab\n{TIME} stderr F x y\n{TIME} stdout F c\n{TIME} stdout F half");
        let lines = parse(log.as_bytes());
        assert_eq!(joined(&lines, Some("stdout")), b"abc\n");
        assert_eq!(joined(&lines, Some("stderr")), b"x y\n");
    }

    #[test]
    fn what_is_not_a_log_is_seen() {
        for bad in [
            format!("{TIME} stdin F x\n"),
            format!("{TIME} stdout X x\n"),
            format!("{TIME} stdout F\n"),
            "2026-01-02 stdout F x\n".to_owned(),
        ] {
            assert!(std::panic::catch_unwind(|| parse(bad.as_bytes())).is_err(), "{bad:?}");
        }
    }
}
