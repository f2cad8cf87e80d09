//! The streaming server: exec, attach and port-forward, over SPDY/3.1 and WebSocket, behind URLs that are good for
//! one use. The CRI's calls hand the URLs out; here they are served.

mod attach;
mod exec;
mod feed;
mod handshake;
mod idle;
mod port_forward;
mod port_streams;
mod remote_command;
mod resize;
mod serve;
mod server;
mod spdy;
mod status;
mod streams;
mod tickets;
mod tls;
mod websocket;
mod work;

pub use server::Streaming;
pub use work::Work;
