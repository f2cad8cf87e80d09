//! What an idle pod costs its host.

use std::fs;
use std::time::Duration;

use husk_tests::{Bed, container, pod, step};

/// How long an idle pod is watched.
const WATCHED: Duration = Duration::from_secs(10);

/// Memory in kB of one process.
#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    rss: u64,
    pss: u64,
}

/// A text with the VMM's memory apart from the guest's, and the processor time that an idle pod takes.
pub async fn report(bed: &Bed) -> String {
    step("an idle pod");
    let pod = bed.pod(pod("idle")).await;
    pod.start(container("idle", "sleep 3600")).await;
    let vmm = pod.vmm().await;
    let daemon = i32::try_from(bed.daemon.pid()).expect("a process id");
    // Past the guest's own settling after its boot.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = (cpu_ticks(vmm), cpu_ticks(daemon));
    tokio::time::sleep(WATCHED).await;
    let after = (cpu_ticks(vmm), cpu_ticks(daemon));
    let (own, guest) = memory(vmm);
    pod.stop().await;
    pod.remove().await;
    // USER_HZ is 100 on all of Linux' platforms that husk has: 10 ms a tick.
    let per_second = |ticks: u64| ticks as f64 * 10.0 / WATCHED.as_secs_f64();
    format!(
        "an idle pod with one container\n\
         VMM without guest memory   {:>7.1} MB RSS {:>7.1} MB PSS\n\
         guest memory, touched      {:>7.1} MB RSS\n\
         CPU of the VMM             {:>7.2} ms a second\n\
         CPU of the daemon          {:>7.2} ms a second",
        own.rss as f64 / 1024.0,
        own.pss as f64 / 1024.0,
        guest.rss as f64 / 1024.0,
        per_second(after.0 - before.0),
        per_second(after.1 - before.1),
    )
}

/// utime and stime: fields 14 and 15 of /proc/PID/stat (proc(5)).
fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read the process's state");
    let (_, rest) = stat.rsplit_once(')').expect("its name is in parentheses");
    rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// The process's own memory, and that of its largest mapping, which is the guest's.
fn memory(pid: i32) -> (Memory, Memory) {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("read the process's mappings");
    let mut mappings: Vec<(u64, Memory)> = Vec::new();
    for line in smaps.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let Some(kilobytes) = value.trim().strip_suffix(" kB").and_then(|number| number.parse::<u64>().ok())
        else {
            continue;
        };
        match (name, mappings.last_mut()) {
            ("Size", _) => mappings.push((kilobytes, Memory::default())),
            ("Rss", Some((_, memory))) => memory.rss = kilobytes,
            ("Pss", Some((_, memory))) => memory.pss = kilobytes,
            _ => {}
        }
    }
    let largest = (0..mappings.len()).max_by_key(|index| mappings[*index].0).expect("a process has mappings");
    let (_, guest) = mappings.swap_remove(largest);
    let own = mappings.iter().fold(Memory::default(), |sum, (_, memory)| Memory {
        rss: sum.rss + memory.rss,
        pss: sum.pss + memory.pss,
    });
    (own, guest)
}
