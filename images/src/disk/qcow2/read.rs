//! From the tables to the disk's clusters.

use flate2::{Decompress, FlushDecompress};

use super::ReadAt;
use super::claims::Claims;
use super::header::{self, Header};
use crate::convert::{ConvertError, Limits};

/// Bytes of the L1 table read at a time.
const L1_CHUNK: usize = 64 << 10;
/// In entries of both tables: the offset of a table or cluster.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// In entries of both tables: the cluster's reference count is one. Of no use to a reader.
const COPIED: u64 = 1 << 63;
/// In L2 entries: the cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// In L2 entries of version 3: the cluster reads as zeroes.
const ZERO: u64 = 1;
/// The unit in which an L2 entry counts compressed bytes.
const SECTOR: u64 = 512;

/// An image being read.
#[derive(Debug)]
pub struct Qcow2<'a, S: ?Sized> {
    source: &'a S,
    header: Header,
    claims: Claims,
    /// What clusters may still come to, in bytes.
    budget: u64,
    budget_stated: u64,
}

/// Room for one cluster, as it is and as it is stored.
struct Buffers {
    cluster: Vec<u8>,
    packed: Vec<u8>,
    inflate: Decompress,
}

impl<'a, S: ReadAt + ?Sized> Qcow2<'a, S> {
    /// Reads and checks the header.
    ///
    /// # Errors
    /// [`ConvertError`] for what is no image or one that cannot be read here.
    pub fn open(source: &'a S, limits: &Limits) -> Result<Self, ConvertError> {
        let (header, claims) = header::read(source, limits)?;
        let by_ratio = source.length().saturating_mul(limits.ratio).max(limits.ratio_floor);
        let budget = limits.layer_bytes.min(by_ratio);
        Ok(Self { source, header, claims, budget, budget_stated: budget })
    }

    /// What the image's header says.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Calls `visit` with each allocated cluster's place on the disk and bytes, in the disk's order; all else is
    /// zero. To be called once: a second time the clusters are taken.
    ///
    /// # Errors
    /// [`ConvertError`] for tables that lead astray and for data that does not decompress, and `visit`'s.
    pub fn each_cluster(
        &mut self,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), ConvertError>,
    ) -> Result<(), ConvertError> {
        let cluster = 1_usize << self.header.cluster_bits;
        let mut buffers = Buffers {
            cluster: vec![0; cluster],
            packed: vec![0; 2 * cluster],
            inflate: Decompress::new(false),
        };
        let mut l2 = vec![0; cluster];
        let mut l1 = vec![0; L1_CHUNK];
        let covered = (cluster as u64) * (cluster as u64 / 8);
        let mut disk_offset = 0;
        let mut read = 0;
        let l1_bytes = self.header.l1_entries * 8;
        while read < l1_bytes {
            let n = usize::try_from(l1_bytes - read).unwrap_or(L1_CHUNK).min(L1_CHUNK);
            let chunk = &mut l1[..n];
            self.exactly(chunk, self.header.l1_offset + read, "L1 table")?;
            for entry in entries(chunk) {
                if let Some(table) = self.l2_table(entry)? {
                    self.exactly(&mut l2, table, "L2 table")?;
                    self.each_of_table(&l2, disk_offset, &mut buffers, &mut visit)?;
                }
                disk_offset += covered;
            }
            read += n as u64;
        }
        Ok(())
    }

    /// Where the L2 table is that an L1 entry tells of.
    fn l2_table(&mut self, entry: u64) -> Result<Option<u64>, ConvertError> {
        let offset = entry & OFFSET;
        if entry & !(OFFSET | COPIED) != 0 {
            return Err(malformed(format!("the L1 entry {entry:#x} has reserved bits set")));
        }
        if offset == 0 {
            return Ok(None);
        }
        self.aligned(offset, "L2 table")?;
        self.claims.take(offset, 1 << self.header.cluster_bits, "L2 table")?;
        Ok(Some(offset))
    }

    fn each_of_table(
        &mut self,
        l2: &[u8],
        table_offset: u64,
        buffers: &mut Buffers,
        visit: &mut impl FnMut(u64, &[u8]) -> Result<(), ConvertError>,
    ) -> Result<(), ConvertError> {
        let cluster = 1_u64 << self.header.cluster_bits;
        for (index, entry) in (0_u64..).zip(entries(l2)) {
            let disk_offset = table_offset + index * cluster;
            // What is behind the disk's end was cut off and is nobody's.
            let left = self.header.size.saturating_sub(disk_offset);
            if left == 0 {
                break;
            }
            if self.cluster(entry, buffers)? {
                let end = usize::try_from(left).unwrap_or(usize::MAX).min(buffers.cluster.len());
                visit(disk_offset, &buffers.cluster[..end])?;
            }
        }
        Ok(())
    }

    /// Reads the cluster that an L2 entry tells of; false where it is zero.
    fn cluster(&mut self, entry: u64, buffers: &mut Buffers) -> Result<bool, ConvertError> {
        if entry & COMPRESSED != 0 {
            self.spend()?;
            self.unpack(entry & !(COMPRESSED | COPIED), buffers)?;
            return Ok(true);
        }
        let zero = if self.header.version >= 3 { ZERO } else { 0 };
        if entry & !(OFFSET | COPIED | zero) != 0 {
            return Err(malformed(format!("the L2 entry {entry:#x} has reserved bits set")));
        }
        let offset = entry & OFFSET;
        if offset == 0 {
            return Ok(false);
        }
        self.aligned(offset, "data cluster")?;
        // Also where it reads as zeroes: it is allocated still.
        self.claims.take(offset, 1, "data cluster")?;
        if entry & zero != 0 {
            return Ok(false);
        }
        self.spend()?;
        // Of the file's last cluster only what was ever written need be there.
        let got = self.source.fill_from(&mut buffers.cluster, offset).map_err(|e| reading(&e))?;
        buffers.cluster[got..].fill(0);
        Ok(true)
    }

    /// Reads a compressed cluster: of the 62 bits of `place` the lower are its offset, the upper count the sectors
    /// that it reaches into beyond the first.
    fn unpack(&self, place: u64, buffers: &mut Buffers) -> Result<(), ConvertError> {
        let shift = 62 - (self.header.cluster_bits - 8);
        let (offset, sectors) = (place & ((1 << shift) - 1), (place >> shift) + 1);
        if offset >= self.source.length() {
            return Err(malformed(format!("compressed data at byte {offset} is beyond the end of the file")));
        }
        let bytes = usize::try_from(sectors * SECTOR - offset % SECTOR).unwrap_or(usize::MAX);
        let bytes = bytes.min(buffers.packed.len());
        let packed = &mut buffers.packed[..bytes];
        // The last sector need not be whole at the file's end.
        let got = self.source.fill_from(packed, offset).map_err(|e| reading(&e))?;
        buffers.inflate.reset(false);
        let inflated =
            buffers.inflate.decompress(&packed[..got], &mut buffers.cluster, FlushDecompress::Finish);
        // As QEMU, this looks no further than the cluster's end: the stream's own may be behind it.
        if inflated.is_ok() && buffers.inflate.total_out() == buffers.cluster.len() as u64 {
            return Ok(());
        }
        Err(malformed(format!("the compressed data at byte {offset} is damaged")))
    }

    /// Takes a cluster from the budget.
    fn spend(&mut self) -> Result<(), ConvertError> {
        match self.budget.checked_sub(1 << self.header.cluster_bits) {
            Some(left) => {
                self.budget = left;
                Ok(())
            }
            None => Err(ConvertError::TooLarge(format!(
                "the qcow2 image of {} bytes has more than {} bytes of data",
                self.source.length(),
                self.budget_stated
            ))),
        }
    }

    fn aligned(&self, offset: u64, what: &str) -> Result<(), ConvertError> {
        match offset % (1 << self.header.cluster_bits) {
            0 => Ok(()),
            _ => Err(malformed(format!("the {what} at byte {offset} does not begin with a cluster"))),
        }
    }

    fn exactly(&self, buffer: &mut [u8], offset: u64, what: &str) -> Result<(), ConvertError> {
        match self.source.fill_from(buffer, offset).map_err(|e| reading(&e))? {
            got if got == buffer.len() => Ok(()),
            _ => {
                let what = format!("the {what} at byte {offset} reaches beyond the end of the file");
                Err(malformed(what))
            }
        }
    }
}

fn entries(table: &[u8]) -> impl Iterator<Item = u64> {
    table.as_chunks().0.iter().map(|entry| u64::from_be_bytes(*entry))
}

fn malformed(what: String) -> ConvertError {
    ConvertError::malformed(format!("the qcow2 image is damaged: {what}"))
}

fn reading(error: &std::io::Error) -> ConvertError {
    ConvertError::io("reading a qcow2 image", error)
}
