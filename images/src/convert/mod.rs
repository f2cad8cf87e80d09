//! Conversion of layers and images. What is here parses hostile bytes, and runs in `husk-convert`.

mod data;
pub(crate) mod error;
mod layer;
mod limits;
pub(crate) mod path;
pub(crate) mod pax;
mod sparse;
pub(crate) mod stream;
pub(crate) mod tar;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod unpack;

pub use error::ConvertError;
pub use layer::{Verdict, convert_layer};
pub use limits::Limits;
pub use unpack::unpack;
