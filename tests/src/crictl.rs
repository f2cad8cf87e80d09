//! The real crictl.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::{Daemon, Paths, run};

/// crictl, bound to one daemon.
#[derive(Clone, Debug)]
pub struct Crictl {
    program: PathBuf,
    endpoint: String,
}

impl Crictl {
    /// Finds it, as tests/tools/crictl says.
    pub fn find(paths: &Paths, daemon: &Daemon) -> Crictl {
        Crictl { program: paths.tool("crictl"), endpoint: daemon.endpoint() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--config", "/dev/null", "--timeout", "60s", "--runtime-endpoint", &self.endpoint]);
        command.args(["--image-endpoint", &self.endpoint]).args(args);
        command
    }

    /// Runs a command that must succeed; answers its standard output without the last newline.
    pub fn run(&self, args: &[&str]) -> String {
        run(&mut self.command(args)).trim_end().to_owned()
    }

    /// Runs a command, whatever comes of it.
    pub fn output(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().expect("start crictl")
    }
}
