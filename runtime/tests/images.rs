//! The commands about images, as a person uses them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A node's configuration and directories.
struct Node(TempDir);

impl Node {
    fn new(registry: &str) -> Node {
        let dir = tempfile::tempdir().unwrap();
        let text =
            format!("root = {:?}\nrun = {:?}\n{registry}", dir.path().join("root"), dir.path().join("run"));
        fs::write(dir.path().join("config.toml"), text).unwrap();
        Node(dir)
    }

    fn husk(&self, args: &[&str]) -> Output {
        let mut husk = Command::new(env!("CARGO_BIN_EXE_husk"));
        husk.arg("--config").arg(self.0.path().join("config.toml")).args(args);
        husk.env("DOCKER_CONFIG", self.0.path()).output().unwrap()
    }

    /// Its standard output, if it succeeds.
    fn good(&self, args: &[&str]) -> String {
        let output = self.husk(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Its standard error, if it fails with `code`.
    fn bad(&self, code: i32, args: &[&str]) -> String {
        let output = self.husk(args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        stderr(&output)
    }

    /// Makes an archive as `docker save` does, of an image called `name` with one file.
    fn archive(&self, name: &str, content: &[u8]) -> String {
        let layer = tar(&[("file", content)]);
        let diff_id = format!("sha256:{}", hex(&layer));
        let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#);
        let manifest = format!(r#"[{{"Config":"c.json","RepoTags":["{name}"],"Layers":["l.tar"]}}]"#);
        let members =
            [("c.json", config.as_bytes()), ("l.tar", &layer[..]), ("manifest.json", manifest.as_bytes())];
        let path = self.0.path().join(format!("{}.tar", hex(name.as_bytes())));
        fs::write(&path, tar(&members)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The files called `name` below `dir`.
fn find(dir: &Path, name: &str) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() {
            true => find(&path, name),
            false => vec![path].into_iter().filter(|path| path.ends_with(name)).collect(),
        })
        .collect()
}

#[test]
fn an_image_comes_is_listed_and_goes() {
    let node = Node::new("");
    let id = node.good(&["import", &node.archive("team/app:1", b"content")]);
    let id = id.trim();
    assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    let list = node.good(&["images"]);
    let lines: Vec<&str> = list.lines().collect();
    assert_eq!(lines.len(), 2, "{list}");
    assert!(lines[0].starts_with("NAME ") && lines[1].starts_with("docker.io/team/app:1 "), "{list}");
    assert!(lines[1].contains(&id[7..19]), "{list}");
    // `husk run` has its own.
    assert_eq!(node.good(&["images", "--standalone"]).lines().count(), 1);
    assert_eq!(node.good(&["rmi", "team/app:1"]).trim(), id);
    assert_eq!(node.good(&["images"]).lines().count(), 1);
    assert!(node.bad(125, &["rmi", "team/app:1"]).contains("team/app:1"));
}

#[test]
fn a_name_can_be_given() {
    let node = Node::new("");
    let path = node.archive("team/app:1", b"content");
    node.good(&["import", &path, "--name", "localhost/mine"]);
    assert!(node.good(&["images"]).contains("localhost/mine:latest "));
    let tagged = format!("docker-archive:{path}:team/app:1");
    node.good(&["import", &tagged, "--standalone"]);
    assert!(node.good(&["images", "--standalone"]).contains("docker.io/team/app:1 "));
    assert!(node.bad(125, &["import", "/no/such/path"]).contains("/no/such/path"));
    assert!(node.bad(125, &["import", &path, "--name", "UPPER"]).contains("UPPER"));
}

#[test]
fn damage_is_named_and_mended_by_fetching_again() {
    let node = Node::new("");
    let path = node.archive("team/app:1", &[7; 10_000]);
    node.good(&["import", &path]);
    assert!(node.good(&["images", "--verify"]).contains("0 damaged"));
    let data = find(node.0.path(), "data").pop().unwrap();
    let mut bytes = fs::read(&data).unwrap();
    bytes[5000] ^= 1;
    fs::write(&data, bytes).unwrap();
    let output = node.husk(&["images", "--verify"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains(data.to_str().unwrap()) && text.contains("docker.io/team/app:1 is removed"),
        "{text}"
    );
    node.good(&["import", &path]);
    assert!(node.good(&["images", "--verify"]).contains("0 damaged"));
}

#[test]
fn a_disk_is_an_image_like_any_other() {
    let node = Node::new("");
    let path = |name: &str| node.0.path().join(name).to_str().unwrap().to_owned();
    let (raw, packed) = (path("disk.raw"), path("disk"));
    let mut content = vec![0; 1 << 20];
    content[..5].copy_from_slice(b"start");
    fs::write(&raw, &content).unwrap();
    let converted = Command::new("qemu-img").args(["convert", "-O", "qcow2", &raw, &packed]).status();
    assert!(converted.expect("tests/deps/install installs qemu-img").success());
    let id = node.good(&["import", &packed, "--name", "vm/packed:1"]);
    node.good(&["import", &format!("disk:{raw}"), "--name", "vm/raw:1"]);
    let list = node.good(&["images"]);
    assert!(list.lines().nth(1).is_some_and(|line| line.starts_with("docker.io/vm/packed:1 ")), "{list}");
    assert!(list.lines().skip(1).all(|line| line.ends_with(" disk")), "{list}");
    assert!(list.contains(&id.trim()[7..19]), "{list}");
    // Nothing tells a raw disk.
    assert!(node.bad(125, &["import", &raw]).contains(&raw));
    assert!(node.bad(125, &["import", "disk:/no/such/disk"]).contains("/no/such/disk"));
    assert!(node.bad(125, &["import", &packed, "--name", "UPPER"]).contains("UPPER"));

    assert!(node.good(&["images", "--verify"]).contains("0 damaged"));
    let data = find(node.0.path(), "data").pop().unwrap();
    fs::write(&data, &content[..1 << 19]).unwrap();
    // A part of a disk is none.
    assert_eq!(node.good(&["images"]).lines().count(), 2);
    assert!(node.good(&["gc", "--all"]).contains("1 images, "));
    assert!(find(node.0.path(), "data").is_empty());
}

#[test]
fn gc_says_what_it_frees_and_leaves_what_is_pinned() {
    let node = Node::new("[registry]\npinned = [\"docker.io/team/kept*\"]\n");
    for name in ["team/kept:1", "team/free:1"] {
        node.good(&["import", &node.archive(name, name.as_bytes())]);
    }
    assert!(
        node.good(&["images"]).lines().any(|line| line.contains("team/kept:1") && line.ends_with("pinned"))
    );
    assert!(node.good(&["gc"]).starts_with("0 images"));
    let text = node.good(&["gc", "--all"]);
    assert!(text.contains("removed docker.io/team/free:1\n1 images, ") && !text.contains("kept"), "{text}");
    assert!(node.bad(125, &["rmi", "team/kept:1"]).contains("pinned"));
    node.good(&["rmi", "--force", "team/kept:1"]);
    assert!(find(node.0.path(), "data").is_empty());
}

#[test]
fn pulls_say_why_they_fail() {
    let node = Node::new("");
    let text = node.bad(125, &["pull", "localhost:1/x"]);
    assert!(text.contains("localhost:1") && text.contains("unavailable"), "{text}");
    assert!(node.bad(125, &["pull", "a b"]).contains("a b"));
}

#[test]
fn a_store_in_use_is_named_with_what_to_do() {
    let node = Node::new("");
    let root = node.0.path().join("root/images");
    let _daemon = husk_images::ImageStore::open(&root, Default::default()).unwrap();
    for args in [&["images"][..], &["pull", "x"], &["rmi", "x"], &["gc"], &["import", "x"]] {
        let text = node.bad(125, args);
        assert!(text.contains("husk serve") && text.contains("crictl"), "{text}");
    }
}
