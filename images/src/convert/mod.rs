//! Conversion of layers and images. What is here parses hostile bytes, and runs in `husk-convert`.

mod data;
pub(crate) mod decode;
pub(crate) mod error;
mod layer;
mod limits;
pub(crate) mod path;
pub(crate) mod pax;
mod sparse;
mod tar;
#[cfg(test)]
pub(crate) mod tests;

pub use error::ConvertError;
pub use layer::{Verdict, convert_layer};
pub use limits::Limits;
