//! Exec, attach and port-forward, with the real crictl, over both transports.

mod attach;
mod exec;
mod idle;
mod ports;
mod urls;

pub use attach::{attached_input, attached_output, attached_terminal};
pub use exec::{commands, half_closed_input, killed_client, large_output, many_at_once, terminal};
pub use idle::idle_streams;
pub use ports::{forwarded_ports, refused_port};
pub use urls::{urls, wrong_requests};

use std::io::Read;
use std::process::Child;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use husk_tests::wait_for;

/// crictl's names of the transports.
const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// A client that runs beside the test, and what it has printed so far. Killed with this value.
struct Client {
    child: Child,
    printed: Arc<Mutex<String>>,
}

impl Client {
    fn watch(mut child: Child) -> Client {
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
        Client { child, printed }
    }

    fn printed(&self) -> String {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has printed a text.
    async fn wait_print(&self, text: &str) {
        let what = format!("{text:?} from the client, which has printed {:?}", self.printed());
        wait_for(&what, Duration::from_secs(90), || async { self.printed().contains(text).then_some(()) })
            .await;
    }

    /// Types.
    fn write(&mut self, text: &str) {
        use std::io::Write;
        let stdin = self.child.stdin.as_mut().expect("standard input is a pipe");
        stdin.write_all(text.as_bytes()).and_then(|()| stdin.flush()).expect("write to the client");
    }

    /// Waits for its end; answers its exit code.
    async fn wait(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let ended = std::sync::Mutex::new(child);
        wait_for("the client's end", Duration::from_secs(90), || async {
            let mut child = ended.lock().unwrap_or_else(PoisonError::into_inner);
            child.try_wait().expect("wait for the client").map(|status| status.code())
        })
        .await
    }

    /// SIGKILL.
    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.kill();
    }
}
