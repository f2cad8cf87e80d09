//! The output's stream.

use std::time::Duration;

use husk_proto::agent::*;
use tonic::Code;

use crate::pod::{Pod, own, refused};

fn expected(lines: u32) -> String {
    (1..=lines).map(|line| format!("{line}\n")).collect()
}

pub async fn whole(pod: &Pod) {
    const LINES: u32 = 500_000;
    let id = pod.started(&format!("seq 1 {LINES}")).await;
    let begun = std::time::Instant::now();
    let outcome = pod.outcome(&own(&id)).await;
    println!("  {} bytes in {} ms", outcome.stdout.len(), begun.elapsed().as_millis());
    assert!(outcome.stdout == expected(LINES), "all the bytes in their order");
    assert_eq!(outcome.exit.code, 0);
    pod.delete(&id).await;
}

pub async fn goes_on_after_a_break(pod: &Pod) {
    let id = pod.started("seq 1 100000").await;
    let process = own(&id);
    let mut all = Vec::new();
    while all.len() < 200_000 {
        // Each time a new stream, which is dropped in the middle.
        let (acks, mut chunks) = pod.stream(&process, all.len() as u64).await.unwrap();
        for _ in 0..2 {
            let chunk = chunks.message().await.unwrap().unwrap();
            assert_eq!(chunk.offset, all.len() as u64);
            all.extend(chunk.data);
        }
        acks.send(OutputRequest { process: None, offset: all.len() as u64 / 2 }).await.unwrap();
    }
    let (rest, _) = pod.output(&process, all.len() as u64).await;
    all.extend(rest);
    assert!(all == expected(100_000).into_bytes());
    let beyond = pod.stream(&process, all.len() as u64 + 1).await.map(drop);
    refused(beyond, Code::InvalidArgument, "beyond");
    pod.delete(&id).await;
}

/// What nobody reads is not collected without end: the process waits, and nothing is lost.
pub async fn back_pressure(pod: &Pod) {
    let id = pod.started("seq 1 1000000; echo done >/finished; sleep 1000").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let finished = pod.exec_script(&id, "cat /finished").await;
    assert!(finished.stdout.is_empty(), "the process has not been made to wait");
    let (acks, mut chunks) = pod.stream(&own(&id), 0).await.unwrap();
    let mut all = Vec::new();
    let wanted = expected(1_000_000).into_bytes();
    while all.len() < wanted.len() {
        all.extend(chunks.message().await.unwrap().unwrap().data);
        let _ = acks.send(OutputRequest { process: None, offset: all.len() as u64 }).await;
    }
    assert!(all == wanted);
    pod.delete(&id).await;
}

pub async fn one_reader(pod: &Pod) {
    let id = pod.started("echo a; read x; sleep 1000").await;
    let (_first_acks, mut first) = pod.stream(&own(&id), 0).await.unwrap();
    assert_eq!(first.message().await.unwrap().unwrap().data, b"a\n");
    let (_second_acks, mut second) = pod.stream(&own(&id), 0).await.unwrap();
    assert_eq!(first.message().await.unwrap_err().code(), Code::Aborted);
    assert_eq!(second.message().await.unwrap().unwrap().data, b"a\n");
    // The deletion ends the stream.
    pod.delete(&id).await;
    let end = second.message().await.unwrap().unwrap();
    assert!(end.eof);
}
