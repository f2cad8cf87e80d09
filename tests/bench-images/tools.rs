//! husk and its peers, each with a store of its own.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use husk_images::{ImageStore, RegistryConfig, Silent};
use husk_tests::{Containerd, Process};

use crate::case::Case;
use crate::measure::{Cost, disk_use, measure};

/// The argument with which this program is husk's own process: `husk-pull STORE REFERENCE...`.
pub const HUSK_PULL: &str = "husk-pull";

/// What pulls and prepares images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// husk's image store in a process of its own, with its workers.
    Husk,
    /// containerd with its overlayfs snapshotter, through ctr.
    Containerd,
    /// skopeo into an OCI layout, from which umoci unpacks.
    SkopeoUmoci,
    /// podman with its overlay driver.
    Podman,
}

/// All of them, husk first.
pub fn all() -> Vec<Tool> {
    vec![Tool::Husk, Tool::Containerd, Tool::SkopeoUmoci, Tool::Podman]
}

impl Tool {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Tool::Husk => "husk",
            Tool::Containerd => "containerd (ctr, overlayfs)",
            Tool::SkopeoUmoci => "skopeo + umoci unpack",
            Tool::Podman => "podman (overlay)",
        }
    }

    /// Pulls and prepares the images into an empty store below `dir`; an error is a reason to leave the tool out.
    pub fn pull(self, case: &Case, dir: &Path) -> Result<Cost, String> {
        let dir = dir.join("store");
        fs::create_dir(&dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        let result = self.measured(case, &dir);
        fs::remove_dir_all(&dir).map_err(|e| format!("cannot remove its store {}: {e}", dir.display()))?;
        result
    }

    fn measured(self, case: &Case, dir: &Path) -> Result<Cost, String> {
        let spent = match self {
            Tool::Husk => measure(|| 0.0, || husk(case, dir))?,
            Tool::SkopeoUmoci => measure(|| 0.0, || skopeo_and_umoci(case, dir))?,
            Tool::Podman => measure(|| 0.0, || podman(case, dir))?,
            Tool::Containerd => {
                let containerd = Containerd::start(dir, None)?;
                let daemon = Process(i32::try_from(containerd.pid()).map_err(|e| e.to_string())?);
                let pull = |reference: &String| {
                    succeed(containerd.ctr().args(["images", "pull", "--plain-http", reference]))
                };
                measure(
                    || daemon.cpu_with_children().as_secs_f64(),
                    || case.references.iter().try_for_each(pull),
                )?
            }
        };
        Ok(Cost { wall: spent.0, cpu: spent.1, disk: disk_use(dir) })
    }
}

fn husk(case: &Case, dir: &Path) -> Result<(), String> {
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    succeed(Command::new(own).arg(HUSK_PULL).arg(dir).args(&case.references))
}

/// Pulls the references one after another into the store.
pub fn husk_pull(store: &Path, references: &[String]) -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("start the async runtime");
    let pulled = runtime.block_on(async {
        let store = ImageStore::open(store, RegistryConfig::default())?;
        for reference in references {
            store.pull(reference, None, &Silent).await?;
        }
        Ok::<_, husk_images::ImageError>(())
    });
    match pulled {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn skopeo_and_umoci(case: &Case, dir: &Path) -> Result<(), String> {
    let layout = dir.join("layout");
    for (number, reference) in case.references.iter().enumerate() {
        let image = format!("{}:{number}", layout.display());
        succeed(
            Command::new("skopeo")
                .args(["copy", "--quiet", "--insecure-policy", "--src-tls-verify=false"])
                .arg(format!("docker://{reference}"))
                .arg(format!("oci:{image}")),
        )?;
        let bundle = dir.join(format!("bundle-{number}"));
        succeed(Command::new("umoci").args(["unpack", "--image", &image]).arg(bundle))?;
    }
    Ok(())
}

fn podman(case: &Case, dir: &Path) -> Result<(), String> {
    case.references.iter().try_for_each(|reference| {
        succeed(
            Command::new("podman")
                .arg("--root")
                .arg(dir.join("root"))
                .arg("--runroot")
                .arg(dir.join("run"))
                .args(["--storage-driver", "overlay", "pull", "--quiet", "--tls-verify=false", reference]),
        )
    })
}

/// Runs a command to its end; the error is the last thing that it said.
pub fn succeed(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.map_err(|e| format!("cannot start {name} ({e}): tests/deps/bench-images installs it"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{name}: {}: {}", output.status, said.lines().last().unwrap_or_default()))
}
