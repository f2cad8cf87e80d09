//! Exec, attach and port-forward, with the real crictl, over both transports.

mod attach;
mod exec;
mod idle;
mod ports;
mod urls;

pub use attach::{attached_input, attached_output, attached_terminal};
pub use exec::{commands, half_closed_input, killed_client, large_output, many_at_once, terminal};
pub use idle::idle_streams;
pub use ports::{forwarded_ports, refused_port};
pub use urls::{urls, wrong_requests};

/// crictl's names of the transports.
const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];
