//! `husk run`: one pod without Kubernetes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use husk_proto::cri;

use super::log_file::LogFile;
use super::node;
use super::terminal::Streams;
use crate::caller::Caller;
use crate::config::Config;
use crate::container::PARTITION;
use crate::error::{Error, Result};
use crate::node::Node;
use crate::pull_progress::PullProgress;

/// Arguments of `husk run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Registry reference, oci:DIRECTORY[:TAG] for a local OCI layout, or disk:FILE for a raw or qcow2 disk
    image: String,
    /// Command and its arguments [default: the image's]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Directory of images and records of `husk run`; not the daemon's
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// The pod's network: "cni" as the node's pods have, "none", or "auto": cni if it is configured
    #[arg(long, default_value = "auto", value_parser = ["auto", "cni", "none"])]
    network: String,
    /// Of a disk: the partition with the root, by number or label [default: the largest with a file system]
    #[arg(long, value_name = "NAME")]
    partition: Option<String>,
    /// Print how long each step took, to standard error
    #[arg(long)]
    timings: bool,
}

impl Run {
    /// Runs the command and answers its exit code.
    pub async fn execute(self, mut config: Config) -> Result<ExitCode> {
        config.root = self.root.clone().unwrap_or_else(|| node::standalone_root(&config));
        // One pod, and nobody stays to make a template after it.
        config.set_templates(false);
        node::use_own_credentials(&mut config);
        config.run = config.run.join("standalone");
        let configured =
            std::fs::read_dir(&config.network.conf_dir).is_ok_and(|mut dir| dir.next().is_some());
        let network = self.network == "cni" || (self.network == "auto" && configured);
        let mut steps = Steps { begun: Instant::now(), shown: self.timings };
        let node = node::open(config, network).await?;
        steps.done("open the store");
        let image = self.fetch(&node).await?;
        steps.done("fetch and convert the image");
        let logs = node.config.run.join("logs");
        let pod = node.run_sandbox(pod_config(&logs), String::new(), &Caller::patient()).await?;
        steps.done("boot the pod");
        let outcome = self.in_pod(&node, &pod, image, &logs, &mut steps).await;
        node.remove_sandbox(&pod).await?;
        steps.done("remove the pod");
        let _ = std::fs::remove_dir_all(&logs);
        outcome.map(ExitCode::from)
    }

    /// The image's id.
    async fn fetch(&self, node: &Node) -> Result<String> {
        if let Some(file) = self.image.strip_prefix("disk:") {
            return Ok(node.images.import_disk(Path::new(file), None).await?.id);
        }
        let Some(layout) = self.image.strip_prefix("oci:") else {
            let shown = self.image.clone();
            let progress = PullProgress::new(move |line| eprintln!("husk: {shown}: {line}"));
            return Ok(node.images.pull(&self.image, None, &progress).await?.id);
        };
        let (path, tag) = super::images::parse_layout(layout);
        Ok(node.images.import_layout(path, tag).await?.id)
    }

    async fn in_pod(
        &self,
        node: &Arc<Node>,
        pod: &str,
        image: String,
        logs: &Path,
        steps: &mut Steps,
    ) -> Result<u8> {
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: "run".into(), attempt: 0 }),
            image: Some(cri::ImageSpec { image, ..Default::default() }),
            // As Docker's and Podman's: the words replace the image's arguments, not its entrypoint.
            args: self.command.clone(),
            log_path: "run.log".into(),
            annotations: self.partition.iter().map(|name| (PARTITION.to_owned(), name.clone())).collect(),
            ..Default::default()
        };
        let id = node.create_container(pod, config, &Caller::patient()).await?;
        steps.done("create the container");
        node.start_container(&id).await?;
        steps.done("start it");
        let container = node.container(&id)?;
        let (mut log, streams) = (LogFile::new(&logs.join("run.log")), Streams::plain());
        let exited = container.exited();
        tokio::pin!(exited);
        loop {
            tokio::select! {
                () = &mut exited => break,
                _ = tokio::signal::ctrl_c() => {
                    return Err(Error::Internal("interrupted; the pod is removed".into()));
                }
                () = tokio::time::sleep(std::time::Duration::from_millis(20)) => copy(&mut log, &streams)?,
            }
        }
        copy(&mut log, &streams)?;
        steps.done("run it to its end");
        let record = container.record();
        if record.reason == "OOMKilled" {
            eprintln!("husk: the command was killed for want of memory");
        }
        Ok(record.exit_code.clamp(0, 255) as u8)
    }
}

struct Steps {
    begun: Instant,
    shown: bool,
}

impl Steps {
    fn done(&mut self, what: &str) {
        if self.shown {
            eprintln!("{:>8.1} ms  {what}", self.begun.elapsed().as_secs_f64() * 1000.0);
        }
        self.begun = Instant::now();
    }
}

/// Passes on what the command has written since.
fn copy(log: &mut LogFile, streams: &Streams) -> Result<()> {
    loop {
        let lines = log.read()?;
        if lines.is_empty() {
            return Ok(());
        }
        // The command goes on when nobody reads what it writes.
        let _ = streams.write_log(&lines);
    }
}

fn pod_config(logs: &Path) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: "run".into(),
            namespace: "husk".into(),
            uid: std::process::id().to_string(),
            attempt: 0,
        }),
        log_directory: logs.to_string_lossy().into_owned(),
        dns_config: Some(cri::DnsConfig::default()),
        ..Default::default()
    }
}
