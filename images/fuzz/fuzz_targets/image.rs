//! Layers of valid entries in any order and combination: the merge and the EROFS writer.
#![no_main]

use arbitrary::{Arbitrary, Unstructured};
use husk_images::image::LayerInput;
use husk_images::tree::{Entry, Kind, TreeWriter, Xattr};
use husk_images_fuzz::{build, scratch};

const DATA: u64 = 16 << 10;
/// Few names, so that they meet; long ones among them, so that blocks fill up.
const NAMES: [&str; 6] = ["a", "b", "c", "lost+found", "\u{e4}\n", "n"];

#[derive(Debug)]
struct Layers(Vec<Vec<Entry>>);

impl<'a> Arbitrary<'a> for Layers {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let mut layers = Vec::new();
        for _ in 0..u.int_in_range(1..=4)? {
            let mut entries = Vec::new();
            for _ in 0..u.int_in_range(0..=60)? {
                entries.push(entry(u)?);
            }
            layers.push(entries);
        }
        Ok(Self(layers))
    }
}

fn entry(u: &mut Unstructured<'_>) -> arbitrary::Result<Entry> {
    let path = path(u)?;
    let kind = match u.int_in_range(0..=8)? {
        0 | 1 => Kind::Dir,
        2 => Kind::Whiteout,
        3 => Kind::Opaque,
        4 => Kind::Hardlink(self::path(u)?),
        5 => Kind::Symlink(target(u)?),
        6 => Kind::Char(u.arbitrary()?, u.arbitrary()?),
        7 => Kind::Fifo,
        _ => {
            let offset = u.int_in_range(0..=3)? * 4096;
            Kind::File { offset, size: u.int_in_range(1..=DATA - offset)? }
        }
    };
    let path = if matches!(kind, Kind::Dir | Kind::Opaque) && u.ratio(1, 8)? { Vec::new() } else { path };
    let mut xattrs = Vec::new();
    for n in 0..u.int_in_range(0..=3)? {
        let value = vec![b'v'; u.int_in_range(0..=5000)?];
        xattrs.extend(Xattr::parse(format!("user.{n}").as_bytes(), &value));
    }
    Ok(Entry {
        path,
        kind,
        mode: u.int_in_range(0..=0o7777)?,
        uid: u.arbitrary()?,
        gid: u.arbitrary()?,
        mtime: u.arbitrary()?,
        mtime_nsec: u.int_in_range(0..=999_999_999)?,
        xattrs,
    })
}

fn path(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    let mut parts = Vec::new();
    for _ in 0..u.int_in_range(1..=4)? {
        let name = *u.choose(&NAMES)?;
        parts.push(if name == "n" { name.repeat(u.int_in_range(1..=255)?) } else { name.to_owned() });
    }
    Ok(parts.join("/").into_bytes())
}

fn target(u: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    const TARGETS: [&str; 7] = ["a", "/", "..", "../b", "/a/b/../c", "a/..", "/n/"];
    Ok(u.choose(&TARGETS)?.repeat(u.int_in_range(1..=800)?).into_bytes())
}

libfuzzer_sys::fuzz_target!(|layers: Layers| {
    let mut inputs = Vec::new();
    for entries in &layers.0 {
        let tree = scratch();
        let mut writer = TreeWriter::new(std::io::BufWriter::new(&tree)).expect("start a tree");
        entries.iter().for_each(|entry| writer.push(entry).expect("write an entry"));
        writer.finish().expect("finish a tree");
        inputs.push(LayerInput { tree, data_len: DATA });
    }
    build(&inputs);
});
