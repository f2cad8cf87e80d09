//! The real crictl.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use crate::{Daemon, Paths, Watched, run};

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

    /// Runs a command with an input and its end, whatever comes of it.
    pub fn output_of(&self, args: &[&str], input: &[u8]) -> Output {
        let mut child = self.spawn(args);
        let mut stdin = child.stdin.take().expect("standard input is a pipe");
        let input = input.to_owned();
        // A command that does not read it all is no fault of this side.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().expect("wait for crictl");
        writer.join().expect("the writer's thread");
        output
    }

    /// Starts a command with pipes for its streams.
    pub fn spawn(&self, args: &[&str]) -> Child {
        let pipes =
            self.command(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        pipes.expect("start crictl")
    }

    /// Forwards from a local port, which crictl chooses, to a pod's.
    pub async fn forward(&self, pod: &str, transport: &str, port: u16) -> (Watched, u16) {
        let args = ["port-forward", "--transport", transport, pod, &format!(":{port}")];
        let client = Watched::watch(self.spawn(&args));
        client.wait_print(&format!("-> {port}")).await;
        let printed = client.printed();
        let local =
            printed.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        let local = local.parse().unwrap_or_else(|_| panic!("crictl tells no port: {printed:?}"));
        (client, local)
    }

    /// Starts a line of shell on a terminal of its own, with `"$@"` for the crictl command; what the terminal shows
    /// is standard output, and what is typed is standard input.
    pub fn on_terminal(&self, line: &str, args: &[&str]) -> Child {
        let quoted: Vec<String> = std::iter::once(&self.program.display().to_string()[..])
            .chain(self.command(args).get_args().filter_map(|arg| arg.to_str()))
            .map(|arg| format!("'{}'", arg.replace('\'', "'\\''")))
            .collect();
        let script = format!("set -- {}; {line}", quoted.join(" "));
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--flush", "--command", &script, "/dev/null"])
            .env("SHELL", "/bin/sh");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start script (bsdutils)")
    }
}
