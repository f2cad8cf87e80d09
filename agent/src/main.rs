//! husk-agent: PID 1 of a pod's guest. It runs the pod's containers for the host, to which alone it listens.

#![deny(unsafe_code)]

mod agent;
mod block;
mod boot;
mod cgroup;
mod clock;
mod container;
mod error;
mod fair_server;
mod helper;
mod ids;
mod inroot;
mod late;
mod owner;
mod paths;
mod power;
mod process;
mod reaper;
mod rpc;
mod sandbox;
#[allow(unsafe_code)]
mod sys;
mod trash;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The kernel gives its init the words of the command line that it does not know itself.
    if std::process::id() == 1 {
        init();
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["--version"] => {
            println!("husk-agent {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        [command @ (helper::CREATE | helper::EXEC | helper::HOLD), task] => {
            ExitCode::from(helper::run(command, task))
        }
        _ => {
            eprintln!(
                "husk-agent is PID 1 of a husk guest and does nothing elsewhere; guest-kernel/initramfs puts it \
                 into the guest's initramfs as /init"
            );
            ExitCode::from(2)
        }
    }
}

fn init() -> ! {
    let begun = clock::since_start();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        // The console is a serial line: each byte costs an exit of the VM.
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    if let Err(error) = boot::prepare().and_then(|()| serve(begun)) {
        eprintln!("husk-agent: fatal: {error}");
    }
    power::off()
}

fn serve(begun: std::time::Duration) -> error::Result<()> {
    use error::Context;
    // One thread: the agent forks, and its work is small.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context(|| "starting the runtime")?;
    runtime.block_on(rpc::serve(begun))
}
