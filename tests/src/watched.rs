//! Programs that run beside a test.

use std::io::{Read, Write};
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::wait_for;

/// A program that runs beside the test, and what it has printed so far. Killed with this value.
#[derive(Debug)]
pub struct Watched {
    child: Child,
    printed: Arc<Mutex<String>>,
}

impl Watched {
    /// Begins to read what it prints.
    pub fn watch(mut child: Child) -> Watched {
        let printed = Arc::new(Mutex::new(String::new()));
        let streams: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
            child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>),
        ];
        for mut stream in streams.into_iter().flatten() {
            let printed = printed.clone();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    printed.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
                }
            });
        }
        Watched { child, printed }
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has printed a text.
    pub async fn wait_print(&self, text: &str) {
        let what = format!("{text:?} from the program, which has printed {:?}", self.printed());
        wait_for(&what, Duration::from_secs(90), || async { self.printed().contains(text).then_some(()) })
            .await;
    }

    /// Types.
    pub fn write(&mut self, text: &str) {
        let stdin = self.child.stdin.as_mut().expect("standard input is a pipe");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("write to the program");
    }

    /// Waits for its end; answers its exit code.
    pub async fn wait(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let ended = Mutex::new(child);
        wait_for("the program's end", Duration::from_secs(90), || async {
            let mut child = ended.lock().unwrap_or_else(PoisonError::into_inner);
            child.try_wait().expect("wait for the program").map(|status| status.code())
        })
        .await
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.kill();
    }
}
