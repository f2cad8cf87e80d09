//! A daemon's metrics, as Prometheus reads them.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The table of a configuration by which a daemon has them.
pub const SERVED: &str = "[metrics]\naddress = \"127.0.0.1:0\"\n";

/// Series with their labels, as they are written, to values.
pub type Figures = HashMap<String, f64>;

/// Where a daemon that was just started serves its metrics.
pub fn address(log: &str) -> String {
    let line = log.lines().rev().find(|line| line.contains("serving metrics")).expect("it says where");
    let (_, address) = line.split_once("address=").expect("the address");
    address.split_whitespace().next().expect("the address").to_owned()
}

/// What an HTTP server answers to a request, headers included.
pub fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connect to the daemon");
    stream.set_read_timeout(Some(LIMIT)).expect("set a limit");
    write!(stream, "{request} HTTP/1.1\r\nhost: husk.test\r\n\r\n").expect("send a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("read the answer");
    answer
}

/// All series, as text and by name.
pub fn scrape(address: &str) -> (String, Figures) {
    let answer = ask(address, "GET /metrics");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let (_, text) = answer.split_once("\r\n\r\n").expect("headers and a body");
    let series = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
        (name.to_owned(), value.parse().unwrap_or_else(|_| panic!("no number: {line}")))
    });
    (text.to_owned(), series.collect())
}

/// The series that counts a method's calls that ended with a code.
pub fn calls(method: &str, code: &str) -> String {
    format!("husk_cri_calls_total{{method=\"{method}\",code=\"{code}\"}}")
}
