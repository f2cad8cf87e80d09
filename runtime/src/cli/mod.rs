//! The command line.

mod check;
mod images;
mod log_file;
mod node;
mod pods;
mod run;
mod serve;
mod table;
mod terminal;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::observe::{self, Format, Traces};

/// The most threads for work that blocks.
const MAX_BLOCKING: usize = 128;
/// How long one of them stays without work.
const FOR_GOOD: Duration = Duration::from_secs(u32::MAX as u64);

/// A container runtime for Kubernetes that gives every pod a kernel of its own.
#[derive(Debug, Parser)]
#[command(name = "husk", version)]
struct Arguments {
    /// Configuration file [default: /etc/husk/config.toml, if it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log: error, warn, info, debug, trace, or tracing's filter syntax
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// What the log's lines look like
    #[arg(long, global = true, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    log_format: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the CRI to kubelet, crictl and critest
    Serve(serve::Serve),
    /// Say whether this host is fit to run husk, and how to mend what is not
    Check(check::Check),
    /// Run one command in a VM of its own, without Kubernetes
    Run(run::Run),
    /// List pods and their containers
    Ps(pods::List),
    /// Tell all that is known of a pod or container, as JSON
    Inspect(pods::Inspect),
    /// Print what a container has written
    Logs(pods::Logs),
    /// Print what the kernel of a pod's guest has said
    Console(pods::Console),
    /// Fetch images from their registries
    Pull(images::Pull),
    /// List images, or look for damaged ones
    Images(images::List),
    /// Remove images
    Rmi(images::Remove),
    /// Read images from a directory or an archive
    Import(images::Import),
    /// Remove images that nobody uses, and say what that freed
    Gc(images::Gc),
}

/// Parses, runs, and answers the exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("husk: {e}");
            ExitCode::from(125)
        }
    }
}

fn dispatch(arguments: Arguments) -> Result<ExitCode> {
    let config = Config::load(arguments.config.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        // A thread for work that blocks stays once it is there: where the host lets no more be started, that work waits for
        // one, and would end in a panic without any.
        .thread_keep_alive(FOR_GOOD)
        .max_blocking_threads(MAX_BLOCKING)
        .build()
        .map_err(|e| {
            let text = format!("cannot start the async runtime: {e}");
            Error::of_host(&text, &e).unwrap_or(Error::Internal(text))
        })?;
    runtime.block_on(async {
        let first = tokio::task::spawn_blocking(|| ()).await;
        first.map_err(|e| Error::Internal(format!("the first thread: {e}")))?;
        // Only what the daemon does is traced.
        let serves = matches!(arguments.command, Command::Serve(_));
        let traces = if serves { Traces::start(&config.tracing)? } else { None };
        let filter = arguments.log.as_deref().unwrap_or(if serves { "info" } else { "warn" });
        observe::start(filter, arguments.log_format, traces.as_ref());
        match arguments.command {
            Command::Serve(serve) => {
                let outcome = serve.execute(config).await;
                if let Some(traces) = traces {
                    traces.finish().await;
                }
                outcome
            }
            Command::Check(check) => check.execute(&config),
            Command::Run(run) => run.execute(config).await,
            Command::Ps(list) => list.execute(config).await,
            Command::Inspect(inspect) => inspect.execute(config).await,
            Command::Logs(logs) => logs.execute(config).await,
            Command::Console(console) => console.execute(config).await,
            Command::Pull(pull) => pull.execute(config).await,
            Command::Images(list) => list.execute(config),
            Command::Rmi(remove) => remove.execute(config),
            Command::Import(import) => import.execute(config).await,
            Command::Gc(gc) => gc.execute(config),
        }
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn the_systemd_unit_starts_the_daemon() {
        use clap::Parser;
        let unit = include_str!("../../dist/husk.service");
        let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("ExecStart");
        let parsed = super::Arguments::try_parse_from(line.split_whitespace()).expect(line);
        assert!(matches!(parsed.command, super::Command::Serve(_)), "{line}");
        assert!(line.starts_with("/usr/bin/husk "), "make install puts it elsewhere: {line}");
    }
}
