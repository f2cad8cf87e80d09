//! Exec.

use std::sync::Arc;
use std::time::Duration;

use husk_tests::{Bed, Container, Watched, container, pod, step, wait_for};
use sha2::{Digest, Sha256};

use super::TRANSPORTS;

async fn sleeper(bed: &Bed) -> Container {
    bed.pod(pod("streaming")).await.start(container("sleeper", "sleep 3600")).await
}

/// Streams apart, exit codes, commands that are not there.
pub async fn commands(bed: Arc<Bed>) {
    let container = sleeper(&bed).await;
    let crictl = bed.crictl();
    for transport in TRANSPORTS {
        step(format!("exec over {transport}"));
        let exec =
            |line: &str| crictl.output(&["exec", "--transport", transport, &container.id, "sh", "-c", line]);
        let output = exec("echo out; echo err >&2; hostname >/dev/null");
        assert!(output.status.success(), "{output:?}");
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        let output = exec("echo before; exit 42");
        assert!(!output.status.success());
        assert_eq!(output.stdout, b"before\n");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("exit code 42"), "{told}");
        let output = crictl.output(&["exec", "--transport", transport, &container.id, "no-such-command"]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains("no-such-command"), "{told}");
    }
}

/// More than all buffers on the way hold.
pub async fn large_output(bed: Arc<Bed>) {
    let container = sleeper(&bed).await;
    container.exec("dd if=/dev/urandom of=/data bs=64k count=80 2>/dev/null").await;
    let told = container.exec("sha256sum /data").await;
    for transport in TRANSPORTS {
        step(format!("five megabytes over {transport}"));
        let output = bed.crictl().output(&["exec", "--transport", transport, &container.id, "cat", "/data"]);
        let hash: String = Sha256::digest(&output.stdout).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(told.split(' ').next(), Some(&hash[..]), "{} bytes came", output.stdout.len());
    }
}

/// The input's end reaches the command while its output goes on; a slow reader gets all of it.
pub async fn half_closed_input(bed: Arc<Bed>) {
    let container = sleeper(&bed).await;
    let input: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 251) as u8).collect();
    let hash: String = Sha256::digest(&input).iter().map(|byte| format!("{byte:02x}")).collect();
    for transport in TRANSPORTS {
        step(format!("two megabytes of input over {transport}"));
        let line = "sleep 1; sha256sum; sleep 1; echo after";
        let args = ["exec", "-i", "--transport", transport, &container.id, "sh", "-c", line];
        let output = bed.crictl().output_of(&args, &input);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{hash}  -\nafter\n"));
        step("a command that reads none of it");
        let args = ["exec", "-i", "--transport", transport, &container.id, "echo", "deaf"];
        assert_eq!(bed.crictl().output_of(&args, &input).stdout, b"deaf\n");
    }
}

/// A terminal: its size from the beginning and when it changes, input by lines, one output, the exit code.
pub async fn terminal(bed: Arc<Bed>) {
    let container = sleeper(&bed).await;
    let trigger = bed.scratch("terminal").join("resize");
    for transport in TRANSPORTS {
        step(format!("a terminal over {transport}"));
        let _ = std::fs::remove_file(&trigger);
        let local = format!(
            "stty rows 40 cols 100; (while [ ! -e {} ]; do sleep 0.2; done; stty rows 45 cols 123 </dev/tty) & exec \"$@\"",
            trigger.display()
        );
        let inside = "until [ \"$(stty size)\" = '40 100' ]; do sleep 0.2; done; echo fir''st; tty; \
                      until [ \"$(stty size)\" = '45 123' ]; do sleep 0.2; done; echo sec''ond; \
                      read line; echo \"<$line>\" >&2; exit 7";
        let args = ["exec", "-it", "--transport", transport, &container.id, "sh", "-c", inside];
        let mut client = Watched::watch(bed.crictl().on_terminal(&local, &args));
        client.wait_print("first").await;
        client.wait_print("/dev/pts/").await;
        std::fs::write(&trigger, "").expect("ask for the other size");
        client.wait_print("second").await;
        client.write("typed\r");
        client.wait_print("<typed>").await;
        assert_ne!(client.wait().await, Some(0));
        assert!(client.printed().contains("exit code 7"), "{}", client.printed());
    }
}

/// Commands beside each other.
pub async fn many_at_once(bed: Arc<Bed>) {
    let container = sleeper(&bed).await;
    let clients: Vec<_> = (0..8)
        .map(|n| {
            let (crictl, id) = (bed.crictl(), container.id.clone());
            std::thread::spawn(move || {
                let line = format!("cat; echo {n}; exit {n}");
                let args = ["exec", "-i", "--transport", TRANSPORTS[n % 2], &id, "sh", "-c", &line];
                (n, crictl.output_of(&args, format!("input of {n}\n").as_bytes()))
            })
        })
        .collect();
    for client in clients {
        let (n, output) = client.join().expect("the client's thread");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("input of {n}\n{n}\n"));
        assert_eq!(output.status.success(), n == 0, "{output:?}");
    }
}

/// A client that is killed takes its command along, and not the container; also when the command does not read, so
/// that the client's connection is not read either.
pub async fn killed_client(bed: Arc<Bed>) {
    let container = sleeper(&bed).await;
    let killed = async |transport: &str, seconds: &str, flood: bool| {
        let command = format!("sleep {seconds}");
        let args = ["exec", "-i", "--transport", transport, &container.id, "sleep", seconds];
        let mut child = bed.crictl().spawn(&args);
        let stdin = child.stdin.take();
        let flooding = flood.then(|| {
            let mut stdin = stdin.expect("standard input is a pipe");
            std::thread::spawn(move || std::io::copy(&mut std::io::repeat(b'x'), &mut stdin))
        });
        let mut client = Watched::watch(child);
        wait_for("the command", Duration::from_secs(60), || async {
            container.exec("ps").await.contains(&command).then_some(())
        })
        .await;
        if flood {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        client.kill();
        wait_for("the command's end", Duration::from_secs(90), || async {
            (!container.exec("ps").await.contains(&command)).then_some(())
        })
        .await;
        if let Some(flooding) = flooding {
            let _ = flooding.join();
        }
    };
    for transport in TRANSPORTS {
        step(format!("a killed client over {transport}, idle"));
        killed(transport, "4321", false).await;
    }
    // Side by side: the daemon, which is not reading then, hears of such an end when it sends its next ping.
    step("killed clients over either, in full flood");
    let [one, other] = TRANSPORTS;
    tokio::join!(killed(one, "4322", true), killed(other, "4323", true));
    assert!(container.exec("ps").await.contains("sleep 3600"), "the container's own process is gone");
}
