//! Registry client, content store and image conversion.
