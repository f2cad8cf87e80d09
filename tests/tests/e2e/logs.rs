//! Container logs: nothing lost, nothing doubled, whatever the lines are like.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use husk_tests::{Bed, container, expect_code, pod, step};
use sha2::{Digest, Sha256};
use tonic::Code;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Ten megabytes of lines, and some in one line, by their hashes.
pub async fn ten_megabytes_arrive_whole(bed: Arc<Bed>) {
    let pod = bed.pod(pod("log")).await;
    for (name, blocks, end) in [("lines", 120, ""), ("one line", 30, "| tr -d '\\n'; echo")] {
        step(format!("{blocks} blocks, {name}"));
        let make = format!("dd if=/dev/urandom bs=64k count={blocks} 2>/dev/null | base64 {end}");
        let line =
            format!("({make}) >/tmp/data; wc -c </tmp/data >&2; sha256sum /tmp/data >&2; cat /tmp/data");
        let (container, status) = pod.complete(container("log", &line)).await;
        assert_eq!(status.exit_code, 0);
        let told = String::from_utf8(container.stream("stderr")).expect("text");
        let (length, hash) = told.split_once('\n').expect("a length and a hash");
        let data = container.stream("stdout");
        assert!(data.len() > blocks * 84_000, "{} bytes", data.len());
        assert_eq!(data.len().to_string(), length.trim());
        assert_eq!(sha256(&data), hash.split(' ').next().unwrap_or_default());
        container.remove().await;
    }
}

/// Parts of a long line are marked, an unfinished last line is kept, streams do not mix.
pub async fn long_lines_and_both_streams(bed: Arc<Bed>) {
    let pod = bed.pod(pod("lines")).await;
    let line = "head -c 40000 /dev/zero | tr '\\0' x; echo; echo short >&2; echo; printf unfinished";
    let (container, _) = pod.complete(container("lines", line)).await;
    let lines = container.lines();
    let partial: Vec<bool> = lines.iter().filter(|l| l.text.starts_with(b"xxx")).map(|l| l.partial).collect();
    assert_eq!(partial, [true, true, false], "a line of 40,000 bytes is written in parts of at most 16 KiB");
    assert!(lines.iter().all(|line| line.text.len() <= 16 << 10));
    let expected = [vec![b'x'; 40_000], b"\n\nunfinished\n".to_vec()].concat();
    assert_eq!(container.stream("stdout"), expected);
    assert_eq!(container.stream("stderr"), b"short\n");

    step("bytes that are no text");
    let (container, _) =
        pod.complete(husk_tests::container("bytes", "printf '\\377\\000\\r\\033[0m\\n'")).await;
    assert_eq!(container.stream("stdout"), b"\xff\0\r\x1b[0m\n");
}

/// The log is renamed and reopened while the container writes, as kubelet does.
pub async fn rotation(bed: Arc<Bed>) {
    let pod = bed.pod(pod("rotation")).await;
    let line = "n=1; while [ ! -e /tmp/end ]; do echo $n; n=$((n + 1)); sleep 0.01; done";
    let container = pod.start(container("rotation", line)).await;
    let mut parts = Vec::new();
    for turn in 0..3 {
        container.wait_log("\n").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let rotated = container.log.with_extension(format!("log.{turn}"));
        fs::rename(&container.log, &rotated).expect("rename the log");
        container.reopen_log().await.expect("ReopenContainerLog");
        parts.push(rotated);
    }
    container.wait_log("\n").await;
    container.let_end().await;
    container.wait().await;
    parts.push(container.log.clone());
    let mut numbers = Vec::new();
    for part in &parts {
        let text = fs::read_to_string(part).expect("read a part of the log");
        let of_part: Vec<u64> =
            text.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
        assert!(!of_part.is_empty(), "{} is empty", part.display());
        numbers.extend(of_part);
    }
    let whole: Vec<u64> = (1..=numbers.len() as u64).collect();
    assert_eq!(numbers, whole, "lines were lost or doubled");

    step("after its end there is nothing to reopen");
    expect_code(container.reopen_log().await, &[Code::FailedPrecondition], &[&container.id]);
}

/// Without a log path there is no log, and the container runs all the same.
pub async fn no_log_asked_for(bed: Arc<Bed>) {
    let pod = bed.pod(pod("silent")).await;
    let mut config = container("silent", "dd if=/dev/zero bs=64k count=46 2>/dev/null; exit 4");
    config.log_path = String::new();
    let (container, status) = pod.complete(config).await;
    assert_eq!((status.exit_code, status.log_path.as_str()), (4, ""));
    assert!(container.lines().is_empty());
}
