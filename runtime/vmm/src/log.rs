//! One line a fact on stderr. Never fails and never panics: the VM goes on when nobody reads its log.

use std::fmt::Arguments;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

static NAME: OnceLock<String> = OnceLock::new();

/// Names the VM in every later line. Only the first call counts.
pub fn set_name(name: &str) {
    let _ = NAME.set(name.to_owned());
}

/// Writes a line.
pub fn line(text: Arguments<'_>) {
    let name = NAME.get().map_or("-", String::as_str);
    let _ = std::io::stderr().lock().write_all(format!("husk-vmm {name}: {text}\n").as_bytes());
}

/// A budget of lines for what a guest can cause, so that no guest fills the host's log.
#[derive(Debug)]
pub struct Budget(AtomicU32);

impl Budget {
    /// A budget of `lines` lines.
    pub const fn new(lines: u32) -> Self {
        Self(AtomicU32::new(lines))
    }

    /// Writes a line while there is budget; the last one says that it is the last.
    pub fn line(&self, text: Arguments<'_>) {
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(1) => line(format_args!("{text} (more of this kind is not logged)")),
            Ok(_) => line(text),
            Err(_) => {}
        }
    }
}

/// [`log::line`](line) with `format!` arguments.
#[macro_export]
macro_rules! fact {
    ($($arg:tt)*) => { $crate::log::line(format_args!($($arg)*)) };
}
