//! Volumes of images: the file system that a root could be made of, as it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use husk_proto::agent::{ImageVolume, RootFs};

use crate::container::images::{Images, Source};
use crate::error::{Context, Error, Result};
use crate::inroot::Root;

/// Mounts the image unless it is. What is answered is to be released, and where it is mounted.
pub async fn acquire(images: &Images, volume: &ImageVolume) -> Result<(Source, PathBuf)> {
    let rootfs = RootFs { image_serial: volume.serial.clone(), ..RootFs::default() };
    let source = Source::of(&rootfs)?;
    let place = images.acquire(&source, &rootfs).await?;
    Ok((source, place))
}

/// The volume's place in the mounted image, in which nothing ever changes.
pub fn place(image: &Path, volume: &ImageVolume) -> Result<PathBuf> {
    if volume.sub_path.is_empty() {
        return Ok(image.to_owned());
    }
    let shown =
        || format!("the path {:?} in the image", volume.sub_path.chars().take(256).collect::<String>());
    let root = Root::open(image).context(|| format!("opening {}", image.display()))?;
    root.place(Path::new(&volume.sub_path)).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Error::NotFound(format!("{} is not there", shown()))
        }
        _ => Error::Invalid(format!("{}: {e}", shown())),
    })
}

/// Makes an empty place for a mount of `image`, a directory or a file.
pub fn make_place(image: &Path, place: &Path) -> Result<()> {
    let made = if image.is_dir() {
        fs::create_dir_all(place)
    } else {
        place.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(place, ""))
    };
    made.context(|| format!("making {}", place.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_sub_path_is_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().canonicalize().unwrap().join("image");
        std::fs::create_dir_all(image.join("data")).unwrap();
        symlink("/data", image.join("link")).unwrap();
        symlink("round", image.join("round")).unwrap();
        symlink("../..", image.join("out")).unwrap();
        let of =
            |sub_path: &str| place(&image, &ImageVolume { sub_path: sub_path.into(), ..Default::default() });
        assert_eq!(of("").unwrap(), image);
        assert_eq!(of("link").unwrap(), image.join("data"));
        assert_eq!(of("out").unwrap(), image);
        assert!(matches!(of("absent"), Err(Error::NotFound(_))));
        assert!(matches!(of("round"), Err(Error::Invalid(_))));
    }
}
