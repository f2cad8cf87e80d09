//! `husk pull`

use std::process::ExitCode;

use super::{Whose, bars};
use crate::cli::node;
use crate::config::Config;
use crate::error::Result;

/// Arguments of `husk pull`.
#[derive(Debug, clap::Args)]
pub struct Pull {
    /// References of images; short forms are Docker's
    #[arg(required = true, value_name = "REFERENCE")]
    references: Vec<String>,
    #[command(flatten)]
    whose: Whose,
}

impl Pull {
    /// Pulls them one after another, and prints their ids.
    pub async fn execute(self, mut config: Config) -> Result<ExitCode> {
        node::use_own_credentials(&mut config);
        let images = self.whose.open(&mut config)?.images;
        for reference in &self.references {
            let progress = bars::progress(reference);
            let pulled = images.pull(reference, None, &*progress).await;
            drop(progress);
            println!("{}", pulled?.id);
        }
        Ok(ExitCode::SUCCESS)
    }
}
