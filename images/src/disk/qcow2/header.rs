//! The header, and all that is refused for what it says.

use super::claims::Claims;
use super::{MAGIC, ReadAt};
use crate::convert::{ConvertError, Limits};

/// Bytes of a header that are known here: up to and with version 3's compression type.
const HEADER: usize = 105;
/// Bytes of version 2's.
const HEADER_V2: usize = 72;
/// Bytes of version 3's at least.
const HEADER_V3: u32 = 104;
/// Largest L1 table, in bytes, as QEMU has it: what a disk of the largest size needs with the usual clusters, and
/// far more.
const L1_MAX: u64 = 32 << 20;

/// Incompatible features that an image may name and none may use here: bit, what it is, how to be rid of it.
const FEATURES: [(u32, &str, &str); 5] = [
    (0, "was not closed cleanly (its dirty bit is set)", "qemu-img check -r all IMAGE"),
    (1, "is marked as corrupt", "qemu-img check -r all IMAGE"),
    (2, "keeps its data in an external file", "qemu-img convert -O qcow2 IMAGE NEW"),
    (
        3,
        "is compressed by another method than zlib",
        "qemu-img convert -O qcow2 -c -o compression_type=zlib IMAGE NEW",
    ),
    (4, "has extended L2 entries", "qemu-img convert -O qcow2 -o extended_l2=off IMAGE NEW"),
];

/// What the reader needs of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The logarithm of a cluster's bytes, 9 to 21.
    pub cluster_bits: u32,
    /// The disk's bytes.
    pub size: u64,
    /// Where the L1 table is in the file.
    pub l1_offset: u64,
    /// Entries of the L1 table that the disk's size needs.
    pub l1_entries: u64,
}

/// The fixed part of a header, filled up with zeroes.
struct Fields([u8; HEADER]);

impl Fields {
    fn u32(&self, at: usize) -> u32 {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    fn u64(&self, at: usize) -> u64 {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_be_bytes(*bytes))
    }
}

fn unsupported(what: &str, mend: &str) -> ConvertError {
    ConvertError::Unsupported(format!("the qcow2 image {what}; make one without: `{mend}`"))
}

fn malformed(what: String) -> ConvertError {
    ConvertError::malformed(format!("the qcow2 image's header is wrong: {what}"))
}

/// Reads and checks the header of `source`; the clusters of header, L1 table and reference counts are taken.
pub(super) fn read(
    source: &(impl ReadAt + ?Sized),
    limits: &Limits,
) -> Result<(Header, Claims), ConvertError> {
    let mut fields = Fields([0; HEADER]);
    let got =
        source.fill_from(&mut fields.0, 0).map_err(|e| ConvertError::io("reading a qcow2 image", &e))?;
    if got < HEADER_V2 || !fields.0.starts_with(&MAGIC) {
        return Err(ConvertError::malformed("it is no qcow2 image: it does not begin with a qcow2 header"));
    }
    let version = fields.u32(4);
    if !matches!(version, 2 | 3) {
        let what = format!("is of version {version}, where 2 and 3 are read");
        return Err(unsupported(&what, "qemu-img convert -O qcow2 IMAGE NEW"));
    }
    let cluster_bits = fields.u32(20);
    if !(9..=21).contains(&cluster_bits) {
        return Err(malformed(format!("clusters of 2^{cluster_bits} bytes, where 2^9 to 2^21 are allowed")));
    }
    let header_length = check_features(&fields, version, got)?;
    if u64::from(header_length) > 1 << cluster_bits {
        return Err(malformed(format!("{header_length} bytes of header are more than a cluster")));
    }
    let header = tables(&fields, version, cluster_bits, limits)?;
    let claims = claim(source.length(), &fields, &header)?;
    Ok((header, claims))
}

/// Refuses what other files, keys or unknown features are needed for. The header's bytes.
fn check_features(fields: &Fields, version: u32, got: usize) -> Result<u32, ConvertError> {
    if fields.u64(8) != 0 {
        return Err(unsupported("has a backing file", "qemu-img convert -O qcow2 IMAGE NEW"));
    }
    if fields.u32(32) != 0 {
        let mend = "qemu-img convert --object secret,id=key,file=KEYFILE --image-opts \
                    driver=qcow2,encrypt.key-secret=key,file.filename=IMAGE -O qcow2 NEW";
        return Err(unsupported("is encrypted", mend));
    }
    if version == 2 {
        return Ok(HEADER_V2 as u32);
    }
    let header_length = fields.u32(100);
    if header_length < HEADER_V3 || got < HEADER_V3 as usize {
        return Err(malformed(format!("{header_length} bytes long, version 3 has {HEADER_V3} at least")));
    }
    let incompatible = fields.u64(72);
    if let Some((_, what, mend)) = FEATURES.iter().find(|(bit, ..)| (incompatible >> bit) & 1 != 0) {
        return Err(unsupported(what, mend));
    }
    if incompatible != 0 {
        let what = format!("uses features that are not known here (incompatible bits {incompatible:#x})");
        return Err(unsupported(&what, "qemu-img convert -O qcow2 -o compat=1.1 IMAGE NEW"));
    }
    // The byte belongs to the header only if it is that long.
    if header_length > HEADER_V3 && fields.0[HEADER - 1] != 0 {
        return Err(unsupported(FEATURES[3].1, FEATURES[3].2));
    }
    let refcount_order = fields.u32(96);
    if refcount_order > 6 {
        return Err(malformed(format!(
            "reference counts of 2^{refcount_order} bits, at most 2^6 are allowed"
        )));
    }
    Ok(header_length)
}

fn tables(fields: &Fields, version: u32, cluster_bits: u32, limits: &Limits) -> Result<Header, ConvertError> {
    let size = fields.u64(24);
    if size > limits.disk_bytes {
        let what = format!("the qcow2 image is a disk of {size} bytes, the most is {}", limits.disk_bytes);
        return Err(ConvertError::TooLarge(what));
    }
    // An L2 table is a cluster of 8-byte entries.
    let covered = 1_u64 << (2 * cluster_bits - 3);
    let (l1_entries, stated) = (size.div_ceil(covered), u64::from(fields.u32(36)));
    if stated < l1_entries {
        return Err(malformed(format!("an L1 table of {stated} entries, the disk needs {l1_entries}")));
    }
    if l1_entries * 8 > L1_MAX {
        let what = format!(
            "the qcow2 image's L1 table of {l1_entries} entries; use larger clusters: `qemu-img \
                            convert -O qcow2 -o cluster_size=64k IMAGE NEW`"
        );
        return Err(ConvertError::TooLarge(what));
    }
    Ok(Header { version, cluster_bits, size, l1_offset: fields.u64(40), l1_entries })
}

/// Takes the clusters of header, L1 table and table of reference counts.
fn claim(length: u64, fields: &Fields, header: &Header) -> Result<Claims, ConvertError> {
    let cluster = 1_u64 << header.cluster_bits;
    let mut claims = Claims::new(length, header.cluster_bits)?;
    claims.take(0, 1, "header")?;
    let counts = (fields.u64(48), u64::from(fields.u32(56)).saturating_mul(cluster));
    for (what, (offset, bytes)) in
        [("L1 table", (header.l1_offset, header.l1_entries * 8)), ("table of reference counts", counts)]
    {
        if offset % cluster != 0 {
            return Err(malformed(format!("the {what} at byte {offset} does not begin with a cluster")));
        }
        if offset.checked_add(bytes).is_none_or(|end| end > length) {
            return Err(malformed(format!(
                "the {what} of {bytes} bytes at byte {offset} reaches beyond the end of the file"
            )));
        }
        claims.take(offset, bytes, what)?;
    }
    Ok(claims)
}
