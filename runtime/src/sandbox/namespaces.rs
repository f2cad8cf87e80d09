//! What pods and containers ask of namespaces.

use husk_proto::cri;

use crate::error::{Error, Result};

/// Refuses what a pod with a kernel of its own cannot have.
pub fn check(options: &cri::NamespaceOption) -> Result<()> {
    for (name, mode) in [("network", options.network()), ("PID", options.pid()), ("IPC", options.ipc())] {
        if mode == cri::NamespaceMode::Node {
            return Err(Error::Invalid(format!(
                "the pod asks for the host's {name} namespace, but it has a kernel of its own; run it with a \
                 RuntimeClass whose handler shares the host's kernel"
            )));
        }
    }
    let users = options.userns_options.as_ref();
    if users.is_some_and(|users| users.mode() == cri::NamespaceMode::Pod && !users.uids.is_empty()) {
        return Err(Error::Unsupported(
            "the pod asks for a user namespace (hostUsers: false), which is not there within the VM yet; its VM keeps \
             it from the host's users without one"
                .into(),
        ));
    }
    Ok(())
}
