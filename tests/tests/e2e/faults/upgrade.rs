//! Another build of husk comes to the pods of the one before.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use husk_proto::cri;
use husk_tests::{Bed, container, entries, pod, step, wait_for};

const PROGRAMS: [&str; 3] = ["husk", "husk-vmm", "husk-convert"];

/// Its programs are other files, and those of the one before are gone. Pods go on as they were, logs are whole, and its pods
/// are clones of no template of the other's.
pub async fn other_build_takes_over(bed: Arc<Bed>) {
    let dir = bed.scratch("builds");
    let build = |name: &str| -> PathBuf {
        let place = dir.join(name);
        fs::create_dir(&place).expect("make a directory");
        for program in PROGRAMS {
            fs::copy(bed.paths.program(program), place.join(program)).expect("copy a program");
        }
        place
    };
    let vmm_of = |build: &PathBuf| format!("vmm = {:?}", build.join("husk-vmm"));
    let original = format!("vmm = {:?}", bed.paths.program("husk-vmm"));
    let templates = || {
        let builds = bed.daemon.templates().into_iter().filter(|dir| dir.is_dir());
        builds.flat_map(|dir| entries(&dir)).filter(|dir| dir.extension().is_none()).collect::<Vec<_>>()
    };
    let made = || {
        wait_for("a template", Duration::from_secs(120), || async {
            let found = templates();
            (!found.is_empty()).then_some(found)
        })
    };

    let old = build("old");
    bed.daemon.kill_and_configure(&original, &vmm_of(&old));
    bed.daemon.start_build(&old.join("husk")).await;
    let booted = bed.pod(pod("booted")).await;
    assert!(!booted.is_clone().await);
    let its_templates = made().await;
    let cloned = bed.pod(pod("cloned")).await;
    assert!(cloned.is_clone().await, "{}", bed.daemon.log_tail());
    let line = "n=1; while [ ! -e /tmp/end ]; do echo $n; n=$((n + 1)); sleep 0.05; done; exit 6";
    let counter = cloned.start(container("counter", line)).await;
    let waiting = booted.create(container("waiting", "echo started")).await;
    let before =
        (booted.status().await, cloned.status().await, counter.status().await, waiting.status().await);
    let processes = (booted.vmm().await, cloned.vmm().await);

    step("the other build");
    let new = build("new");
    bed.daemon.kill_and_configure(&vmm_of(&old), &vmm_of(&new));
    fs::remove_dir_all(&old).expect("remove the old build");
    bed.daemon.start_build(&new.join("husk")).await;
    let after =
        (booted.status().await, cloned.status().await, counter.status().await, waiting.status().await);
    assert_eq!(after, before);
    assert_eq!((booted.vmm().await, cloned.vmm().await), processes);
    assert_eq!(counter.exec("echo exec").await, "exec\n");
    waiting.start().await.expect("StartContainer");
    waiting.wait_log("started\n").await;
    assert_eq!(booted.output("echo new").await, "new\n");

    step("its own template");
    assert!(its_templates.iter().all(|template| !template.exists()), "{its_templates:?}");
    let first = bed.pod(pod("first")).await;
    assert!(!first.is_clone().await);
    made().await;
    let second = bed.pod(pod("second")).await;
    assert!(second.is_clone().await, "{}", bed.daemon.log_tail());

    counter.let_end().await;
    let status = counter.wait().await;
    assert_eq!((status.state(), status.exit_code), (cri::ContainerState::ContainerExited, 6));
    let numbers: Vec<u64> = counter.text().lines().map(|line| line.parse().expect("a number")).collect();
    let whole: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, whole, "lines were lost or doubled");
    for pod in [booted, cloned, first, second] {
        pod.remove().await;
    }
    bed.check_clean().expect("nothing is left");
    bed.daemon.kill_and_configure(&vmm_of(&new), &original);
    bed.daemon.start().await;
}
