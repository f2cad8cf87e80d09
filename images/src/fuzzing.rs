//! Doors for the fuzz targets in `images/fuzz` to parsers that are private, with what must hold of any answer.

use std::io::{self, Write};

use crate::convert::Limits;
use crate::convert::pax::Pax;
use crate::convert::unpack::unpack;
use crate::disk::qcow2::Qcow2;
use crate::manifest::{self, Document};
use crate::reference::{Reference, Version};

/// The records of a PAX extended header.
pub fn pax(bytes: &[u8]) {
    if let Ok(pax) = Pax::parse(bytes) {
        assert!(pax.mtime.is_none_or(|(_, nanos)| nanos < 1_000_000_000));
        let said: usize = pax.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(said <= bytes.len());
    }
}

/// A compressed stream, which must end within `limits`.
pub fn decompress(bytes: &[u8], limits: &Limits) {
    let mut unpacked = Count(0);
    let _ = unpack(bytes, &mut unpacked, limits);
    assert!(unpacked.0 <= limits.layer_bytes);
}

/// Counts what is written.
struct Count(u64);

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A qcow2 image: its clusters come in the disk's order, within it and within the budget.
pub fn qcow2(bytes: &[u8], limits: &Limits) {
    let Ok(mut image) = Qcow2::open(bytes, limits) else { return };
    let size = image.header().size;
    assert!(size <= limits.disk_bytes);
    let (mut end, mut all) = (0, 0);
    let read = image.each_cluster(|offset, cluster| {
        assert!(end <= offset && !cluster.is_empty(), "{offset} after {end}");
        end = offset + cluster.len() as u64;
        all += cluster.len() as u64;
        assert!(end <= size);
        Ok(())
    });
    assert!(all <= limits.layer_bytes);
    if let Err(error) = read {
        assert!(error.to_string().len() < 8192);
    }
}

/// A manifest or index.
pub fn manifest(bytes: &[u8]) {
    match manifest::parse(bytes) {
        Ok(Document::Index(entries)) => {
            if let Err(error) = manifest::choose(&entries, "x") {
                assert!(error.to_string().len() < 8192);
            }
        }
        Ok(Document::Image(image)) => assert!(crate::digest::hex(image.config().digest().as_ref()).is_ok()),
        Err(error) => assert!(error.to_string().len() < 8192),
    }
}

/// An image's configuration, beside a manifest without layers.
pub fn config(bytes: &[u8]) {
    const MANIFEST: &[u8] = br#"{"schemaVersion":2,"layers":[],"config":{"size":1,
        "mediaType":"application/vnd.oci.image.config.v1+json",
        "digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}}"#;
    let (Ok(config), Ok(Document::Image(manifest))) =
        (manifest::parse_config(bytes), manifest::parse(MANIFEST))
    else {
        return;
    };
    if let Ok(diff_ids) = manifest::check_config(&config, &manifest, "x") {
        assert!(diff_ids.is_empty());
    }
}

/// A reference: its complete form means the same, and can be no more than a name in a URL's path.
pub fn reference(text: &str) {
    let Ok(reference) = Reference::parse(text) else { return };
    let whole = reference.to_string();
    assert_eq!(Reference::parse(&whole).expect("the complete form parses"), reference);
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:/@[]".contains(&byte);
    assert!(whole.bytes().all(harmless), "{whole:?}");
    assert!(reference.repository.split('/').all(|part| !matches!(part, "" | "." | "..")), "{whole:?}");
    if let Version::Tag(tag) = &reference.version {
        assert!(!tag.starts_with('.'), "{whole:?}");
    }
}
