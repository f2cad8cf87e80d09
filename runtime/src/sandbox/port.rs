//! Connections to a pod's ports.

use crate::error::Result;
use crate::guest::{self, PortReceiver, PortSender};
use crate::node::Node;

impl Node {
    /// Connects to a TCP port of a ready pod's loopback.
    pub async fn connect_port(&self, sandbox_id: &str, port: u16) -> Result<(PortSender, PortReceiver)> {
        let live = self.pod(sandbox_id)?.live().await?;
        let agent = guest::connect_apart(&live.vm.vsock()).await?;
        guest::connect_port(agent, port).await
    }
}
