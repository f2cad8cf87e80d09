//! Layers that change, replace, hide and bring back what lower ones have, in every combination that chance makes.

use super::archive::archive;

/// Layers of one image.
const LAYERS: usize = 4;
const NAMES: [&str; 3] = ["a", "b", "c"];
const DEPTH: usize = 3;

/// Which of the combinations there may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Combinations {
    All,
    /// Those that containerd's unpacking for overlayfs can do: it links to no file of a lower layer, and where a
    /// layer hides a directory and has another of its name, the hidden one's files show through.
    Overlayfs,
}

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

/// Name, type, and contents or link target.
type Entries = Vec<(String, u8, Vec<u8>)>;

/// The layers of an image.
pub struct Image {
    pub archives: Vec<Vec<u8>>,
    pub whiteouts: usize,
    pub opaque: usize,
}

/// The image that `seed` makes.
pub fn image(seed: u64, combinations: Combinations) -> Image {
    let mut maker =
        Maker { dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)), combinations, entries: vec![] };
    let layers: Vec<Entries> = (0..LAYERS).map(|number| maker.layer(number)).collect();
    let count = |what: &str| layers.iter().flatten().filter(|(name, _, _)| name.contains(what)).count();
    Image {
        archives: layers.iter().map(pack).collect(),
        whiteouts: count(".wh."),
        opaque: count(".wh..wh..opq"),
    }
}

fn pack(entries: &Entries) -> Vec<u8> {
    archive(&entries.iter().map(|(name, kind, body)| (name.as_str(), *kind, &body[..])).collect::<Vec<_>>())
}

struct Maker {
    dice: Dice,
    combinations: Combinations,
    entries: Entries,
}

impl Maker {
    /// A layer in which no name has two entries, but for whiteouts, and every directory has its own.
    fn layer(&mut self, number: usize) -> Entries {
        self.add("./".into(), b'5', b"");
        if number == 0 {
            self.add("kept".into(), b'0', b"every layer can link to this");
        }
        self.fill("", DEPTH, number);
        std::mem::take(&mut self.entries)
    }

    fn add(&mut self, name: String, kind: u8, body: &[u8]) {
        self.entries.push((name, kind, body.to_vec()));
    }

    fn fill(&mut self, dir: &str, depth: usize, number: usize) {
        let all = self.combinations == Combinations::All;
        for name in NAMES {
            let path = format!("{dir}{name}");
            let is_hidden = self.dice.roll(5) == 0;
            if is_hidden {
                self.add(format!("{dir}.wh.{name}"), b'0', b"");
            }
            let content = format!("{path} of layer {number}");
            match self.dice.roll(12) {
                0..=3 if is_hidden && !all => {}
                0..=3 if depth > 1 => {
                    self.add(format!("{path}/"), b'5', b"");
                    // Before or behind the directory's own entries: it must make no difference.
                    let opaque = (self.dice.roll(4) == 0).then(|| format!("{path}/.wh..wh..opq"));
                    let is_first = self.dice.roll(2) == 0;
                    if let Some(name) = opaque.clone().filter(|_| is_first) {
                        self.add(name, b'0', b"");
                    }
                    self.fill(&format!("{path}/"), depth - 1, number);
                    if let Some(name) = opaque.filter(|_| !is_first) {
                        self.add(name, b'0', b"");
                    }
                }
                0 => self.add(format!("{path}/"), b'5', b""),
                4 | 5 => self.add(path, b'0', content.as_bytes()),
                6 => self.add(path, b'2', b"../kept"),
                7 => self.add(path, b'6', b""),
                8 if all || number == 0 => self.add(path, b'1', b"kept"),
                _ => {}
            }
        }
    }
}
