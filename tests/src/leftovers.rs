//! What pods leave behind on the host: nothing, or a test fails.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::{BRIDGE, Cni, Daemon, sh};

/// The kernel frees namespaces, and the links in them, a little after their last user is gone.
const SETTLE: Duration = Duration::from_secs(5);

/// The host as it was before the first pod.
#[derive(Debug)]
pub struct Leftovers {
    links: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    rules: BTreeSet<String>,
    dir: PathBuf,
    run: PathBuf,
    root: PathBuf,
    cni: Cni,
    told: Mutex<BTreeSet<String>>,
}

impl Leftovers {
    /// Notes what is there. `dir` holds all files of the daemon; no process may name it afterwards.
    pub fn note(dir: &Path, daemon: &Daemon, cni: &Cni) -> Leftovers {
        Leftovers {
            links: links(),
            cgroups: cgroups(),
            rules: firewall(),
            dir: dir.to_owned(),
            run: daemon.run.clone(),
            root: daemon.root.clone(),
            cni: cni.clone(),
            told: Mutex::default(),
        }
    }

    /// Checks that nothing has been added, apart from `allowed` processes (by number). What was found is told
    /// once, so that one fault does not fail every later check.
    pub fn check(&self, allowed: &[u32]) -> Result<(), String> {
        let begun = Instant::now();
        let mut told = self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        loop {
            let mut found = self.find(allowed);
            found.retain(|thing| !told.contains(thing));
            if found.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > SETTLE {
                let text = format!("left behind:\n  {}", found.join("\n  "));
                told.extend(found);
                return Err(text);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn find(&self, allowed: &[u32]) -> Vec<String> {
        // A template may be in the making; what is left of one that is not has no directory.
        let templates = names(&self.run.join("templates"));
        let in_making = |text: &str| templates.iter().any(|name| text.contains(name.as_str()));
        let mut found = Vec::new();
        let mut add = |kind: &str, names: Vec<String>| {
            found.extend(names.into_iter().map(|name| format!("{kind} {name}")));
        };
        add(
            "process",
            self.processes(allowed)
                .into_iter()
                .map(|(pid, text)| format!("{pid}: {text}"))
                .filter(|text| !in_making(text))
                .collect(),
        );
        add("link", links().difference(&self.links).filter(|name| *name != BRIDGE).cloned().collect());
        // The parent of pods that name none stays, and so does the cgroup of conversion workers.
        let added = cgroups().difference(&self.cgroups).cloned().collect::<Vec<_>>();
        add(
            "cgroup",
            added
                .into_iter()
                .filter(|path| !path.ends_with("/husk") && !path.ends_with("/husk-convert"))
                .filter(|path| !in_making(path))
                .collect(),
        );
        add("mount", self.mounts());
        add("address", self.cni.allocated());
        add("firewall rule", firewall().difference(&self.rules).cloned().collect());
        for dir in
            [self.run.join("pods"), self.run.join("netns"), self.root.join("scratch"), self.root.join("cni")]
        {
            add("file", names(&dir).into_iter().map(|name| dir.join(name).display().to_string()).collect());
        }
        found
    }

    /// Processes that name a file of the tests' daemon, and children of the allowed ones: zombies too.
    pub fn processes(&self, allowed: &[u32]) -> Vec<(u32, String)> {
        let dir = self.dir.display().to_string();
        let own = std::process::id();
        let mut found = Vec::new();
        for name in names(Path::new("/proc")) {
            let Ok(pid) = name.parse::<u32>() else { continue };
            if pid == own || allowed.contains(&pid) {
                continue;
            }
            let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let cmdline = String::from_utf8_lossy(&cmdline).replace('\0', " ");
            let parent = parent(pid);
            if cmdline.contains(&dir) || parent.is_some_and(|parent| allowed.contains(&parent)) {
                found.push((pid, format!("{cmdline:?}, a child of {parent:?}")));
            }
        }
        found
    }

    /// Mount points below the tests' directory.
    pub fn mounts(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        points.filter(|point| Path::new(point).starts_with(&self.dir)).map(str::to_owned).collect()
    }
}

/// Field 4 of /proc/PID/stat.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn links() -> BTreeSet<String> {
    names(Path::new("/sys/class/net")).into_iter().collect()
}

fn cgroups() -> BTreeSet<String> {
    let found = sh("find /sys/fs/cgroup -type d 2>/dev/null || true");
    found.lines().map(str::to_owned).collect()
}

/// The rules that CNI's plugins make for one pod carry its id in a comment; their shared chains stay.
fn firewall() -> BTreeSet<String> {
    let rules = sh("iptables-save; ip6tables-save");
    rules
        .lines()
        .filter(|rule| rule.contains("id: ") || rule.contains("CNI-DN-"))
        .map(str::to_owned)
        .collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
