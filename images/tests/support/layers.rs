//! Layers that use what archives of images can hold.

use std::io::Write;

use tar::{Builder, EntryType, Header};

/// Archives of one image, lowest first. Every layer has headers for the directories it changes, as builders
/// write them, so that their times are defined.
pub fn layers() -> Vec<Vec<u8>> {
    vec![base(), changes(), more_changes()]
}

/// Names that [`layers`] gives one file by links. Their entries state another mode and time than the file's: with
/// containerd the file then has those of the last, with GNU tar and umoci it keeps its own.
pub const LINKED: [&str; 3] = ["bin/su", "bin/su3", "sbin/su-elsewhere"];

/// A layer of what containerd does in a way of its own.
pub fn peculiar() -> Vec<u8> {
    let mut layer = Layer::new();
    // Nothing of this is the root's in the end.
    layer.attributes(&[("SCHILY.xattr.user.note", b"lost")]);
    layer.dir_of("./", 0o711, 7);
    layer.dir("a/", 0o755);
    layer.attributes(&[("SCHILY.xattr.user.kept", b"1"), ("SCHILY.xattr.security.capability", &CAPABILITY)]);
    layer.file("a/capable", b"no more, once it has a link");
    layer.attributes(&[("SCHILY.xattr.security.capability", &CAPABILITY)]);
    layer.file("a/still-capable", b"as the link states it again");
    layer.attributes(&[("SCHILY.xattr.system.posix_acl_access", &ACL)]);
    layer.add(header(EntryType::Regular, 0o664, 1), "a/listed", b"with a mask that the link changes");
    layer.attributes(&[("SCHILY.xattr.system.posix_acl_access", &ACL)]);
    layer.add(
        header(EntryType::Regular, 0o604, 1),
        "a/otherwise-listed",
        b"with another mode than the list's",
    );
    layer.attributes(&[("SCHILY.xattr.system.posix_acl_access", &MODE_AS_ACL)]);
    layer.file("a/not-listed", b"a list that says what the mode says");
    layer.attributes(&[("SCHILY.xattr.user.note", b"lost"), ("SCHILY.xattr.security.note", b"kept")]);
    layer.add(header(EntryType::Fifo, 0o640, 1), "a/pipe", b"");
    layer.attributes(&[("SCHILY.xattr.user.note", b"lost"), ("SCHILY.xattr.security.note", b"kept")]);
    layer.0.append_link(&mut header(EntryType::Symlink, 0o640, 1), "a/symlink", "file").unwrap();
    layer.device(EntryType::Char, "a/device", 1, 5);
    layer.attributes(&[("SCHILY.xattr.system.posix_acl_default", &ACL)]);
    layer.dir("a/inherited/", 0o750);
    layer.attributes(&[("mtime", b"-1.5")]);
    layer.file("a/before-1970", b"");
    layer.attributes(&[("mtime", b"9223372036.854775807")]);
    layer.file("a/latest", b"");
    layer.attributes(&[("mtime", b"9223372037")]);
    layer.file("a/later", b"");
    layer.dir("b/", 0o755);
    links(&mut layer);
    layer.finish()
}

/// An image of two layers, the upper with links to files of the lower. The upper has an entry for every directory.
pub fn links_across_layers() -> Vec<Vec<u8>> {
    let mut upper = Layer::new();
    for dir in ["./", "a/", "a/inherited/", "b/"] {
        upper.dir(dir, 0o755);
    }
    upper.dir("c/", 0o755);
    let mut lower = Layer::new();
    for dir in ["./", "a/", "a/inherited/", "b/"] {
        lower.dir(dir, 0o700);
    }
    lower.attributes(&[("SCHILY.xattr.user.kept", b"1"), ("SCHILY.xattr.security.capability", &CAPABILITY)]);
    lower.file("a/capable", b"");
    for name in ["a/still-capable", "a/latest"] {
        lower.file(name, name.as_bytes());
    }
    lower.attributes(&[("SCHILY.xattr.system.posix_acl_access", &ACL)]);
    lower.add(header(EntryType::Regular, 0o664, 1), "a/listed", b"");
    lower.link(EntryType::Symlink, "a/symlink", "b");
    lower.add(header(EntryType::Fifo, 0o600, 9), "a/pipe", b"");
    lower.device(EntryType::Char, "a/device", 1, 5);
    links(&mut upper);
    upper.attributes(&[("mtime", b"1700000000.000000001")]);
    upper.link(EntryType::Link, "c/again", "b/capable");
    upper.link(EntryType::Link, "c/latest", "a/latest");
    vec![lower.finish(), upper.finish()]
}

/// Keys and values of PAX records.
type Records = &'static [(&'static str, &'static [u8])];

/// Links in `b/` to files of every kind in `a/`, whose entries state other metadata than the files'.
fn links(layer: &mut Layer) {
    let records: [(&str, Records); 7] = [
        ("capable", &[("mtime", b"1600000000.123456789"), ("SCHILY.xattr.user.more", b"2")]),
        ("still-capable", &[("SCHILY.xattr.security.capability", &CAPABILITY)]),
        ("listed", &[]),
        ("latest", &[("SCHILY.xattr.user.late", b"")]),
        ("pipe", &[]),
        ("symlink", &[]),
        ("device", &[]),
    ];
    for (number, (name, records)) in (1..).zip(records) {
        layer.attributes(records);
        let mut link = header(EntryType::Link, 0o4640 + number, 1_000_000 * u64::from(number));
        link.set_uid(number.into());
        link.set_gid(1000 + u64::from(number));
        layer.0.append_link(&mut link, format!("b/{name}"), format!("a/{name}")).unwrap();
    }
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
        self.dir_of(name, mode, 0);
    }

    fn dir_of(&mut self, name: &str, mode: u32, owner: u64) {
        let mut header = header(EntryType::Directory, mode, 1_000_000_000);
        header.set_uid(owner);
        self.add(header, name, b"");
    }

    fn file(&mut self, name: &str, content: &[u8]) {
        self.add(header(EntryType::Regular, 0o644, 1_234_567_890), name, content);
    }

    fn link(&mut self, kind: EntryType, name: &str, target: &str) {
        let mode = if kind == EntryType::Link { 0o6711 } else { 0o777 };
        self.0.append_link(&mut header(kind, mode, 1_111_111_111), name, target).unwrap();
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

/// The same without the user and the mask.
const MODE_AS_ACL: [u8; 28] = [
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255,
    255,
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
    layer.dir("records/", 0o755);
    let long = format!("records/{}", "r".repeat(250));
    let records: [(&str, &[u8]); 2] = [("uid", b"4000000000"), ("mtime", b"1.000000001")];
    layer.attributes(&[records[0], records[1], ("path", long.as_bytes())]);
    layer.file("replaced by the record", b"a long name in a PAX record");
    layer.attributes(&[records[0], records[1], ("linkpath", long.as_bytes())]);
    let mut link = header(EntryType::Link, 0o644, 1);
    layer.0.append_link(&mut link, "linked-far", "replaced by the record").unwrap();
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
