//! Container Network Interface, the runtime's side: <https://www.cni.dev/docs/spec/>.

pub(super) mod cache;
pub(super) mod config;
mod plugin;
pub(super) mod result;

use std::iter;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{NetworkError, PodNetworkRequest, PortMapping};
use config::{NetworkList, PluginConfig};
use plugin::{Invocation, Plugins};

/// One container's attachment to a network: the parameters of ADD, which DEL and CHECK repeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attachment {
    pub(super) container_id: String,
    /// Empty when the namespace is gone already (DEL only).
    pub(super) netns: PathBuf,
    /// Name of the interface to make.
    pub(super) interface: String,
    /// `CNI_ARGS`.
    pub(super) args: String,
    pub(super) port_mappings: Vec<PortMapping>,
}

/// Runs the plugins of a list.
#[derive(Clone, Debug)]
pub(super) struct Cni {
    plugins: Plugins,
}

impl Cni {
    pub(super) fn new(bin_dirs: Vec<PathBuf>, timeout: Duration) -> Self {
        Self { plugins: Plugins { bin_dirs, timeout } }
    }

    /// Whether all the plugins of `list` are there, those for addresses (`ipam`) too.
    pub(super) fn check_plugins(&self, list: &NetworkList) -> Result<(), NetworkError> {
        self.find_plugins(list).into_iter().try_for_each(|found| found.map(drop))
    }

    /// Where each of the plugins of `list` is, those for addresses (`ipam`) too.
    pub(super) fn find_plugins(&self, list: &NetworkList) -> Vec<Result<PathBuf, NetworkError>> {
        let names =
            list.plugins.iter().flat_map(|plugin| iter::once(plugin.kind.as_str()).chain(plugin.ipam()));
        names.map(|name| self.plugins.find(name)).collect()
    }

    /// ADD of every plugin in order, each with the result of the one before; the last one's result.
    pub(super) async fn add(&self, list: &NetworkList, to: &Attachment) -> Result<Value, NetworkError> {
        let mut previous = None;
        for plugin in &list.plugins {
            let output = self.run("ADD", list, plugin, to, previous.as_ref()).await?;
            let value = serde_json::from_slice(&output).map_err(|error| NetworkError::PluginOutput {
                plugin: plugin.kind.clone(),
                why: format!("the answer to ADD is not JSON: {error}"),
            })?;
            previous = Some(value);
        }
        previous.ok_or_else(|| NetworkError::Config {
            path: list.source.clone(),
            why: "the list has no plugins".to_owned(),
        })
    }

    /// DEL of every plugin in reverse order, each with ADD's result where the version has that.
    pub(super) async fn del(
        &self,
        list: &NetworkList,
        to: &Attachment,
        result: Option<&Value>,
    ) -> Result<(), NetworkError> {
        let result = result.filter(|_| list.has_check());
        for plugin in list.plugins.iter().rev() {
            self.run("DEL", list, plugin, to, result).await?;
        }
        Ok(())
    }

    /// CHECK of every plugin in order; nothing where the version has no CHECK or the list forbids it.
    pub(super) async fn check(
        &self,
        list: &NetworkList,
        to: &Attachment,
        result: &Value,
    ) -> Result<(), NetworkError> {
        if !list.has_check() || list.disable_check {
            return Ok(());
        }
        for plugin in &list.plugins {
            self.run("CHECK", list, plugin, to, Some(result)).await?;
        }
        Ok(())
    }

    async fn run(
        &self,
        command: &'static str,
        list: &NetworkList,
        plugin: &PluginConfig,
        to: &Attachment,
        previous: Option<&Value>,
    ) -> Result<Vec<u8>, NetworkError> {
        let stdin = plugin_input(list, plugin, to, previous);
        self.plugins.run(Invocation { command, plugin: &plugin.kind, to, stdin }).await
    }
}

/// The configuration that one plugin reads (spec, "Deriving execution configuration from plugin
/// configuration").
fn plugin_input(
    list: &NetworkList,
    plugin: &PluginConfig,
    to: &Attachment,
    previous: Option<&Value>,
) -> Vec<u8> {
    let mut config = plugin.raw.clone();
    config.remove("capabilities");
    config.insert("name".to_owned(), list.name.clone().into());
    config.insert("cniVersion".to_owned(), list.cni_version.clone().into());
    if let Some(previous) = previous {
        config.insert("prevResult".to_owned(), previous.clone());
    }
    if plugin.has_capability("portMappings") && !to.port_mappings.is_empty() {
        let mut runtime = Map::new();
        runtime.insert("portMappings".to_owned(), port_mappings(&to.port_mappings));
        config.insert("runtimeConfig".to_owned(), runtime.into());
    }
    Value::from(config).to_string().into_bytes()
}

/// The well-known capability `portMappings` (CNI conventions).
fn port_mappings(mappings: &[PortMapping]) -> Value {
    mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0)
        .map(|mapping| {
            let mut value = serde_json::json!({
                "hostPort": mapping.host_port,
                "containerPort": mapping.container_port,
                "protocol": mapping.protocol,
            });
            if let Some(ip) = mapping.host_ip {
                value["hostIP"] = ip.to_string().into();
            }
            value
        })
        .collect()
}

/// `CNI_ARGS` as Kubernetes' runtimes set it.
pub(super) fn pod_args(request: &PodNetworkRequest) -> String {
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID={}",
        request.namespace, request.name, request.sandbox_id, request.uid
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Protocol;

    #[test]
    fn a_plugin_gets_the_lists_name_version_ports_and_the_previous_result() {
        let list = config::parse(
            br#"{"cniVersion":"1.0.0","name":"net","plugins":[
                {"type":"portmap","capabilities":{"portMappings":true},"snat":true}]}"#,
            std::path::Path::new("x.conflist"),
        )
        .unwrap();
        let to = Attachment {
            container_id: "c".into(),
            netns: "/n".into(),
            interface: "eth0".into(),
            args: String::new(),
            port_mappings: vec![
                PortMapping { host_port: 8080, container_port: 80, protocol: Protocol::Tcp, host_ip: None },
                PortMapping { host_port: 0, container_port: 81, protocol: Protocol::Udp, host_ip: None },
            ],
        };
        let previous = serde_json::json!({"cniVersion": "1.0.0"});
        let input = plugin_input(&list, &list.plugins[0], &to, Some(&previous));
        let input: Value = serde_json::from_slice(&input).unwrap();
        assert_eq!(
            input,
            serde_json::json!({
                "type": "portmap", "snat": true, "name": "net", "cniVersion": "1.0.0",
                "prevResult": {"cniVersion": "1.0.0"},
                "runtimeConfig": {"portMappings":
                    [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]},
            })
        );
    }
}
