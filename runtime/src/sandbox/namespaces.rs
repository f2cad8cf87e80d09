//! What pods and containers ask of namespaces.

use husk_proto::cri;

use crate::error::{Error, Result};
use crate::id_mappings::IdMappings;

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
    IdMappings::of(Some(options)).map(drop)
}

/// The user namespace of a container: its pod's, which its own options must not differ from.
pub fn of_container(
    pod: &cri::PodSandboxConfig,
    options: Option<&cri::NamespaceOption>,
) -> Result<Option<IdMappings>> {
    let users = IdMappings::of(of_pod(pod))?;
    let asked = options.is_some_and(|options| options.userns_options.is_some());
    if asked && IdMappings::of(options)? != users {
        return Err(Error::Invalid(
            "the container's userns_options are not its pod's: all containers of a pod have the same ids"
                .into(),
        ));
    }
    Ok(users)
}

/// What a pod's request says of namespaces.
pub fn of_pod(pod: &cri::PodSandboxConfig) -> Option<&cri::NamespaceOption> {
    pod.linux.as_ref()?.security_context.as_ref()?.namespace_options.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_in_its_pods_user_namespace() {
        let options = |host_id: u32| {
            let range = vec![cri::IdMapping { host_id, container_id: 0, length: 10 }];
            let users = cri::UserNamespace { uids: range.clone(), gids: range, ..Default::default() };
            cri::NamespaceOption { userns_options: Some(users), ..Default::default() }
        };
        let pod = |options: Option<cri::NamespaceOption>| cri::PodSandboxConfig {
            linux: Some(cri::LinuxPodSandboxConfig {
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: options,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mapped = pod(Some(options(1000)));
        for own in [None, Some(Default::default()), Some(options(1000))] {
            assert!(of_container(&mapped, own.as_ref()).unwrap().is_some(), "{own:?}");
        }
        assert!(matches!(of_container(&mapped, Some(&options(2000))), Err(Error::Invalid(_))));
        assert!(matches!(of_container(&pod(None), Some(&options(1000))), Err(Error::Invalid(_))));
        assert_eq!(of_container(&pod(None), None).unwrap(), None);
    }
}
