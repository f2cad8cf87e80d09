//! Digests: "sha256:" and 64 lower-case hexadecimal digits.

use sha2::{Digest, Sha256};

use crate::error::{ImageError, Result};

/// `hash` as a digest's text.
pub(crate) fn show(hash: &[u8]) -> String {
    use std::fmt::Write;
    hash.iter().fold(String::from("sha256:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The digest of `bytes`.
pub(crate) fn of(bytes: &[u8]) -> String {
    show(&Sha256::digest(bytes))
}

/// The 64 digits of `digest`, fit to be a file's name. Other algorithms than sha256 are refused.
pub(crate) fn hex(digest: &str) -> Result<&str> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| is_hex(hex) && hex.len() == 64)
        .ok_or_else(|| ImageError::Corrupt(format!("{:?} is no sha256 digest", clip(digest))))
}

/// Whether `text` is lower-case hexadecimal.
pub(crate) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Fails unless `bytes` have the digest `expected`.
pub(crate) fn verify(bytes: &[u8], expected: &str) -> Result<()> {
    hex(expected)?;
    same(&of(bytes), expected)
}

/// Fails unless the digest `found` is the `expected` one.
pub(crate) fn same(found: &str, expected: &str) -> Result<()> {
    if found == expected {
        Ok(())
    } else {
        Err(ImageError::Corrupt(format!("content of {expected} has the digest {}", clip(found))))
    }
}

/// At most 200 characters of a hostile text.
pub(crate) fn clip(text: &str) -> &str {
    text.char_indices().nth(200).map_or(text, |(end, _)| &text[..end])
}

/// An error that may quote a hostile text whole, clipped and on one line.
pub(crate) fn clip_error(error: &impl std::fmt::Display) -> String {
    clip(&error.to_string()).escape_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_digests_pass() {
        let digest = of(b"");
        assert_eq!(digest, "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert!(verify(b"", &digest).is_ok());
        assert!(verify(b"x", &digest).is_err());
        for bad in ["sha256:../../x", "sha512:00", "", "sha256:E3", &digest.to_uppercase()] {
            assert!(hex(bad).is_err());
        }
    }
}
