//! Log lines: one for each event, as text for people or as JSON for programs.
//!
//! A line has the fields of its event and of the spans around it on one level, an inner one's before an outer one's: who
//! looks for a pod's lines looks at `sandbox` and nowhere else.

use std::fmt::{Debug, Write as _};
use std::io::Write as _;

use clap::ValueEnum;
use serde::Serializer as _;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// What the log's lines look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Time, level, message, and fields as KEY=VALUE
    Text,
    /// An object of JSON: timestamp, level, message and all fields
    Json,
}

/// Writes the lines.
pub(super) struct Lines {
    format: Format,
    colours: bool,
    write: Box<dyn Fn(&str) + Send + Sync>,
}

impl Lines {
    /// To standard error.
    pub(super) fn new(format: Format, colours: bool) -> Lines {
        // In one piece, and to nobody if nobody takes it.
        let write = |line: &str| drop(std::io::stderr().lock().write_all(line.as_bytes()));
        Lines { format, colours, write: Box::new(write) }
    }
}

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            let mut later = Fields::default();
            values.record(&mut later);
            later.add(fields);
            *fields = later;
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let level = *event.metadata().level();
        let mut fields = Fields::default();
        fields.put("timestamp", format!("{:.6}", jiff::Timestamp::now()).into());
        fields.put("level", level.as_str().into());
        event.record(&mut fields);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                fields.add(outer);
            }
        }
        (self.write)(&match self.format {
            Format::Text => fields.text(level, self.colours),
            Format::Json => fields.json(),
        });
    }
}

/// Fields in the order in which they came; of two of one name the first.
#[derive(Clone, Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn put(&mut self, name: &'static str, value: Value) {
        // What traces alone want, and where a line of the `log` crate is from.
        let hidden = name.starts_with("otel.") || name.starts_with("log.");
        if !hidden && self.get(name).is_none() {
            self.0.push((name, value));
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    fn add(&mut self, others: &Fields) {
        others.0.iter().for_each(|(name, value)| self.put(name, value.clone()));
    }

    fn json(&self) -> String {
        let mut line = Vec::new();
        // Writing strings and numbers into memory does not fail.
        let _ = (&mut serde_json::Serializer::new(&mut line)).collect_map(self.0.iter().map(|(k, v)| (k, v)));
        line.push(b'\n');
        String::from_utf8(line).unwrap_or_default()
    }

    fn text(&self, level: Level, colours: bool) -> String {
        let (dim, colour, plain) = match (colours, level) {
            (false, _) => ("", "", ""),
            (true, Level::ERROR) => ("\x1b[2m", "\x1b[31m", "\x1b[0m"),
            (true, Level::WARN) => ("\x1b[2m", "\x1b[33m", "\x1b[0m"),
            (true, Level::INFO) => ("\x1b[2m", "\x1b[32m", "\x1b[0m"),
            (true, Level::DEBUG) => ("\x1b[2m", "\x1b[34m", "\x1b[0m"),
            (true, Level::TRACE) => ("\x1b[2m", "\x1b[35m", "\x1b[0m"),
        };
        let shown = |name: &str| self.get(name).and_then(Value::as_str).unwrap_or_default();
        let mut line = format!("{dim}{}{plain} {colour}{:>5}{plain}", shown("timestamp"), level.as_str());
        if self.get("message").is_some() {
            let _ = write!(line, " {}", one_line(shown("message")));
        }
        for (name, value) in &self.0 {
            if matches!(*name, "timestamp" | "level" | "message") {
                continue;
            }
            let _ = match value {
                Value::String(text) if !is_word(text) => write!(line, " {name}={text:?}"),
                Value::String(text) => write!(line, " {name}={text}"),
                value => write!(line, " {name}={value}"),
            };
        }
        line.push('\n');
        line
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field.name(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field.name(), value.into());
    }
}

/// Whether a value needs no quotes.
fn is_word(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '=' | '\\');
    !text.is_empty() && !text.contains(odd)
}

/// A message that begins no other line and gives a terminal no commands, whoever wrote what it quotes.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{error_span, field, info, info_span, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::node::lock;

    /// The lines of what `work` does.
    fn lines(format: Format, work: impl FnOnce()) -> Vec<String> {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let lines = kept.clone();
        let write = Box::new(move |line: &str| lock(&lines).push(line.to_owned()));
        let layer = Lines { format, colours: false, write };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        lock(&kept).clone()
    }

    fn both_kinds() {
        let call = error_span!("call", method = "Run", sandbox = field::Empty, otel.name = "x");
        let _entered = call.enter();
        info!(count = 3, ready = true, "begun");
        call.record("sandbox", "first");
        call.record("sandbox", "abc");
        let _inner = info_span!("step", path = "/a b", method = "Inner").entered();
        warn!(sandbox = "own", "a\n\x1b[31mb\"{}\"", 7);
    }

    #[test]
    fn json_has_all_fields_on_one_level() {
        let lines = lines(Format::Json, both_kinds);
        let parsed: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().all(|line| line.matches('\n').count() == 1), "{lines:?}");
        let mut first = parsed[0].clone();
        let time = first["timestamp"].take();
        assert!(time.as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{time}");
        let wanted = serde_json::json!({"timestamp": null, "level": "INFO", "message": "begun", "count": 3,
            "ready": true, "method": "Run"});
        assert_eq!(first, wanted);
        assert_eq!(parsed[1]["message"], "a\n\x1b[31mb\"7\"");
        let of = |key: &str| parsed[1][key].as_str().unwrap();
        assert_eq!((of("sandbox"), of("path"), of("method")), ("own", "/a b", "Inner"));
    }

    #[test]
    fn text_is_one_line_without_commands_for_a_terminal() {
        let lines = lines(Format::Text, both_kinds);
        assert!(lines[0].ends_with("Z  INFO begun count=3 ready=true method=Run\n"), "{:?}", lines[0]);
        let wanted = "Z  WARN a\\n\\u{1b}[31mb\"7\" sandbox=own path=\"/a b\" method=Inner\n";
        assert!(lines[1].ends_with(wanted), "{:?}", lines[1]);
    }

    #[test]
    fn what_is_recorded_later_counts() {
        let lines = lines(Format::Text, || {
            let span = error_span!("call", sandbox = field::Empty);
            span.record("sandbox", "a");
            span.record("sandbox", "b");
            span.in_scope(|| info!("x"));
        });
        assert!(lines[0].ends_with(" x sandbox=b\n"), "{lines:?}");
    }
}
