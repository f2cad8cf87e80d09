//! Commands for who looks at a node's pods: `ps`, `inspect`, `logs`, `console`.

mod console;
mod daemon;
mod find;
mod inspect;
mod list;
mod logs;
mod ring;
mod told;

use std::time::Duration;

pub use console::Console;
pub use inspect::Inspect;
pub use list::List;
pub use logs::Logs;

/// Digits of an id that are shown.
const SHOWN: usize = 12;

/// How often what is followed is looked at.
const POLL: Duration = Duration::from_millis(200);

/// An id for a person.
fn short(id: &str) -> &str {
    id.get(..SHOWN).unwrap_or(id)
}
