//! Commands about images: `pull`, `images`, `rmi`, `import`, `gc`.

mod bars;
mod gc;
mod import;
mod list;
mod pull;
mod remove;

use std::collections::BTreeSet;
use std::path::PathBuf;

use husk_images::{ImageError, ImageStore};

use super::node;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::store::Store;

pub use gc::Gc;
pub use import::{Import, parse_layout};
pub use list::List;
pub use pull::Pull;
pub use remove::Remove;

/// Which images a command is about.
#[derive(Debug, clap::Args)]
pub struct Whose {
    /// The images of `husk run` instead of the node's
    #[arg(long, conflicts_with = "root")]
    standalone: bool,
    /// Directory of images and records [default: root of the configuration]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// A store that is this command's alone, and the images in it that containers use.
struct Opened {
    images: ImageStore,
    used: BTreeSet<String>,
}

impl Whose {
    /// Opens the images. A running `husk serve` has its own open, and is then named.
    fn open(self, config: &mut Config) -> Result<Opened> {
        if let Some(root) = self.root {
            config.root = root;
        } else if self.standalone {
            config.root = node::standalone_root(config);
        }
        let images = node::images(config).map_err(|error| match error {
            ImageError::InUse(_) => Error::Unavailable(format!(
                "the images in {} are in use, by `husk serve` most likely. While it runs, crictl pull, crictl \
                 images and crictl rmi work on them through {}. For what those cannot do stop it (its pods go on), \
                 and start it again afterwards",
                config.root.display(),
                config.socket.display()
            )),
            other => other.into(),
        })?;
        // Pods outlive the daemon, and their containers start again from their images.
        let records = config.root.join("husk.redb");
        let used = match records.exists() {
            true => {
                let containers = Store::open(&records)?.containers()?;
                containers.iter().flat_map(|record| record.images()).map(str::to_owned).collect()
            }
            false => BTreeSet::new(),
        };
        Ok(Opened { images, used })
    }
}

/// Bytes for a person.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// What an image is called, for a person.
fn names(image: &husk_images::Image) -> String {
    let names = if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
    if names.is_empty() { image.id.clone() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_short() {
        let shown = [999, 1_000, 12_345_678, 3_210_000_000].map(super::size);
        assert_eq!(shown, ["999 B", "1.0 kB", "12.3 MB", "3.21 GB"]);
    }
}
