//! `husk ps`

use std::collections::HashMap;
use std::process::ExitCode;

use husk_proto::cri;

use super::daemon::Whom;
use super::{short, told};
use crate::cli::{table, terminal};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::node::now_nanos;

/// Seconds.
const MINUTE: i64 = 60;
/// Seconds.
const HOUR: i64 = 60 * MINUTE;
/// Seconds.
const DAY: i64 = 24 * HOUR;

/// Arguments of `husk ps`.
#[derive(Debug, clap::Args)]
pub struct List {
    /// Earlier attempts as well, in whose place there is another pod or container by now
    #[arg(short, long)]
    all: bool,
    /// For scripts: a JSON list of pods, each as `husk inspect` has it
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whom: Whom,
}

impl List {
    /// Prints a line for each pod, and below it one for each of its containers.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn execute(self, config: Config) -> Result<ExitCode> {
        let mut pods = self.whom.connect(&config).await?.pods().await?;
        if !self.all {
            latest(&mut pods);
        }
        if self.json {
            let told: Vec<_> = pods.iter().map(told::pod).collect();
            let text = serde_json::to_string_pretty(&told).map_err(|e| Error::Internal(e.to_string()))?;
            return terminal::print(&format!("{text}\n"));
        }
        terminal::print(&listing(&pods, now_nanos()))
    }
}

/// Leaves of all attempts at a pod or container the youngest.
fn latest(pods: &mut Vec<cri::PodSandboxStatusResponse>) {
    keep_youngest(pods, |pod| {
        let status = pod.status.clone().unwrap_or_default();
        let metadata = status.metadata.unwrap_or_default();
        ([metadata.namespace, metadata.name, metadata.uid], status.created_at)
    });
    for pod in pods {
        keep_youngest(&mut pod.containers_statuses, |container| {
            (container.metadata.clone().unwrap_or_default().name, container.created_at)
        });
    }
}

fn keep_youngest<T, F: Eq + std::hash::Hash>(items: &mut Vec<T>, family_and_birth: impl Fn(&T) -> (F, i64)) {
    let mut youngest = HashMap::new();
    for item in items.iter() {
        let (family, birth) = family_and_birth(item);
        let known = youngest.entry(family).or_insert(birth);
        *known = birth.max(*known);
    }
    items.retain(|item| {
        let (family, birth) = family_and_birth(item);
        youngest.get(&family) == Some(&birth)
    });
}

fn listing(pods: &[cri::PodSandboxStatusResponse], now: i64) -> String {
    let heads = ["NAME", "NAMESPACE", "ID", "STATE", "AGE", "HANDLER", "IMAGE", "PID", "NOTE"];
    let mut rows = vec![heads.map(str::to_owned)];
    for pod in pods {
        rows.push(pod_row(pod, now));
        let mut containers: Vec<_> = pod.containers_statuses.iter().collect();
        containers.sort_by_key(|container| container.created_at);
        rows.extend(containers.into_iter().map(|container| container_row(container, now)));
    }
    // A tenant's words are among them.
    let rows: Vec<_> = rows.iter().map(|row| row.each_ref().map(|cell| cell_of(cell))).collect();
    table::table(&rows, &[])
}

/// In one line; what is before it is the table's.
fn cell_of(text: &str) -> String {
    let begin = text.len() - text.trim_start_matches(' ').len();
    format!("{}{}", &text[..begin], terminal::line(text))
}

fn pod_row(pod: &cri::PodSandboxStatusResponse, now: i64) -> [String; 9] {
    let status = pod.status.clone().unwrap_or_default();
    let metadata = status.metadata.clone().unwrap_or_default();
    let of = |key: &str| pod.info.get(key).cloned().unwrap_or_default();
    let ready = status.state() == cri::PodSandboxState::SandboxReady;
    let pid = Some(of("pid")).filter(|pid| ready && !pid.is_empty() && pid != "0");
    [
        metadata.name,
        metadata.namespace,
        short(&status.id).to_owned(),
        told::pod_state(&status).to_owned(),
        age(status.created_at, now),
        told::handler(&status).to_owned(),
        String::new(),
        pid.unwrap_or_default(),
        of("message"),
    ]
}

fn container_row(status: &cri::ContainerStatus, now: i64) -> [String; 9] {
    let metadata = status.metadata.clone().unwrap_or_default();
    let state = told::container_state(status);
    let state = match status.state() {
        cri::ContainerState::ContainerExited => {
            format!("{state} ({}) {}", status.exit_code, status.reason).trim_end().to_owned()
        }
        _ => state.to_owned(),
    };
    let image = told::image(status);
    let image = image.strip_prefix("sha256:").map_or(image, short);
    [
        format!("  {}", metadata.name),
        String::new(),
        short(&status.id).to_owned(),
        state,
        age(status.created_at, now),
        String::new(),
        image.to_owned(),
        String::new(),
        status.message.clone(),
    ]
}

/// How long ago that was, as kubectl says it.
fn age(since: i64, now: i64) -> String {
    // A clock that was set back makes nothing younger than new.
    let seconds = now.saturating_sub(since).max(0) / 1_000_000_000;
    match seconds {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => format!("{}m", seconds / MINUTE),
        HOUR..DAY => format!("{}h", seconds / HOUR),
        _ => format!("{}d", seconds / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(name: &str, created_at: i64, exit_code: i32) -> cri::ContainerStatus {
        let mut status = cri::ContainerStatus {
            id: format!("{name}{created_at}"),
            metadata: Some(cri::ContainerMetadata { name: name.into(), ..Default::default() }),
            created_at,
            exit_code,
            reason: "Error".into(),
            message: "went\nwrong \u{1b}[2J".into(),
            ..Default::default()
        };
        status.set_state(cri::ContainerState::ContainerExited);
        status
    }

    fn pod(name: &str, created_at: i64) -> cri::PodSandboxStatusResponse {
        let metadata = cri::PodSandboxMetadata { name: name.into(), ..Default::default() };
        let status = cri::PodSandboxStatus {
            id: "0123456789abcdef".into(),
            metadata: Some(metadata),
            created_at,
            ..Default::default()
        };
        cri::PodSandboxStatusResponse {
            status: Some(status),
            containers_statuses: vec![container("c", 1, 1), container("c", 2, 7), container("d", 1, 0)],
            info: [("pid".to_owned(), "42".to_owned())].into(),
            ..Default::default()
        }
    }

    #[test]
    fn pods_stand_above_their_containers() {
        let text = listing(&[pod("web", 1)], 61_000_000_001);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines.len() == 5 && lines[0].starts_with("NAME  NAMESPACE  ID "), "{text}");
        assert!(lines[1].starts_with("web ") && lines[1].contains("0123456789ab  ready "), "{text}");
        assert!(lines[1].contains(" 1m ") && lines[1].ends_with(" 42"), "{text}");
        assert!(lines[3].starts_with("  d ") || lines[2].starts_with("  c "), "{text}");
        assert!(lines.iter().any(|line| line.contains("exited (7) Error")), "{text}");
        assert!(lines[4].ends_with("went wrong  [2J"), "{text}");
    }

    #[test]
    fn the_youngest_attempts_are_the_ones_that_count() {
        let mut pods = vec![pod("web", 1), pod("web", 2), pod("db", 1)];
        latest(&mut pods);
        let created: Vec<i64> = pods.iter().map(|pod| pod.status.as_ref().unwrap().created_at).collect();
        assert_eq!(created, [2, 1]);
        let ids: Vec<&str> = pods[0].containers_statuses.iter().map(|status| status.id.as_str()).collect();
        assert_eq!(ids, ["c2", "d1"]);
    }

    #[test]
    fn ages_are_short() {
        let of = |seconds: i64| age(0, seconds * 1_000_000_000);
        assert_eq!(
            [0, 59, 60, 3599, 3600, 86_400, 864_000].map(of),
            ["0s", "59s", "1m", "59m", "1h", "1d", "10d"]
        );
        assert_eq!(age(5_000_000_000, 0), "0s");
    }
}
