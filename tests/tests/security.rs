//! Every claim of SECURITY.md names a test, and every test that it names is there.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// What the page's short names of directories mean.
const DIRECTORIES: [(&str, &str); 3] =
    [("e2e/", "tests/tests/e2e/"), ("boot/", "runtime/vmm/tests/boot/"), ("images/", "images/tests/images/")];
/// The section of claims.
const CLAIMS: &str = "## What holds";

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is below the checkout")
}

fn page() -> String {
    fs::read_to_string(checkout().join("SECURITY.md")).expect("read SECURITY.md")
}

/// The file that a short name or a path means.
fn file(name: &str) -> PathBuf {
    let short = DIRECTORIES.iter().find_map(|(short, long)| Some((name.strip_prefix(short)?, long)));
    let long = short.map(|(rest, long)| checkout().join(long).join(rest));
    // The directory `images` has a crate's sources as well.
    long.filter(|path| path.is_file()).unwrap_or_else(|| checkout().join(name))
}

/// What stands in backquotes and names a source file.
fn references(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|quoted| quoted.ends_with(".rs") || quoted.contains(".rs::")).collect()
}

#[test]
fn every_test_that_is_named_is_there() {
    let page = page();
    let named = references(&page);
    assert!(named.len() > 40, "{named:?}");
    for reference in named {
        let (path, test) = reference.split_once("::").unwrap_or((reference, ""));
        let source = fs::read_to_string(file(path)).unwrap_or_else(|e| panic!("{reference}: {e}"));
        let there = match test {
            "" => source.contains("fuzz_target!"),
            test => source.contains(&format!("fn {test}(")),
        };
        assert!(there, "{reference} is not in {}", file(path).display());
        let all =
            fs::read_to_string(checkout().join("tests/tests/e2e/main.rs")).expect("read the list of tests");
        let listed =
            |test: &str| all.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == test);
        assert!(!path.starts_with("e2e/") || listed(test), "{reference} is not run");
    }
}

#[test]
fn every_claim_names_a_test() {
    let page = page();
    let (_, claims) = page.split_once(CLAIMS).expect("the page has claims");
    let claims = claims.split("\n## ").next().unwrap_or_default();
    let rows = claims.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    // A table's head stands above its line.
    let heads: Vec<&str> = claims
        .lines()
        .zip(claims.lines().skip(1))
        .filter_map(|(head, line)| line.starts_with("| ---").then_some(head))
        .collect();
    let rows: Vec<&str> = rows.filter(|row| !heads.contains(row)).collect();
    assert!(rows.len() > 20, "{rows:?}");
    for row in rows {
        assert!(!references(row).is_empty(), "no test is named: {row}");
    }
}
