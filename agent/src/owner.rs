//! Who something belongs to.

/// A user and a group, by the guest's ids. The agent's own are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}
