//! What each cluster of the file is used for: a second use is how an image would make tables of its data, or read
//! one cluster a million times.

use crate::convert::ConvertError;

/// A bit for each cluster of the file.
#[derive(Debug)]
pub(super) struct Claims {
    bits: Vec<u64>,
    /// In the file, its last one included, which need not be whole.
    clusters: u64,
    cluster_bits: u32,
}

impl Claims {
    /// For a file of `length` bytes, of which all clusters are free.
    pub(super) fn new(length: u64, cluster_bits: u32) -> Result<Self, ConvertError> {
        let clusters = length.div_ceil(1 << cluster_bits);
        let words = usize::try_from(clusters.div_ceil(64))
            .map_err(|_| ConvertError::TooLarge(format!("a qcow2 image of {length} bytes")))?;
        Ok(Self { bits: vec![0; words], clusters, cluster_bits })
    }

    /// Takes the clusters in which the `bytes` bytes from `offset` on lie, for `what`.
    pub(super) fn take(&mut self, offset: u64, bytes: u64, what: &str) -> Result<(), ConvertError> {
        let end = offset.saturating_add(bytes);
        let first = offset >> self.cluster_bits;
        for cluster in first..end.div_ceil(1 << self.cluster_bits).max(first) {
            let word = usize::try_from(cluster / 64).ok().and_then(|word| self.bits.get_mut(word));
            let Some(word) = word.filter(|_| cluster < self.clusters) else {
                return Err(ConvertError::malformed(format!(
                    "the qcow2 image's {what} at byte {offset} is beyond the end of the file"
                )));
            };
            let bit = 1 << (cluster % 64);
            if *word & bit != 0 {
                return Err(ConvertError::malformed(format!(
                    "the qcow2 image uses the cluster at byte {} twice, the second time as its {what}; `qemu-img \
                     check -r all IMAGE` may mend it",
                    cluster << self.cluster_bits
                )));
            }
            *word |= bit;
        }
        Ok(())
    }
}
