//! What the host's kernel says of its CPUs (Documentation/ABI/testing/sysfs-devices-system-cpu, "vulnerabilities").

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";
/// Those for which Linux leaves functions by a thunk.
const AT_RETURNS: [&str; 3] = ["retbleed", "spec_rstack_overflow", "indirect_target_selection"];
const NOT_AFFECTED: &str = "Not affected";

/// Whether nothing is known by which these CPUs can be misled at a return, so that a guest's kernel would find its return
/// thunks needless ([`crate::config::VmConfig::plain_returns`]). A host's kernel that has not heard of one of the ways does
/// not know.
pub fn returns_are_safe() -> bool {
    static SAFE: LazyLock<bool> = LazyLock::new(|| none_affected(Path::new(VULNERABILITIES)));
    *SAFE
}

fn none_affected(directory: &Path) -> bool {
    AT_RETURNS.iter().all(|name| {
        fs::read_to_string(directory.join(name)).is_ok_and(|text| text.trim_end() == NOT_AFFECTED)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_must_be_known_and_none_be_affected() {
        let host = tempfile::tempdir().unwrap();
        let says = |name: &str, text: &str| fs::write(host.path().join(name), text).unwrap();
        assert!(!none_affected(host.path()));
        for name in AT_RETURNS {
            assert!(!none_affected(host.path()));
            says(name, "Not affected\n");
        }
        assert!(none_affected(host.path()));
        for text in ["Vulnerable\n", "Mitigation: Safe RET\n", "Mitigation: Enhanced IBRS\n", ""] {
            says("spec_rstack_overflow", text);
            assert!(!none_affected(host.path()), "{text:?}");
        }
    }
}
