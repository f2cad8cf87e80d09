//! What a URL stands for, and whether it can be done at all: checked before the URL is given out.

use husk_proto::cri;

use super::streams::Wanted;
use crate::error::{Error, Result};
use crate::node::Node;

/// One request.
#[derive(Clone, Debug)]
pub enum Work {
    /// A command in a container.
    Exec(cri::ExecRequest),
    /// A container's own streams.
    Attach(cri::AttachRequest),
    /// Ports of a pod.
    PortForward(cri::PortForwardRequest),
}

impl Work {
    /// Its part of the URL.
    pub fn name(&self) -> &'static str {
        match self {
            Work::Exec(_) => "exec",
            Work::Attach(_) => "attach",
            Work::PortForward(_) => "portforward",
        }
    }

    /// The ids of its pod and container, as they were asked for; empty: it is about none.
    pub fn ids(&self) -> (&str, &str) {
        match self {
            Work::Exec(request) => ("", &request.container_id),
            Work::Attach(request) => ("", &request.container_id),
            Work::PortForward(request) => (&request.pod_sandbox_id, ""),
        }
    }

    /// The streams of an exec or attach; `None`: it has ports.
    pub fn wanted(&self) -> Option<Wanted> {
        let (stdin, stdout, stderr, tty) = match self {
            Work::Exec(r) => (r.stdin, r.stdout, r.stderr, r.tty),
            Work::Attach(r) => (r.stdin, r.stdout, r.stderr, r.tty),
            Work::PortForward(_) => return None,
        };
        Some(Wanted { stdin, stdout, stderr, tty })
    }

    /// Refuses what cannot be done.
    pub async fn check(&self, node: &Node) -> Result<()> {
        if let Some(wanted) = self.wanted() {
            check_streams(wanted)?;
        }
        match self {
            Work::Exec(request) if request.cmd.is_empty() => {
                Err(Error::Invalid("exec: the command is empty (cmd)".into()))
            }
            Work::Exec(request) => node.running_container(&request.container_id).map(drop),
            Work::Attach(request) => node.running_container(&request.container_id).map(drop),
            Work::PortForward(request) => {
                if let Some(port) = request.port.iter().find(|port| !(1..=65535).contains(*port)) {
                    return Err(Error::Invalid(format!("{port} is no TCP port; use 1 to 65535")));
                }
                node.pod(&request.pod_sandbox_id)?.live().await.map(drop)
            }
        }
    }
}

fn check_streams(wanted: Wanted) -> Result<()> {
    if wanted.tty && wanted.stderr {
        return Err(Error::Invalid(
            "tty and stderr cannot both be true: a terminal has one output, which is stdout".into(),
        ));
    }
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return Err(Error::Invalid("one of stdin, stdout and stderr must be true".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_make_no_sense_are_refused() {
        let wanted = |stdin, stdout, stderr, tty| check_streams(Wanted { stdin, stdout, stderr, tty });
        wanted(true, true, false, true).unwrap();
        wanted(false, false, true, false).unwrap();
        assert!(wanted(false, true, true, true).unwrap_err().to_string().contains("stderr"));
        assert!(wanted(false, false, false, false).unwrap_err().to_string().contains("stdin"));
    }
}
