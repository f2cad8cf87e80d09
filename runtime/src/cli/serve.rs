//! `husk serve`

use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use super::node;
use crate::config::Config;
use crate::error::{Error, Result};

/// Flags of `husk serve`; each overrides its key of the configuration.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// Unix socket of the CRI endpoint
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Directory of images, scratch disks and records
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Directory of sockets and network namespaces
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// Address of exec, attach and port-forward [default: 127.0.0.1:0, any free port]
    #[arg(long, value_name = "ADDRESS:PORT")]
    streaming_address: Option<String>,
    /// Whether pods' VMs are clones of saved guests instead of booting [default: true]
    #[arg(long, value_name = "BOOL")]
    vm_templates: Option<bool>,
}

impl Serve {
    /// Serves until SIGTERM or SIGINT; pods go on.
    pub async fn execute(self, mut config: Config) -> Result<ExitCode> {
        for (flag, key) in
            [(self.socket, &mut config.socket), (self.root, &mut config.root), (self.run, &mut config.run)]
        {
            if let Some(value) = flag {
                *key = value;
            }
        }
        if let Some(address) = self.streaming_address {
            config.streaming.address = address;
        }
        if let Some(templates) = self.vm_templates {
            config.set_templates(templates);
        }
        take_open_files();
        let mut terminate = signal(SignalKind::terminate()).map_err(|e| Error::Internal(e.to_string()))?;
        let node = node::open(config, true).await?;
        crate::cri::serve(node, async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            tracing::info!("stopping; pods go on");
        })
        .await?;
        Ok(ExitCode::SUCCESS)
    }
}

/// As many open files as there may be: a pod takes several.
fn take_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!("husk has no more than {:?} open files: {e}", limit.current);
    }
}
