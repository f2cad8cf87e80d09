//! The VMM's process: one VM, from its description to its end.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use husk_vmm::{fact, log, vm};

const HELP: &str = "\
husk-vmm runs one virtual machine with KVM.

Usage: husk-vmm --config FILE

  --config FILE  the machine's description (JSON)
  --help         this text
  --version      the version

Before it reads anything of the guest's it gives up what it does not need, for good. Started by root, as the first
process of a PID namespace (unshare --pid --fork), it becomes the user and group of the description's \"jail\", without
any capability, in an empty root and namespaces of its own; without \"jail\" root is refused. Started by anybody else,
who needs access to /dev/kvm and leaves \"jail\" out, it keeps its user, root and namespaces. In both cases it closes
descriptors that the description does not name, limits its resources, and can make the system calls alone that its
threads need: any other ends it with SIGSYS. The sockets that it makes are its starter's to remove.

It ends with status 0 when the guest powers off or the machine is stopped by the control socket or SIGTERM;
1 when it cannot start or fails, 2 for a wrong command line, 3 when the guest resets (a reboot or a kernel
panic), 4 when the guest's processor faults beyond help.
";

const FAILED: u8 = 1;
const USAGE: u8 = 2;

enum Command {
    Run(PathBuf),
    Help,
    Version,
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Command> {
    let first = arguments.next()?;
    let command = match first.to_str()? {
        "--config" => Command::Run(arguments.next()?.into()),
        "--help" | "-h" => Command::Help,
        "--version" | "-V" => Command::Version,
        other => Command::Run(other.strip_prefix("--config=")?.into()),
    };
    arguments.next().is_none().then_some(command)
}

fn main() -> ExitCode {
    husk_vmm::use_one_heap();
    let path = match parse(std::env::args_os().skip(1)) {
        Some(Command::Run(path)) => path,
        Some(Command::Help) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Some(Command::Version) => {
            println!("husk-vmm {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        None => {
            eprint!("{HELP}");
            return USAGE.into();
        }
    };
    let config = match vm::load_config(&path) {
        Ok(config) => config,
        Err(error) => {
            fact!("{error}");
            return FAILED.into();
        }
    };
    log::set_name(&config.id);
    match vm::run(&config) {
        Ok(end) => {
            fact!("{end}");
            end.status().into()
        }
        Err(error) => {
            fact!("{error}");
            FAILED.into()
        }
    }
}
