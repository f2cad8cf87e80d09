//! Layers that change, replace, hide and bring back what lower ones have, in every combination that chance makes,
//! against what GNU tar unpacks.

use std::path::PathBuf;

use serde_json::json;

use crate::support::archive::archive;
use crate::support::layout::{Compression, Layout};
use crate::support::{extract, oracle, snapshot, store};

/// Images, of this many layers each.
const IMAGES: u64 = 50;
const LAYERS: usize = 4;
const NAMES: [&str; 3] = ["a", "b", "c"];
const DEPTH: usize = 3;

/// Chance that is the same in each run (xorshift).
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

type Entries = Vec<(String, u8, Vec<u8>)>;

/// A layer in which no name has two entries, but for whiteouts, and every directory has its own.
fn layer(dice: &mut Dice, number: usize) -> Entries {
    let mut entries = vec![("./".into(), b'5', vec![])];
    if number == 0 {
        entries.push(("kept".into(), b'0', b"every layer can link to this".to_vec()));
    }
    fill(dice, &mut entries, "", DEPTH, number);
    entries
}

fn fill(dice: &mut Dice, entries: &mut Entries, dir: &str, depth: usize, number: usize) {
    for name in NAMES {
        let path = format!("{dir}{name}");
        if dice.roll(5) == 0 {
            entries.push((format!("{dir}.wh.{name}"), b'0', vec![]));
        }
        let content = format!("{path} of layer {number}").into_bytes();
        match dice.roll(12) {
            0..=3 if depth > 1 => {
                entries.push((format!("{path}/"), b'5', vec![]));
                // Before or behind the directory's own entries: it must make no difference.
                let opaque = (dice.roll(4) == 0).then(|| (format!("{path}/.wh..wh..opq"), b'0', vec![]));
                let first = dice.roll(2) == 0;
                entries.extend(opaque.clone().filter(|_| first));
                fill(dice, entries, &format!("{path}/"), depth - 1, number);
                entries.extend(opaque.filter(|_| !first));
            }
            0 => entries.push((format!("{path}/"), b'5', vec![])),
            4 | 5 => entries.push((path, b'0', content)),
            6 => entries.push((path, b'2', b"../kept".to_vec())),
            7 => entries.push((path, b'6', vec![])),
            8 => entries.push((path, b'1', b"kept".to_vec())),
            _ => {}
        }
    }
}

#[tokio::test]
async fn whatever_layers_do_to_each_other_a_disk_has_what_gnu_tar_unpacks() {
    assert!(rustix::process::geteuid().is_root(), "owners can be compared by root only");
    let (mut whiteouts, mut opaque) = (0, 0);
    for seed in 1..=IMAGES {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let layers: Vec<Entries> = (0..LAYERS).map(|number| layer(&mut dice, number)).collect();
        for (name, _, _) in layers.iter().flatten() {
            opaque += u32::from(name.ends_with(".wh..wh..opq"));
            whiteouts += u32::from(name.contains(".wh."));
        }
        let archives: Vec<Vec<u8>> = layers.iter().map(pack).collect();
        let dir = tempfile::tempdir().unwrap();
        let mut layout = Layout::new(&dir.path().join("layout"));
        let packed: Vec<_> = archives.iter().map(|tar| (tar.as_slice(), Compression::None)).collect();
        layout.tag("test", layout.image(&packed, "amd64", json!({})));
        let store = store(dir.path());
        let image = store.import_layout(&layout.dir, None).await.unwrap_or_else(|e| panic!("{seed}: {e}"));
        let found = extract(&store, &image.id, dir.path());
        let expected: PathBuf = dir.path().join("expected");
        std::fs::create_dir(&expected).unwrap();
        oracle::unpack(&archives, &expected);
        println!("image {seed}");
        snapshot::assert_same(&snapshot::take(&expected, false), &snapshot::take(&found, false));
    }
    assert!(whiteouts > 200 && opaque > 50, "{whiteouts} whiteouts, {opaque} opaque directories");
}

fn pack(entries: &Entries) -> Vec<u8> {
    archive(&entries.iter().map(|(name, kind, body)| (name.as_str(), *kind, &body[..])).collect::<Vec<_>>())
}
