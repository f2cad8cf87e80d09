//! What a template's first clone shows to those after it.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use husk_vmm::config::RestoreConfig;
use husk_vmm::written::Written;

use super::{HALF_MADE, Templates, files, sync, written};
use crate::error::{Error, Result};
use crate::node::lock;

impl Templates {
    /// Writes down which pages a clone of a template, whose VMM is process `pid`, has written to, unless it is known. To
    /// be asked for when the clone's guest is set up and no tenant has worked in it yet.
    pub fn learn(&self, template: &RestoreConfig, pid: i32) {
        let Some(place) = template.state.parent() else { return };
        let _alone = lock(&self.learning);
        if !written(place).exists()
            && let Err(e) = note_written(place, pid)
        {
            tracing::debug!("further clones of {} have to copy pages one by one: {e}", place.display());
        }
    }
}

fn note_written(place: &Path, pid: i32) -> Result<()> {
    let [_, memory] = files(place);
    let saved = File::open(&memory).map_err(|e| Error::io("open", &memory, e))?;
    let pages =
        Written::of_clone(pid, &saved).map_err(|e| Error::io("look what a clone wrote of", &memory, e))?;
    let path = written(place);
    let new = path.with_extension(HALF_MADE);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&new);
    file.and_then(|file| pages.write(&file)).map_err(|e| Error::io("write", &new, e))?;
    std::fs::rename(&new, &path).map_err(|e| Error::io("rename", &new, e))?;
    sync(place)
}
