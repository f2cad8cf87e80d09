//! What a volume of the host costs beside a disk: the same work on a virtiofs share and on the container's own root,
//! which is on the pod's scratch disk, a virtio-blk device.

use husk_proto::cri;
use husk_tests::{Bed, Container, container, pod, step};

use super::samples::Samples;

/// Where the volume is in the container.
const VOLUME: &str = "/volume";

/// A directory of the container's own root.
const ROOT: &str = "/root-disk";

/// One kind of work: its names on the disk and on the volume, and the shell's line for it, which needs no process but
/// what does the work.
struct Work {
    disk: &'static str,
    volume: &'static str,
    line: &'static str,
}

/// In this order, each on what the one before has left. Reads find the guest's cache empty and the host's full.
const WORK: [Work; 5] = [
    Work {
        disk: "write 64 MiB, disk",
        volume: "write 64 MiB, volume",
        line: "dd if=/dev/zero of=big bs=1M count=64 conv=fsync 2>/dev/null",
    },
    Work {
        disk: "read 64 MiB, disk",
        volume: "read 64 MiB, volume",
        line: "dd if=big of=/dev/null bs=1M 2>/dev/null",
    },
    Work {
        disk: "create 500 files, disk",
        volume: "create 500 files, volume",
        line: "mkdir many; i=0; while [ $i -lt 500 ]; do echo x >many/$i; i=$((i+1)); done",
    },
    Work {
        disk: "stat 500 files, disk",
        volume: "stat 500 files, volume",
        line: "i=0; while [ $i -lt 500 ]; do [ -s many/$i ] || exit 1; i=$((i+1)); done",
    },
    Work { disk: "unlink 500 files, disk", volume: "unlink 500 files, volume", line: "rm -r many" },
];

/// How long one piece of work may take, seconds.
const LIMIT: i64 = 120;

/// A table of the rounds' medians, each on the volume beside that on the disk.
pub async fn report(bed: &Bed, rounds: usize) -> String {
    step("volumes");
    let host = bed.scratch("volume");
    let share = cri::Mount {
        host_path: host.display().to_string(),
        container_path: VOLUME.into(),
        ..Default::default()
    };
    let pod = bed.pod(pod("volumes")).await;
    let mut config = cri::ContainerConfig { mounts: vec![share], ..container("volumes", "sleep 3600") };
    // Who may drop the guest's caches.
    config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    let worker = pod.start(config).await;
    worker.exec(&format!("mkdir {ROOT}")).await;
    let mut samples = Samples::default();
    // As with pods, the first round is not counted.
    for round in 0..=rounds {
        step(format!("volumes, round {round} of {rounds}"));
        for Work { disk, volume, line } in &WORK {
            for (name, place) in [(disk, ROOT), (volume, VOLUME)] {
                step(name);
                let took = timed(&worker, place, line).await;
                if round > 0 {
                    samples.add(name, took);
                }
            }
        }
    }
    pod.stop().await;
    pod.remove().await;
    samples.table(|name| WORK.iter().find(|work| work.volume == name).map_or(name, |work| work.disk))
}

/// Milliseconds that the line takes in a directory, by the guest's clock, with caches that were emptied before.
async fn timed(worker: &Container, place: &str, line: &str) -> f64 {
    run(worker, "sync; echo 3 >/proc/sys/vm/drop_caches").await;
    let clocked = format!(
        "cd {place} && read a b </proc/uptime && {{ {line}; }} && read c d </proc/uptime && echo $a $c"
    );
    let text = run(worker, &clocked).await;
    let times: Vec<f64> = text.split_whitespace().filter_map(|seconds| seconds.parse().ok()).collect();
    let [begun, ended] = times[..] else { panic!("{line} told no times: {text:?}") };
    (ended - begun) * 1000.0
}

async fn run(worker: &Container, line: &str) -> String {
    let answer = worker.try_exec(&["sh", "-c", line], LIMIT).await.expect("ExecSync");
    assert_eq!(answer.exit_code, 0, "{line} failed: {}", String::from_utf8_lossy(&answer.stderr));
    String::from_utf8_lossy(&answer.stdout).into_owned()
}
