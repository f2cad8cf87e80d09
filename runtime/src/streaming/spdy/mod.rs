//! SPDY/3.1 as Kubernetes' clients speak it: the server's end of one connection, over which the client opens
//! streams. No kept library enforces its flow control, so it is ours.

mod connection;
mod dictionary;
mod frame;
mod headers;
mod reader;
mod state;
mod stream;
mod writer;

pub use connection::{Connection, connect};
#[cfg(fuzzing)]
pub use dictionary::DICTIONARY;
pub use stream::{Gone, Stream};

#[cfg(test)]
mod tests;
