//! `husk gc`

use std::process::ExitCode;

use super::{Whose, names, size};
use crate::config::Config;
use crate::error::Result;

/// Arguments of `husk gc`.
#[derive(Debug, clap::Args)]
pub struct Gc {
    /// Remove tagged images too, if no container uses them
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    whose: Whose,
}

impl Gc {
    /// Removes what nobody uses, and says what that was. Pinned images stay.
    pub fn execute(self, mut config: Config) -> Result<ExitCode> {
        let opened = self.whose.open(&mut config)?;
        let freed = opened.images.prune(&opened.used, self.all)?;
        for image in &freed.images {
            println!("removed {}", names(image));
        }
        if freed.leftovers.inodes != 0 {
            let (files, bytes) = (freed.leftovers.inodes, size(freed.leftovers.bytes));
            println!("removed {files} files of pulls and removals that were cut short, {bytes}");
        }
        let bytes = freed.usage.bytes + freed.leftovers.bytes;
        println!("{} images, {} freed", freed.images.len(), size(bytes));
        Ok(ExitCode::SUCCESS)
    }
}
