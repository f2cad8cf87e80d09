//! The client's half of an exec or attach: standard input, and the terminal's sizes.

use std::convert::Infallible;

use super::resize::Sizes;
use super::streams::Input;
use crate::container::ProcessInput;

/// Feeds a process as long as it is polled. `close`: the end of the client's input is the end of the process's.
pub async fn feed(
    process: &ProcessInput,
    stdin: &mut Option<Input>,
    resize: &mut Option<Input>,
    close: bool,
) -> Infallible {
    let writing = async {
        if let Some(stdin) = stdin {
            write(process, stdin).await;
            if close {
                process.close().await;
            }
        }
    };
    let resizing = async {
        if let Some(sizes) = resize {
            follow_sizes(process, sizes).await;
        }
    };
    tokio::join!(writing, resizing);
    std::future::pending().await
}

async fn write(process: &ProcessInput, stdin: &mut Input) {
    while let Some(data) = stdin.read().await {
        if let Err(e) = process.write(&data).await {
            // The process has closed its input or has none: what follows has no reader.
            tracing::debug!("standard input: {e}");
            return stdin.discard().await;
        }
    }
}

async fn follow_sizes(process: &ProcessInput, input: &mut Input) {
    let mut sizes = Sizes::default();
    while let Some(data) = input.read().await {
        match sizes.push(&data) {
            Ok(Some(size)) => {
                if let Err(e) = process.resize(size).await {
                    tracing::debug!("the terminal's size: {e}");
                }
            }
            Ok(None) => {}
            Err(e) => {
                tracing::debug!("{e}");
                return input.discard().await;
            }
        }
    }
}
