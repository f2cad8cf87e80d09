//! Layers that use what archives of images can hold.

use std::io::Write;

use tar::{Builder, EntryType, Header};

/// Archives of one image, lowest first. Every layer has headers for the directories it changes, as builders
/// write them, so that their times are defined.
pub fn layers() -> Vec<Vec<u8>> {
    vec![base(), changes(), more_changes()]
}

struct Layer(Builder<Vec<u8>>);

fn header(kind: EntryType, mode: u32, mtime: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(mtime);
    header.set_size(0);
    header
}

impl Layer {
    fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    fn add(&mut self, mut header: Header, name: &str, content: &[u8]) {
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, name, content).unwrap();
    }

    fn dir(&mut self, name: &str, mode: u32) {
        self.add(header(EntryType::Directory, mode, 1_000_000_000), name, b"");
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.add(header(EntryType::Regular, 0o644, 1_234_567_890), name, content);
    }

    fn link(&mut self, kind: EntryType, name: &str, target: &str) {
        self.0.append_link(&mut header(kind, 0o777, 1_111_111_111), name, target).unwrap();
    }

    fn device(&mut self, kind: EntryType, name: &str, major: u32, minor: u32) {
        let mut header = header(kind, 0o660, 5);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        header.set_gid(6);
        self.add(header, name, b"");
    }

    fn attributes(&mut self, records: &[(&str, &[u8])]) {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// Bytes that do not compress and are the same each time.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.write_all(&state.to_le_bytes()).unwrap();
    }
    bytes.truncate(length);
    bytes
}

/// `struct vfs_cap_data` with CAP_NET_BIND_SERVICE, permitted and effective.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// `struct posix_acl_xattr_header` and its entries: user::rw-, user:1234:rw-, group::r--, mask::rw-, other::r--.
const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 6, 0, 0xd2, 4, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
    16, 0, 6, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];

fn base() -> Vec<u8> {
    let mut layer = Layer::new();
    layer.dir("./", 0o755);
    layer.dir("bin/", 0o755);
    layer.add(header(EntryType::Regular, 0o4755, 1_500_000_000), "bin/su", b"#!/bin/sh\n");
    layer.link(EntryType::Link, "bin/su2", "bin/su");
    layer.link(EntryType::Link, "bin/su3", "bin/su2");
    layer.dir("sbin/", 0o755);
    layer.link(EntryType::Link, "sbin/su-elsewhere", "bin/su3");
    layer.file("bin/old", b"old");
    layer.link(EntryType::Symlink, "bin/sh", "su");
    layer.link(EntryType::Symlink, "absolute", "/bin/su");
    layer.link(EntryType::Symlink, "dangling", &"../no/such/".repeat(80));
    layer.dir("tmp/", 0o1777);
    layer.dir("etc/", 0o2750);
    let mut owned = header(EntryType::Regular, 0o400, 0);
    owned.set_uid(123_456);
    owned.set_gid(4_294_967_294);
    layer.add(owned, "etc/shadow", b"root:*:\n");
    layer.attributes(&[("mtime", b"1600000000.123456789")]);
    layer.file("etc/precise", b"nanoseconds");
    layer.attributes(&[("SCHILY.xattr.user.note", b"a value"), ("SCHILY.xattr.user.empty", b"")]);
    layer.file("etc/attributed", b"attributed");
    layer.attributes(&[("SCHILY.xattr.security.capability", &CAPABILITY)]);
    layer.add(header(EntryType::Regular, 0o755, 1), "bin/ping", b"ping");
    layer.attributes(&[("SCHILY.xattr.system.posix_acl_access", &ACL)]);
    layer.add(header(EntryType::Regular, 0o664, 1), "etc/listed", b"for one more user");
    layer.attributes(&[("SCHILY.xattr.user.large", &[b'v'; 3000])]);
    layer.dir("attributed/", 0o700);
    layer.file("attributed/file", b"x");
    layer.dir("dev/", 0o755);
    layer.device(EntryType::Char, "dev/null", 1, 3);
    layer.device(EntryType::Block, "dev/vda", 254, 300_000);
    layer.add(header(EntryType::Fifo, 0o600, 9), "dev/pipe", b"");
    layer.dir("data/", 0o755);
    layer.file("data/empty", b"");
    layer.file("data/page", &noise(4096));
    layer.file("data/large", &noise(9 << 20));
    let mut sparse = vec![0; 24 << 20];
    sparse[..5].copy_from_slice(b"begin");
    sparse.extend_from_slice(b"end");
    layer.file("data/zeros", &sparse);
    let mut deep = String::new();
    for _ in 0..30 {
        deep += "a-directory-of-some-length/";
        layer.dir(&deep, 0o755);
    }
    layer.file(&format!("{deep}file"), b"deep");
    layer.file(&"n".repeat(255), b"long name");
    layer.file("n\u{e4}me with\nodd \u{1f980} bytes", b"odd");
    layer.dir("many/", 0o755);
    for n in 0..1500 {
        layer.file(&format!("many/{n}-{}", "x".repeat(n % 120)), n.to_string().as_bytes());
    }
    for name in ["opaque/", "opaque/sub/", "becomes-file/", "stays/"] {
        layer.dir(name, 0o755);
    }
    for name in
        ["opaque/a", "opaque/sub/b", "becomes-file/x", "becomes-dir", "becomes-link", "stays/keep", "gone"]
    {
        layer.file(name, name.as_bytes());
    }
    layer.finish()
}

fn changes() -> Vec<u8> {
    let mut layer = Layer::new();
    layer.dir("./", 0o711);
    layer.dir("bin/", 0o755);
    layer.file("bin/.wh.old", b"");
    layer.file(".wh.gone", b"");
    layer.file(".wh.never-was", b"");
    layer.link(EntryType::Link, "bin/linked-across-layers", "bin/su");
    layer.dir("opaque/", 0o700);
    layer.file("opaque/new", b"new");
    layer.file("opaque/.wh..wh..opq", b"");
    layer.file("becomes-file", b"file now");
    layer.dir("becomes-dir/", 0o755);
    layer.file("becomes-dir/x", b"x");
    layer.link(EntryType::Symlink, "becomes-link", "stays/keep");
    layer.dir("stays/", 0o500);
    layer.attributes(&[("SCHILY.xattr.user.note", b"another")]);
    layer.file("etc/attributed", b"replaced");
    layer.dir("etc/", 0o755);
    layer.finish()
}

fn more_changes() -> Vec<u8> {
    let mut layer = Layer::new();
    layer.dir("./", 0o755);
    layer.file("gone", b"back again");
    layer.dir("bin/", 0o755);
    layer.file("bin/su2", b"no link of the others any more");
    layer.dir("many/", 0o755);
    for n in 0..700 {
        layer.file(&format!("many/.wh.{n}-{}", "x".repeat(n % 120)), b"");
    }
    layer.finish()
}
