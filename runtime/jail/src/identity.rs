//! Users and what they may do.

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Uid, set_dumpable_behavior};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::JailError;

/// No program that this process executes gives it rights, and none of the same user may look into it.
///
/// # Errors
/// What the system says.
pub fn no_new_privileges() -> Result<(), JailError> {
    set_no_new_privs(true).map_err(JailError::at("no_new_privs"))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(JailError::at("PR_SET_DUMPABLE"))
}

/// Takes every capability but `kept` out of the bounding set: neither this process nor what it executes gets them
/// again.
///
/// # Errors
/// What the system says; it takes `CAP_SETPCAP`.
pub fn bound_capabilities(kept: CapabilitySet) -> Result<(), JailError> {
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The kernel knows no more.
            Err(Errno::INVAL) => break,
            Err(e) => return Err(JailError::at("dropping a capability")(e)),
        }
    }
    Ok(())
}

/// Gives all capabilities up, as far as there are any.
///
/// # Errors
/// What the system says.
pub fn no_capabilities() -> Result<(), JailError> {
    let none = CapabilitySet::empty();
    clear_ambient_capability_set().map_err(JailError::at("clearing the ambient capabilities"))?;
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
        .map_err(JailError::at("dropping all capabilities"))
}

/// Becomes a user and a group that are nobody else's, without other groups and without any capability, and never
/// root again. For root; to be called by the process's only thread.
///
/// # Errors
/// What the system says.
pub fn become_user(uid: u32, gid: u32) -> Result<(), JailError> {
    bound_capabilities(CapabilitySet::empty())?;
    // Root's number means nothing any more, and neither these bits nor what they say can be changed.
    let bits = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(bits).map_err(JailError::at("securebits"))?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_groups(&[]).map_err(JailError::at("dropping supplementary groups"))?;
    set_thread_res_gid(gid, gid, gid).map_err(JailError::at("changing the group"))?;
    set_thread_res_uid(uid, uid, uid).map_err(JailError::at("changing the user"))?;
    no_capabilities()
}
