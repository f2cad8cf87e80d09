//! DeleteContainer.

use std::fs;
use std::io;
use std::path::Path;

use super::{Container, Stage, Tools};
use crate::error::{Context, Result};
use crate::paths;

impl Container {
    /// Kills what is left and undoes what was made; can be repeated when a step failed.
    pub async fn delete(&self, tools: &Tools) -> Result<()> {
        let mut stage = self.stage.lock().await;
        if *stage == Stage::Deleted {
            return Ok(());
        }
        // A cgroup is gone only when all of its processes are, and with them their mount namespaces.
        self.cgroup.remove().await?;
        self.root.unmount(&tools.images).await?;
        self.volumes.remove(tools).await?;
        for directory in [&paths::bundle(&self.id), &Path::new(paths::STATE).join(&self.id)] {
            match fs::remove_dir_all(directory) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(e).context(|| format!("removing {}", directory.display()));
                }
                _ => {}
            }
        }
        *stage = Stage::Deleted;
        Ok(())
    }
}
