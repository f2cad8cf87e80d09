//! PAX extended headers: records of `LENGTH KEY=VALUE\n`.

use super::error::{ConvertError, show};
use super::sparse::Records;

/// What an extended header says about the next entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) linkpath: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a sparse file.
    pub(crate) sparse: Option<Records>,
}

fn bad(what: &str, value: &[u8]) -> ConvertError {
    ConvertError::malformed(format!("the archive has a PAX record with an invalid {what}: {}", show(value)))
}

impl Pax {
    /// Reads the records of one header. A repeated key is refused: readers differ about which one counts.
    pub(crate) fn parse(mut records: &[u8]) -> Result<Self, ConvertError> {
        let mut pax = Self::default();
        while !records.is_empty() {
            let (key, value);
            (key, value, records) = record(records)?;
            let repeated = || bad("repeated key", key);
            match key {
                b"path" => set(&mut pax.path, value.to_vec()).ok_or_else(repeated)?,
                b"linkpath" => set(&mut pax.linkpath, value.to_vec()).ok_or_else(repeated)?,
                b"size" => set(&mut pax.size, decimal(value)?).ok_or_else(repeated)?,
                b"uid" => set(&mut pax.uid, decimal(value)?).ok_or_else(repeated)?,
                b"gid" => set(&mut pax.gid, decimal(value)?).ok_or_else(repeated)?,
                b"mtime" => set(&mut pax.mtime, time(value)?).ok_or_else(repeated)?,
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        pax.xattrs.push((name.to_vec(), value.to_vec()));
                    } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        let taken = pax.sparse.get_or_insert_default().take(key, value)?;
                        taken.ok_or_else(|| bad("key of a sparse file", key))?;
                    }
                }
            }
        }
        Ok(pax)
    }

    /// Whether the header says anything that changes how the archive is read.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn set<T>(slot: &mut Option<T>, value: T) -> Option<()> {
    slot.replace(value).is_none().then_some(())
}

/// A record's key and value, and the records after it.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn record(records: &[u8]) -> Result<Record<'_>, ConvertError> {
    let start = &records[..records.len().min(40)];
    let space = records.iter().take(20).position(|b| *b == b' ').ok_or_else(|| bad("length", start))?;
    let length = usize::try_from(decimal(&records[..space])?).map_err(|_| bad("length", start))?;
    let body = records.get(space + 1..length).ok_or_else(|| bad("length", start))?;
    let body = body.strip_suffix(b"\n").ok_or_else(|| bad("end", start))?;
    let equals = body.iter().position(|b| *b == b'=').ok_or_else(|| bad("key", start))?;
    Ok((&body[..equals], &body[equals + 1..], &records[length..]))
}

pub(super) fn decimal(digits: &[u8]) -> Result<u64, ConvertError> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(bad("number", digits));
    }
    std::str::from_utf8(digits).ok().and_then(|d| d.parse().ok()).ok_or_else(|| bad("number", digits))
}

/// `[-]SECONDS[.FRACTION]`, rounded down to nanoseconds.
fn time(value: &[u8]) -> Result<(i64, u32), ConvertError> {
    let (negative, digits) = value.strip_prefix(b"-").map_or((false, value), |rest| (true, rest));
    let dot = digits.iter().position(|b| *b == b'.').unwrap_or(digits.len());
    let seconds = i64::try_from(decimal(&digits[..dot])?).map_err(|_| bad("time", value))?;
    let fraction = digits.get(dot + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad("time", value));
    }
    let nanos = (0..9).fold(0, |nanos, i| nanos * 10 + fraction.get(i).map_or(0, |d| u32::from(d - b'0')));
    Ok(match (negative, nanos) {
        (false, _) => (seconds, nanos),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanos),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read() {
        let pax =
            Pax::parse(b"12 path=a=b\n12 size=123\n20 mtime=-1.5000000\n28 SCHILY.xattr.user.k=a\n\0b\n");
        let pax = pax.unwrap();
        assert_eq!(pax.path.unwrap(), b"a=b");
        assert_eq!(pax.size, Some(123));
        assert_eq!(pax.mtime, Some((-2, 500_000_000)));
        assert_eq!(pax.xattrs, [(b"user.k".to_vec(), b"a\n\0b".to_vec())]);
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in [
            &b"99 path=a\n"[..],
            b"path=a\n",
            b"3 a\n",
            b"0 a=b\n",
            b"9 path=a\n9 path=b\n",
            b"9 path=ab",
            b"11 size=-1\n",
            b"11 size=0x\n",
            b"11 uid=1.5\n",
            b"30 size=99999999999999999999999\n",
            b"25 GNU.sparse.numbytes=1\n",
            b"23 GNU.sparse.offset=1\n23 GNU.sparse.offset=1\n",
            b"21 GNU.sparse.map=1,\n",
            b"20 GNU.sparse.else=\n",
        ] {
            assert!(Pax::parse(bad).is_err(), "{}", show(bad));
        }
    }
}
