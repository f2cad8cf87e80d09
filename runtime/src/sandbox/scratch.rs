//! How large a pod's scratch disk is: all that its containers can write.

use std::collections::HashMap;

use crate::config::VmDefaults;
use crate::error::{Error, Result};

/// The annotation of a pod that asks for a size, in MiB.
const SIZE: &str = "io.husk.scratch.mib";
/// The smallest disk, in MiB: less holds no file system worth its name.
const LEAST_MIB: u64 = 64;

/// The bytes of the scratch disk of a pod with these annotations.
pub fn bytes(annotations: &HashMap<String, String>, defaults: &VmDefaults) -> Result<u64> {
    let Some(asked) = annotations.get(SIZE) else { return Ok(defaults.scratch_mib << 20) };
    let most = defaults.scratch_max_mib.max(defaults.scratch_mib);
    match asked.parse::<u64>() {
        Ok(mib) if (LEAST_MIB..=most).contains(&mib) => Ok(mib << 20),
        _ => Err(Error::Invalid(format!(
            "the annotation {SIZE} is {:?}: it must be a number of MiB from {LEAST_MIB} to {most} (vm.scratch_max_mib)",
            asked.chars().take(100).collect::<String>()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_what_it_asks_for_within_the_limit() {
        let annotations = |value: &str| [(SIZE.to_owned(), value.to_owned())].into();
        let limited = VmDefaults { scratch_mib: 100, scratch_max_mib: 300, ..Default::default() };
        assert_eq!(bytes(&HashMap::new(), &limited).unwrap(), 100 << 20);
        for mib in [64_u64, 100, 300] {
            assert_eq!(bytes(&annotations(&mib.to_string()), &limited).unwrap(), mib << 20);
        }
        for bad in ["63", "301", "", "-1", "1e3", "18446744073709551615", "18446744073709551616", "all"] {
            let error = bytes(&annotations(bad), &limited).unwrap_err();
            assert!(matches!(&error, Error::Invalid(text) if text.contains(SIZE)), "{bad}: {error}");
        }
        let unlimited = VmDefaults { scratch_mib: 100, scratch_max_mib: 0, ..Default::default() };
        assert!(bytes(&annotations("101"), &unlimited).is_err());
        assert!(bytes(&annotations("90"), &unlimited).is_ok());
    }
}
