//! What callers give and get.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::NetworkError;

/// Where things are.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// CNI configurations; the first by name is used ("/etc/cni/net.d").
    pub conf_dir: PathBuf,
    /// Where plugins are looked for, in order ("/opt/cni/bin", "/usr/lib/cni").
    pub bin_dirs: Vec<PathBuf>,
    /// Records of what was set up, one file a sandbox; must survive a restart of the host, because what
    /// plugins have allocated does.
    pub cache_dir: PathBuf,
    /// Bind mounts of the sandboxes' namespaces ("/run/husk/netns").
    pub netns_dir: PathBuf,
    /// How long one call of a plugin may take.
    pub timeout: Duration,
}

/// The pod that wants a network.
#[derive(Clone, Debug)]
pub struct PodNetworkRequest {
    /// The sandbox: 1 to 128 characters of `[A-Za-z0-9_.-]`, the first a letter or digit.
    pub sandbox_id: String,
    /// The pod's name, for the plugins (`K8S_POD_NAME`).
    pub name: String,
    /// The pod's namespace (`K8S_POD_NAMESPACE`).
    pub namespace: String,
    /// The pod's uid (`K8S_POD_UID`).
    pub uid: String,
    /// Ports of the host that lead to the pod; those with `host_port` 0 are left out.
    pub port_mappings: Vec<PortMapping>,
}

/// A port of the host that leads to a pod's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// 1 to 65535; 0: not published.
    pub host_port: u16,
    /// 1 to 65535.
    pub container_port: u16,
    /// The transport.
    pub protocol: Protocol,
    /// The host's address; none: all of them.
    #[serde(rename = "hostIP", default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// The transport of a [`PortMapping`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// A pod's network, ready for its guest.
#[derive(Debug)]
pub struct PodNetworkSetup {
    /// At least one.
    pub interfaces: Vec<GuestInterface>,
    /// In the order in which the guest has to add them: what a gateway is reached by comes before it.
    pub routes: Vec<GuestRoute>,
    /// The pod's addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// What the plugins say about names; mostly empty, kubelet's own settings rule.
    pub dns: Dns,
}

/// An interface that the guest takes over.
#[derive(Debug)]
pub struct GuestInterface {
    /// As CNI named it ("eth0").
    pub name: String,
    /// "02:42:ac:11:00:02"
    pub mac: String,
    /// Bytes.
    pub mtu: u32,
    /// CIDR. A prefix of full length where the host has no route to the rest of the network, so that the
    /// guest makes none either.
    pub addresses: Vec<String>,
    /// The interface's other end: the queues of a tap with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`, non-blocking.
    pub taps: Vec<OwnedFd>,
}

/// A route of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestRoute {
    /// CIDR.
    pub destination: String,
    /// None: directly connected.
    pub gateway: Option<IpAddr>,
    /// The interface's name.
    pub interface: String,
}

/// Name resolution as a CNI result tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Servers, in order.
    pub nameservers: Vec<String>,
    /// The local domain.
    pub domain: String,
    /// Search list.
    pub search: Vec<String>,
    /// Options of resolv.conf.
    pub options: Vec<String>,
}

/// Checks what ends up in plugins' arguments.
pub(super) fn check_request(request: &PodNetworkRequest) -> Result<(), NetworkError> {
    check_id(&request.sandbox_id)?;
    check_arg("pod name", &request.name)?;
    check_arg("pod namespace", &request.namespace)?;
    check_arg("pod uid", &request.uid)?;
    match request.port_mappings.iter().find(|mapping| mapping.container_port == 0) {
        Some(mapping) => Err(invalid("container port", mapping.container_port, "it must be 1 to 65535")),
        None => Ok(()),
    }
}

/// Checks a sandbox id, which becomes a file name and a CNI container id (CNI spec, "Parameters").
pub(super) fn check_id(id: &str) -> Result<(), NetworkError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !(1..=128).contains(&id.len())
        || !id.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !id.chars().all(allowed)
    {
        let why = "it must be 1 to 128 of [A-Za-z0-9_.-] and begin with a letter or digit";
        return Err(invalid("sandbox id", id.chars().take(128).collect::<String>().escape_debug(), why));
    }
    Ok(())
}

/// Checks a value of `CNI_ARGS`, where `;` ends a value and `=` a key.
fn check_arg(field: &'static str, value: &str) -> Result<(), NetworkError> {
    if value.len() > 253 || value.chars().any(|c| matches!(c, ';' | '=') || c.is_control()) {
        let shown = value.chars().take(64).collect::<String>();
        return Err(invalid(
            field,
            shown.escape_debug(),
            "at most 253 bytes, without ';', '=' and control characters",
        ));
    }
    Ok(())
}

fn invalid(field: &'static str, value: impl fmt::Display, why: &'static str) -> NetworkError {
    NetworkError::InvalidRequest { field, value: value.to_string(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_leave_a_directory_are_refused() {
        for bad in ["", ".", "..", "../x", "a/b", "-a", ".a", "a b", "a\n", "ä", &"a".repeat(129)] {
            assert!(matches!(check_id(bad), Err(NetworkError::InvalidRequest { .. })), "{bad:?}");
        }
        for good in ["a", "0a-b_c.d", &"a".repeat(128)] {
            check_id(good).unwrap();
        }
    }

    #[test]
    fn arguments_cannot_smuggle_others() {
        assert!(check_arg("pod name", "a;K8S_POD_UID=x").is_err());
        assert!(check_arg("pod name", "a=b").is_err());
        assert!(check_arg("pod name", "a\nb").is_err());
        check_arg("pod name", "nginx-0.web").unwrap();
    }
}
