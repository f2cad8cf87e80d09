//! `husk ps`, `inspect`, `logs` and `console`, as somebody who looks at a node uses them.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use husk_tests::{Bed, container, pod, step};
use serde_json::Value;

use super::command_line::{stderr, stdout};

/// What `husk` exits with when it is itself that cannot.
const REFUSED: Option<i32> = Some(125);

fn command(bed: &Bed, args: &[&str]) -> Command {
    let mut command = Command::new(bed.paths.program("husk"));
    command.arg("--config").arg(&bed.daemon.config).args(args).stdin(Stdio::null());
    command
}

fn husk(bed: &Bed, args: &[&str]) -> Output {
    command(bed, args).output().expect("start husk")
}

/// What it prints.
fn told(bed: &Bed, args: &[&str]) -> String {
    let output = husk(bed, args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// What it says when it cannot, and nothing else.
fn refused(bed: &Bed, args: &[&str]) -> String {
    let output = husk(bed, args);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (REFUSED, ""), "{args:?}");
    stderr(&output)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// The line of a table that begins so.
fn line<'a>(table: &'a str, begin: &str) -> &'a str {
    let found = table.lines().find(|line| line.starts_with(begin));
    found.unwrap_or_else(|| panic!("no line of {begin:?} in:\n{table}"))
}

/// A pod and its container, by all of their names; the log to its end, each stream to its own.
pub async fn looks_at_a_pod(bed: Arc<Bed>) {
    let pod = bed.pod(pod("operated")).await;
    let script = "echo first; echo oops >&2; printf 'clear\\033[2J\\n'; \
                  until test -e /tmp/end; do sleep 0.1; done; head -c 40000 /dev/zero | tr '\\0' x; echo; exit 7";
    let config = container("speaker", script);
    let name = config.metadata.clone().unwrap_or_default().name;
    let inside = pod.start(config).await;
    let pod_name = pod.config.metadata.clone().unwrap_or_default().name;
    inside.wait_log("clear").await;
    let vmm = pod.vmm().await;

    step("ps");
    let table = told(&bed, &["ps"]);
    let of_pod = line(&table, &pod_name);
    for part in [" test ", &pod.id[..12], " ready ", " husk ", &vmm.to_string()] {
        assert!(of_pod.contains(part), "{part:?} in {table}");
    }
    let of_container = line(&table, &format!("  {name} "));
    for part in [&inside.id[..12], " running ", husk_tests::BUSYBOX] {
        assert!(of_container.contains(part), "{part:?} in {table}");
    }
    let pods = json(&told(&bed, &["ps", "--json"]));
    let listed = pods.as_array().and_then(|pods| pods.iter().find(|listed| listed["id"] == *pod.id));
    let listed = listed.expect("the pod is in the list");
    assert_eq!((&listed["info"]["pid"], &listed["state"]), (&vmm.into(), &"ready".into()), "{listed}");
    assert_eq!(listed["containers"][0]["name"], *name, "{listed}");

    step("inspect");
    let whole_name = format!("test/{pod_name}");
    for called in [&pod_name, &whole_name, &pod.id, &pod.id[..12]] {
        let told = json(&told(&bed, &["inspect", called]));
        assert_eq!((&told["kind"], &told["id"]), (&"pod".into(), &pod.id.as_str().into()), "{called}");
        let info = &told["info"];
        assert!(info["cloned"].is_boolean() && info["machineId"].is_string(), "{info}");
        assert!(info["cgroup"].as_str().is_some_and(|path| path.contains(&pod.id)), "{info}");
    }
    for called in [&format!("{pod_name}/{name}"), &inside.id, &inside.id[..12]] {
        let told = json(&told(&bed, &["inspect", called]));
        assert_eq!(
            (&told["kind"], &told["id"]),
            (&"container".into(), &inside.id.as_str().into()),
            "{called}"
        );
        assert_eq!(
            (&told["info"]["sandboxId"], &told["state"]),
            (&pod.id.as_str().into(), &"running".into())
        );
    }

    step("logs");
    let output = husk(&bed, &["logs", &name]);
    assert_eq!(
        (stdout(&output).as_str(), stderr(&output).as_str()),
        ("first\nclear\u{1b}[2J\n", "oops\n"),
        "through a pipe it comes as it is"
    );
    assert_eq!(told(&bed, &["logs", "--tail", "1", &inside.id]), "clear\u{1b}[2J\n");
    let mut follow = command(&bed, &["logs", "-f", "--tail", "0", &inside.id[..12]]);
    let followed = follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start husk");

    step("console");
    let output = husk(&bed, &["console", &pod_name]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!output.stdout.is_empty() || stderr(&output).contains("empty"), "{}", stderr(&output));
    let mut follow = command(&bed, &["console", "-f", &pod.id]);
    let console = follow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start husk");

    step("its end");
    inside.let_end().await;
    let output = followed.wait_with_output().expect("wait for husk logs");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
    assert_eq!(stdout(&output), format!("{}\n", "x".repeat(40_000)));
    assert!(line(&told(&bed, &["ps"]), &format!("  {name} ")).contains("exited (7) Error"));
    pod.stop().await;
    let output = console.wait_with_output().expect("wait for husk console");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(line(&told(&bed, &["ps"]), &pod_name).contains(" not ready "));
    let gone = refused(&bed, &["console", &pod_name]);
    assert!(gone.contains(&pod.id) && gone.contains("husk inspect"), "{gone}");
}

/// What is not there, what may be one thing or another, and a daemon that is away.
pub async fn says_what_is_not_there(bed: Arc<Bed>) {
    let first = bed.pod(pod("twin")).await;
    let mut config = first.config.clone();
    let metadata = config.metadata.get_or_insert_default();
    (metadata.namespace, metadata.uid) = ("other".into(), "uid-other".into());
    let name = metadata.name.clone();
    let second = bed.pod(config).await;

    step("unknown and ambiguous");
    for command in ["inspect", "logs", "console"] {
        let text = refused(&bed, &[command, "no-such-thing"]);
        assert!(text.contains("no-such-thing") && text.contains("husk ps"), "{text}");
        refused(&bed, &[command, ""]);
        refused(&bed, &[command, "../../etc"]);
    }
    for command in ["inspect", "console"] {
        let text = refused(&bed, &[command, &name]);
        for part in [&first.id[..12], &second.id[..12], &format!("test/{name}"), &format!("other/{name}")] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }
    let told_of = json(&told(&bed, &["inspect", &format!("other/{name}")]));
    assert_eq!(told_of["id"], *second.id);

    step("another socket, and nobody behind it");
    let text = refused(&bed, &["ps", "--socket", "/no/such/husk.sock"]);
    assert!(text.contains("/no/such/husk.sock") && text.contains("--config"), "{text}");
    bed.daemon.kill();
    let socket = bed.daemon.endpoint();
    let socket = socket.strip_prefix("unix://").expect("a unix socket");
    for args in [&["ps"][..], &["inspect", &name], &["logs", &name], &["console", &name]] {
        let text = refused(&bed, args);
        assert!(text.contains(socket) && text.contains("husk serve"), "{text}");
    }
    let output = husk(&bed, &["console", &first.id[..12]]);
    assert_eq!(output.status.code(), Some(0), "without a daemon: {}", stderr(&output));
    bed.daemon.start().await;
    assert!(line(&told(&bed, &["ps"]), &name).contains(" ready "));
}
