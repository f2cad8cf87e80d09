//! Which of an index's images is for this machine.

use std::collections::BTreeSet;

use oci_spec::image::{Arch, Descriptor, Os, Platform};

use crate::digest;
use crate::error::{ImageError, Result};

/// Platforms named in an error.
const SHOWN_MAX: usize = 20;

/// The entry for linux/amd64. An entry that names no platform is taken where it is the only one: what it
/// leads to says for which it is. `reference` is for the error.
pub(crate) fn choose<'a>(entries: &'a [Descriptor], reference: &str) -> Result<&'a Descriptor> {
    let ours = entries.iter().filter(|entry| entry.platform().as_ref().is_some_and(is_ours));
    // The lowest variant (x86-64-v1 to v4) runs everywhere.
    if let Some(found) = ours.min_by_key(|entry| variant(entry)) {
        return Ok(found);
    }
    if let [only] = entries
        && only.platform().is_none()
    {
        return Ok(only);
    }
    let found: BTreeSet<String> =
        entries.iter().map(|entry| entry.platform().as_ref().map_or("unknown".into(), show)).collect();
    let found =
        if found.is_empty() { vec!["none".into()] } else { found.into_iter().take(SHOWN_MAX).collect() };
    Err(ImageError::UnsupportedPlatform { reference: reference.into(), found: found.join(", ") })
}

/// Whether guests run it.
pub(super) fn is_ours(platform: &Platform) -> bool {
    *platform.os() == Os::Linux && *platform.architecture() == Arch::Amd64
}

fn variant(entry: &Descriptor) -> &str {
    entry.platform().as_ref().and_then(|platform| platform.variant().as_deref()).unwrap_or_default()
}

fn show(platform: &Platform) -> String {
    let text = format!("{}/{}", platform.os(), platform.architecture());
    match platform.variant() {
        Some(variant) => digest::clip(&format!("{text}/{variant}")).escape_default().to_string(),
        None => digest::clip(&text).escape_default().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(platforms: &[Option<&str>]) -> Vec<Descriptor> {
        let digest = format!("sha256:{}", "0".repeat(64));
        let entry = |(at, platform): (usize, &Option<&str>)| {
            let mut entry = serde_json::json!({"mediaType": "x", "digest": digest, "size": at});
            if let Some(platform) = platform {
                let mut parts = platform.split('/');
                entry["platform"] = serde_json::json!({"os": parts.next(), "architecture": parts.next()});
                if let Some(variant) = parts.next() {
                    entry["platform"]["variant"] = variant.into();
                }
            }
            serde_json::from_value(entry).unwrap()
        };
        platforms.iter().enumerate().map(entry).collect()
    }

    #[test]
    fn the_lowest_amd64_is_chosen() {
        let list = entries(&[
            Some("linux/arm64"),
            Some("linux/amd64/v3"),
            Some("windows/amd64"),
            Some("linux/amd64"),
        ]);
        assert_eq!(choose(&list, "x").unwrap().size(), 3);
        assert_eq!(choose(&list[..2], "x").unwrap().size(), 1);
        assert_eq!(choose(&entries(&[None]), "x").unwrap().size(), 0);
    }

    #[test]
    fn the_error_says_what_there_is() {
        let error = choose(&entries(&[Some("linux/arm64/v8"), Some("linux/s390x")]), "x/y:1").unwrap_err();
        assert_eq!(error.to_string(), "x/y:1 has no linux/amd64 variant, only: linux/arm64/v8, linux/s390x");
        assert!(choose(&entries(&[None, None]), "x").unwrap_err().to_string().contains("unknown"));
        assert!(choose(&[], "x").unwrap_err().to_string().contains("none"));
        assert!(!choose(&entries(&[Some("a\n/b")]), "x").unwrap_err().to_string().contains('\n'));
    }
}
