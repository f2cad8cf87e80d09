//! Pulling and importing.

use std::path::Path;

use super::{Image, ImageStore};
use crate::config::Credentials;
use crate::error::{ImageError, Result};
use crate::progress::Progress;
use crate::reference::Reference;

impl ImageStore {
    /// Fetches `reference` from its registry.
    pub async fn pull(
        &self,
        reference: &str,
        _credentials: Option<Credentials>,
        _progress: &dyn Progress,
    ) -> Result<Image> {
        let reference = Reference::parse(reference)?;
        Err(ImageError::Unsupported(format!("{reference}: pulling comes with the registry client")))
    }

    /// Reads an image from an OCI layout directory.
    pub async fn import_layout(&self, layout: &Path, _tag: Option<&str>) -> Result<Image> {
        Err(ImageError::Unsupported(format!("{}: importing comes with the worker", layout.display())))
    }
}
