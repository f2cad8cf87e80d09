//! `husk import`

use std::path::Path;
use std::process::ExitCode;

use super::{Whose, bars, names};
use crate::config::Config;
use crate::error::Result;

/// Kinds of paths that a prefix may name. The content tells them apart, so that only the tag behind matters.
const PREFIXES: [&str; 3] = ["oci:", "oci-archive:", "docker-archive:"];

/// Arguments of `husk import`.
#[derive(Debug, clap::Args)]
pub struct Import {
    /// Directory of an OCI layout, a tar archive of one or of `docker save`, or the disk of a virtual machine as
    /// qcow2. With "oci:", "oci-archive:" or "docker-archive:" before it, ":TAG" behind it chooses one image;
    /// without, a directory must have a single one, and of an archive all are taken. With "disk:" before it, a
    /// disk, raw or qcow2
    path: String,
    /// What to call the image [default: what its layout calls it]
    #[arg(long, value_name = "REFERENCE")]
    name: Option<String>,
    #[command(flatten)]
    whose: Whose,
}

impl Import {
    /// Imports, and prints ids and names.
    pub async fn execute(self, mut config: Config) -> Result<ExitCode> {
        let images = self.whose.open(&mut config)?.images;
        let name = self.name.as_deref();
        let imported = if let Some(file) = disk(&self.path) {
            vec![images.import_disk(file, name).await?]
        } else {
            let (path, tag) = match PREFIXES.iter().find_map(|prefix| self.path.strip_prefix(prefix)) {
                Some(layout) => parse_layout(layout),
                None => (Path::new(&self.path), None),
            };
            let progress = bars::progress(&self.path);
            let imported = images.import(path, tag, name, &*progress).await;
            drop(progress);
            imported?
        };
        for image in imported {
            println!("{}", image.id);
            if image.repo_tags.is_empty() {
                eprintln!("husk: {} has no name; --name gives it one", image.id);
            } else {
                eprintln!("husk: {}", names(&image));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The disk at the path `text`, if it says so or is plainly one.
fn disk(text: &str) -> Option<&Path> {
    let stated = text.strip_prefix("disk:").map(Path::new);
    stated.or_else(|| Some(Path::new(text)).filter(|path| husk_images::disk::is_qcow2(path)))
}

/// Path and tag in "PATH[:TAG]".
pub fn parse_layout(text: &str) -> (&Path, Option<&str>) {
    // A tag may be a whole reference, whose registry may have a port: the path is what exists.
    let mut splits = text.rmatch_indices(':').map(|(at, _)| (&text[..at], Some(&text[at + 1..])));
    let found = splits.find(|(path, _)| Path::new(path).exists());
    let whole = Path::new(text).exists();
    match found.or_else(|| text.rsplit_once(':').map(|(path, tag)| (path, Some(tag)))) {
        Some((path, Some(tag))) if !whole && !tag.is_empty() => (Path::new(path), Some(tag)),
        _ => (Path::new(text), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_what_follows_the_path() {
        for (text, path, tag) in [
            ("/tmp:test", "/tmp", Some("test")),
            ("/tmp:localhost:5000/x/y:1", "/tmp", Some("localhost:5000/x/y:1")),
            ("/tmp", "/tmp", None),
            ("/no/such:tag", "/no/such", Some("tag")),
            ("/no/such", "/no/such", None),
            ("/tmp:", "/tmp:", None),
        ] {
            assert_eq!(parse_layout(text), (Path::new(path), tag), "{text}");
        }
    }
}
