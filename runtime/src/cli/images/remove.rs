//! `husk rmi`

use std::process::ExitCode;

use super::{Whose, names};
use crate::config::Config;
use crate::error::{Error, Result};

/// Arguments of `husk rmi`.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// References or ids of images; an image goes with all its names
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Also if a container uses it, or it is pinned
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    whose: Whose,
}

impl Remove {
    /// Removes them, and prints their ids.
    pub fn execute(self, mut config: Config) -> Result<ExitCode> {
        let opened = self.whose.open(&mut config)?;
        for name in &self.images {
            let found = opened.images.status(name)?;
            let image = found.ok_or_else(|| Error::NotFound { kind: "image", id: name.clone() })?;
            let reason = if opened.used.contains(&image.id) {
                Some("a container uses it")
            } else {
                image.pinned.then_some("it is pinned (registry.pinned)")
            };
            if let Some(reason) = reason.filter(|_| !self.force) {
                return Err(Error::State(format!("{} is kept: {reason}; --force removes it", names(&image))));
            }
            opened.images.remove(&image.id)?;
            println!("{}", image.id);
        }
        Ok(ExitCode::SUCCESS)
    }
}
