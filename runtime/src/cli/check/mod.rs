//! `husk check`: is this host fit?

mod kernel;
mod programs;
mod storage;

use std::process::ExitCode;

use serde::Serialize;

use super::node;
use crate::cgroup::Cgroups;
use crate::config::{CgroupDriver, Config, VmDefaults};
use crate::error::{Error, Result};
use crate::host;

/// Flags of `husk check`.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Print JSON: a list of `check`, `verdict` ("ok", "hint", "fail") and `text`
    #[arg(long)]
    json: bool,
}

/// What came of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but could be better.
    Hint,
    /// Pods cannot run, or not all of them.
    Fail,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Line {
    check: &'static str,
    verdict: Verdict,
    /// A fact, or a problem with the way out.
    text: String,
}

/// A problem makes the host unfit.
fn needed(check: &'static str, outcome: std::result::Result<String, String>) -> Line {
    line(check, Verdict::Fail, outcome)
}

/// A problem does not.
fn wanted(check: &'static str, outcome: std::result::Result<String, String>) -> Line {
    line(check, Verdict::Hint, outcome)
}

fn line(check: &'static str, problem: Verdict, outcome: std::result::Result<String, String>) -> Line {
    match outcome {
        Ok(text) => Line { check, verdict: Verdict::Ok, text },
        Err(text) => Line { check, verdict: problem, text },
    }
}

impl Check {
    /// Prints a line for each thing that is looked at; the exit code is 1 when one that is needed is not there.
    pub fn execute(&self, config: &Config) -> Result<ExitCode> {
        let lines = lines(config);
        if self.json {
            let text = serde_json::to_string_pretty(&lines).map_err(|e| Error::Internal(e.to_string()))?;
            println!("{text}");
        } else {
            for Line { check, verdict, text } in &lines {
                let mark = match verdict {
                    Verdict::Ok => "ok",
                    Verdict::Hint => "hint",
                    Verdict::Fail => "FAIL",
                };
                println!("{mark:<5} {check:<13} {text}");
            }
        }
        let fit = lines.iter().all(|line| line.verdict != Verdict::Fail);
        Ok(if fit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn lines(config: &Config) -> Vec<Line> {
    let mut lines = vec![
        needed("KVM device", host::kvm_device()),
        needed("KVM hardware", host::kvm_hardware()),
        needed("kernel", kernel::version()),
        needed("tun device", host::exists("/dev/net/tun".as_ref(), "modprobe tun")),
        wanted("cgroups", Cgroups::of_host().describe()),
        needed(
            "converter",
            programs::own(&config.registry.converter, "build it: `make build`, or set registry.converter"),
        ),
        needed("mke2fs", host::program("mke2fs", "install e2fsprogs")),
        needed("virtiofsd", programs::virtiofsd(&config.volumes.virtiofsd)),
    ];
    // Most handlers have the same.
    let of_vm = |vm: &VmDefaults| {
        let [(vmm, program), (kernel, image), (initramfs, archive)] = vm.files();
        [
            needed(vmm, programs::own(program, "build it: `make build`, or set vm.vmm")),
            needed(kernel, host::file(image, "build it: `make kernel`, or set vm.kernel")),
            needed(initramfs, host::file(archive, "build it: `make kernel`, or set vm.initramfs")),
        ]
    };
    for line in config.vms().flat_map(of_vm) {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    match node::network(config).plugins() {
        Ok((source, plugins)) => {
            lines.push(needed("CNI", Ok(source.display().to_string())));
            let plugin = |found: std::result::Result<_, crate::network::NetworkError>| {
                found.map(|path: std::path::PathBuf| path.display().to_string()).map_err(|e| e.to_string())
            };
            lines.extend(plugins.into_iter().map(|found| needed("CNI plugin", plugin(found))));
        }
        Err(e) => lines.push(needed("CNI", Err(e.to_string()))),
    }
    if config.vms().any(|vm| vm.huge_pages) {
        lines.push(wanted("huge pages", kernel::huge_pages()));
    }
    if config.cgroup.driver == CgroupDriver::Systemd {
        lines.push(wanted("systemd", kernel::systemd()));
    }
    lines.extend([
        needed("streaming", programs::streaming(&config.streaming)),
        needed("space", storage::space(&config.root)),
        wanted("sparse files", storage::holes(&config.root)),
        wanted("large pages", kernel::large_pages()),
        wanted("open files", kernel::open_files()),
        wanted("forwarding", kernel::forwarding()),
        wanted("bridge filter", kernel::bridge_filter()),
    ]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_what_is_wanted_is_a_hint() {
        let (good, bad) = (|| Ok("fact".to_owned()), || Err("mend it".to_owned()));
        assert_eq!(needed("x", good()).verdict, Verdict::Ok);
        assert_eq!(needed("x", bad()).verdict, Verdict::Fail);
        let hint = serde_json::to_value(wanted("x", bad())).unwrap();
        assert_eq!(hint, serde_json::json!({"check": "x", "verdict": "hint", "text": "mend it"}));
    }
}
