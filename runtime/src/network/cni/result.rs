//! Results of ADD, as far as the runtime reads them.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::super::{Dns, NetworkError};

/// The result of a list's last plugin (spec, "ADD Success"; the same members since 0.3.1).
#[derive(Debug, Deserialize)]
pub(in super::super) struct CniResult {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Ip>,
    #[serde(default)]
    pub(in super::super) dns: Dns,
}

#[derive(Debug, Deserialize)]
struct Interface {
    /// The namespace; empty for an interface of the host.
    #[serde(default)]
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Ip {
    /// CIDR.
    address: String,
    /// Index into `interfaces`.
    interface: Option<usize>,
}

impl CniResult {
    pub(in super::super) fn parse(value: &Value, plugin: &str) -> Result<Self, NetworkError> {
        let unusable = |why: String| NetworkError::PluginOutput { plugin: plugin.to_owned(), why };
        if !value.is_object() {
            return Err(unusable("the result of ADD is not an object".to_owned()));
        }
        let result =
            Self::deserialize(value).map_err(|error| unusable(format!("the result of ADD: {error}")))?;
        for ip in &result.ips {
            if ip.parse().is_none() {
                let shown: String = ip.address.chars().take(64).collect();
                return Err(unusable(format!(
                    "\"{}\" is not an address with a prefix",
                    shown.escape_debug()
                )));
            }
        }
        Ok(result)
    }

    /// The pod's addresses in the plugins' order; none when the result has none.
    pub(in super::super) fn pod_ips(&self) -> Option<Vec<IpAddr>> {
        let of_pod = |ip: &&Ip| match ip.interface.and_then(|index| self.interfaces.get(index)) {
            Some(interface) => !interface.sandbox.is_empty(),
            None => true,
        };
        let ips: Vec<IpAddr> = self.ips.iter().filter(of_pod).filter_map(Ip::parse).collect();
        (!ips.is_empty()).then_some(ips)
    }
}

impl Ip {
    fn parse(&self) -> Option<IpAddr> {
        let (ip, prefix) = self.address.split_once('/')?;
        let ip: IpAddr = ip.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= if ip.is_ipv4() { 32 } else { 128 }).then_some(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_pods_addresses_are_told_from_the_hosts() {
        let value = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/a", "mac": "x"}],
            "ips": [{"address": "10.0.0.1/24", "interface": 0}, {"address": "10.0.0.5/24", "interface": 1},
                    {"address": "fd00::5/64", "interface": 1, "gateway": "fd00::1"}],
            "dns": {"nameservers": ["1.1.1.1"]},
        });
        let result = CniResult::parse(&value, "p").unwrap();
        let ips: Vec<String> = result.pod_ips().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["10.0.0.5", "fd00::5"]);
        assert_eq!(result.dns.nameservers, ["1.1.1.1"]);
        assert!(CniResult::parse(&json!({}), "p").unwrap().pod_ips().is_none());
    }

    #[test]
    fn nonsense_is_an_error() {
        for value in [json!(null), json!([]), json!({"ips": 1}), json!({"ips": [{"address": "10.0.0.1/33"}]})]
        {
            assert!(
                matches!(CniResult::parse(&value, "p"), Err(NetworkError::PluginOutput { .. })),
                "{value}"
            );
        }
    }
}
