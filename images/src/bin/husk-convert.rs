//! The conversion worker.
fn main() {}
