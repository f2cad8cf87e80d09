//! `husk images`

use std::process::ExitCode;

use husk_images::{Image, ImageStore};

use super::{Whose, size};
use crate::cli::table;
use crate::config::Config;
use crate::error::Result;

/// Arguments of `husk images`.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Read every file and name those that are damaged. They are removed with the images that need them, so that
    /// the next pull fetches them again; the exit code is then 1
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    whose: Whose,
}

impl List {
    /// Prints a line for each name.
    pub fn execute(self, mut config: Config) -> Result<ExitCode> {
        let images = self.whose.open(&mut config)?.images;
        if self.verify {
            return verify(&images);
        }
        print!("{}", listing(&images.list()?));
        Ok(ExitCode::SUCCESS)
    }
}

fn verify(images: &ImageStore) -> Result<ExitCode> {
    let found = images.verify()?;
    for damage in &found.damaged {
        println!("{}: {}", damage.file.display(), damage.problem);
    }
    for name in &found.images {
        println!("{name} is removed: pull it again");
    }
    println!(
        "{} files, {}: {} damaged",
        found.checked.inodes,
        size(found.checked.bytes),
        found.damaged.len()
    );
    Ok(if found.damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn listing(images: &[Image]) -> String {
    let mut rows = vec![["NAME", "ID", "SIZE", ""].map(str::to_owned)];
    for image in images {
        let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
        let unnamed = [String::from("-")];
        for name in if names.is_empty() { &unnamed } else { &names[..] } {
            let id = image.id.trim_start_matches("sha256:").chars().take(12).collect();
            let notes = [("disk", image.is_disk), ("pinned", image.pinned)];
            let notes: Vec<_> = notes.iter().filter(|(_, is_so)| *is_so).map(|(note, _)| *note).collect();
            rows.push([name.clone(), id, size(image.size), notes.join(", ")]);
        }
    }
    table::table(&rows, &[2])
}
