//! Attach.

use std::sync::Arc;

use husk_proto::cri;
use husk_tests::{Bed, Watched, container, pod, step};

use super::TRANSPORTS;

/// Output from now on, for several clients, beside a log that has all of it.
pub async fn attached_output(bed: Arc<Bed>) {
    let pod = bed.pod(pod("attach")).await;
    let container = pod
        .start(container(
            "attach",
            "echo early; while [ ! -e /go ]; do sleep 0.2; done; \
             seq 1 20000; echo on stderr >&2; while [ ! -e /end ]; do sleep 0.2; done; exit 3",
        ))
        .await;
    container.wait_log("early").await;
    let crictl = bed.crictl();
    let attach =
        |transport| Watched::watch(crictl.spawn(&["attach", "--transport", transport, &container.id]));
    let mut clients: Vec<Watched> = TRANSPORTS.map(attach).into();
    // One more, which goes away in the middle.
    let mut lost = attach("spdy");
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    lost.kill();
    container.exec("touch /go").await;
    for client in &clients {
        client.wait_print("on stderr").await;
        client.wait_print("\n20000\n").await;
    }
    // Its end may kill the command.
    container.try_exec(&["touch", "/end"], 10).await.expect("ExecSync");
    let expected: String = (1..=20_000).map(|n| format!("{n}\n")).collect();
    for client in &mut clients {
        assert_eq!(client.wait().await, Some(0), "{}", client.printed());
        let printed = client.printed().replace("on stderr\n", "");
        assert!(printed == expected, "{} bytes came", printed.len());
    }
    assert_eq!(container.wait().await.exit_code, 3, "attaching changes nothing");
    assert_eq!(container.stream("stdout"), format!("early\n{expected}").into_bytes());
}

/// Input for whoever is attached; with `stdin_once` for the first alone.
pub async fn attached_input(bed: Arc<Bed>) {
    let pod = bed.pod(pod("attach")).await;
    let script = "while read line; do echo \"got $line\"; done; echo ended";
    for transport in TRANSPORTS {
        step(format!("input that ends with its client, over {transport}"));
        let once = pod
            .start(cri::ContainerConfig { stdin: true, stdin_once: true, ..container("once", script) })
            .await;
        let args = ["attach", "-i", "--transport", transport, &once.id];
        let output = bed.crictl().output_of(&args, b"one\ntwo\n");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "got one\ngot two\nended\n", "{output:?}");
        assert_eq!(once.wait().await.exit_code, 0);
        assert_eq!(once.text(), "got one\ngot two\nended\n");

        step(format!("input that goes on, over {transport}"));
        let many = pod.start(cri::ContainerConfig { stdin: true, ..container("many", script) }).await;
        for text in ["first", "second"] {
            let args = ["attach", "-i", "--transport", transport, &many.id];
            let mut client = Watched::watch(bed.crictl().spawn(&args));
            client.write(&format!("{text}\n"));
            client.wait_print(&format!("got {text}\n")).await;
            client.kill();
        }
        assert_eq!(many.status().await.state(), cri::ContainerState::ContainerRunning);
        assert_eq!(many.text(), "got first\ngot second\n");
    }
}

/// The terminal of a container.
pub async fn attached_terminal(bed: Arc<Bed>) {
    let pod = bed.pod(pod("attach")).await;
    for transport in TRANSPORTS {
        step(format!("a container's terminal over {transport}"));
        let script = "tty; until [ \"$(stty size)\" = '33 77' ]; do sleep 0.2; done; echo siz''ed; \
                      read line; echo \"<$line>\"; sleep 3600";
        let config = cri::ContainerConfig { stdin: true, tty: true, ..container("terminal", script) };
        let container = pod.start(config).await;
        let args = ["attach", "-it", "--transport", transport, &container.id];
        let terminal = "stty rows 33 cols 77; exec \"$@\"";
        let mut client = Watched::watch(bed.crictl().on_terminal(terminal, &args));
        client.wait_print("sized").await;
        client.write("typed\r");
        client.wait_print("<typed>").await;
        client.kill();
        assert_eq!(container.status().await.state(), cri::ContainerState::ContainerRunning);
        container.stop(0).await;
    }
}
