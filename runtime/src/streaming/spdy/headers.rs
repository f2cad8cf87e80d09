//! Header blocks (SPDY/3.1 draft, section 2.6.10): names and values, compressed by one zlib stream a direction.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::dictionary::DICTIONARY;

/// The most bytes of a block after decompression: what a streaming client sends is below 200.
pub const MAX_BLOCK: usize = 16 << 10;

/// The most headers in a block.
const MAX_HEADERS: usize = 100;

/// Names, in lower case, and their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a name that is given in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn parse(mut block: &[u8]) -> Result<Headers, String> {
        let count = number(&mut block)?;
        if count > MAX_HEADERS {
            return Err(format!("{count} headers; the most is {MAX_HEADERS}"));
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let (name, value) = (text(&mut block)?, text(&mut block)?);
            if name.is_empty() || name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return Err(format!("the header name {name:?}"));
            }
            if headers.iter().any(|(known, _)| *known == name) {
                return Err(format!("the header {name:?} twice"));
            }
            headers.push((name, value));
        }
        if !block.is_empty() {
            return Err(format!("{} bytes after the last header", block.len()));
        }
        Ok(Headers(headers))
    }
}

fn number(block: &mut &[u8]) -> Result<usize, String> {
    let (bytes, rest) = block.split_first_chunk::<4>().ok_or("a header block that is cut off")?;
    *block = rest;
    Ok(u32::from_be_bytes(*bytes) as usize)
}

fn text(block: &mut &[u8]) -> Result<String, String> {
    let length = number(block)?;
    let (bytes, rest) = block.split_at_checked(length).ok_or("a header longer than its block")?;
    *block = rest;
    String::from_utf8(bytes.to_vec()).map_err(|_| "a header that is not UTF-8".into())
}

/// Decompresses the peer's blocks, each of them and in their order: they are one stream. zlib's state, some 40 KiB,
/// comes with the first: a connection without streams has none.
#[derive(Default)]
pub struct Inflater(Option<Decompress>);

impl Inflater {
    /// One block.
    pub fn headers(&mut self, compressed: &[u8]) -> Result<Headers, String> {
        Headers::parse(&self.inflate(compressed)?)
    }

    fn inflate(&mut self, mut compressed: &[u8]) -> Result<Vec<u8>, String> {
        let zlib = self.0.get_or_insert_with(|| Decompress::new(true));
        let mut block = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let (read, written) = (zlib.total_in(), zlib.total_out());
            let status = zlib.decompress(compressed, &mut piece, FlushDecompress::Sync);
            let read = (zlib.total_in() - read) as usize;
            let written = (zlib.total_out() - written) as usize;
            compressed = compressed.get(read..).unwrap_or_default();
            block.extend_from_slice(piece.get(..written).unwrap_or_default());
            if block.len() > MAX_BLOCK {
                return Err(format!("a header block of more than {MAX_BLOCK} bytes"));
            }
            match status {
                Err(e) if e.needs_dictionary().is_some() => {
                    zlib.set_dictionary(&DICTIONARY).map_err(|_| "a header block of another dictionary")?;
                }
                Err(e) => return Err(format!("a header block that is no zlib data: {e}")),
                Ok(Status::StreamEnd) => return Err("the end of header compression".into()),
                Ok(_) if read == 0 && written == 0 => break,
                Ok(_) => {}
            }
        }
        if compressed.is_empty() { Ok(block) } else { Err("a header block with bytes left over".into()) }
    }
}

/// Compresses our blocks. zlib's state, some 300 KiB, comes with the first.
#[derive(Default)]
pub struct Deflater(Option<Compress>);

impl Deflater {
    /// A block without headers: all that the answer to a new stream needs.
    pub fn empty_block(&mut self) -> Result<Vec<u8>, String> {
        self.deflate(&0_u32.to_be_bytes())
    }

    fn deflate(&mut self, block: &[u8]) -> Result<Vec<u8>, String> {
        let zlib = match &mut self.0 {
            Some(zlib) => zlib,
            none => {
                let mut zlib = Compress::new(Compression::fast(), true);
                zlib.set_dictionary(&DICTIONARY).map_err(|e| format!("zlib's dictionary: {e}"))?;
                none.insert(zlib)
            }
        };
        let before = zlib.total_in();
        // A sync flush adds a few bytes to what does not shrink.
        let mut out = Vec::with_capacity(block.len() + 64);
        zlib.compress_vec(block, &mut out, FlushCompress::Sync).map_err(|e| format!("zlib: {e}"))?;
        if zlib.total_in() - before == block.len() as u64 { Ok(out) } else { Err("zlib: no room".into()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(headers: &[(&str, &str)]) -> Vec<u8> {
        let mut out = (headers.len() as u32).to_be_bytes().to_vec();
        for part in headers.iter().flat_map(|(name, value)| [name, value]) {
            out.extend((part.len() as u32).to_be_bytes());
            out.extend(part.as_bytes());
        }
        out
    }

    fn compressed(blocks: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(&DICTIONARY).unwrap();
        let one = |block: &Vec<u8>| {
            let mut out = Vec::with_capacity(block.len() + 4096);
            zlib.compress_vec(block, &mut out, FlushCompress::Sync).unwrap();
            out
        };
        blocks.iter().map(one).collect()
    }

    /// `streamtype: error` in one stored zlib block behind the dictionary's number, put together by hand from
    /// RFC 1950 and RFC 1951.
    const BY_HAND: [u8; 43] = [
        0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2, // deflate, 32 KiB, a dictionary, and which
        0x00, 0x1b, 0x00, 0xe4, 0xff, // not the last block, stored, 27 bytes
        0, 0, 0, 1, 0, 0, 0, 10, b's', b't', b'r', b'e', b'a', b'm', b't', b'y', b'p', b'e', 0, 0, 0, 5,
        b'e', b'r', b'r', b'o', b'r', // the block
        0x00, 0x00, 0x00, 0xff, 0xff, // a stored block of nothing: the flush
    ];

    #[test]
    fn a_block_made_by_hand() {
        let headers = Inflater::default().headers(&BY_HAND).unwrap();
        assert_eq!(headers.get("streamtype"), Some("error"));
        assert_eq!(headers.get("port"), None);
    }

    #[test]
    fn blocks_are_one_stream() {
        let blocks = compressed(&[
            block(&[("streamtype", "data"), ("port", "80"), ("requestid", "1")]),
            block(&[("streamtype", "error"), ("port", "80"), ("requestid", "1")]),
            block(&[]),
        ]);
        let mut inflater = Inflater::default();
        assert_eq!(inflater.headers(&blocks[0]).unwrap().get("port"), Some("80"));
        assert_eq!(inflater.headers(&blocks[1]).unwrap().get("streamtype"), Some("error"));
        assert_eq!(inflater.headers(&blocks[2]).unwrap(), Headers::default());
        // Out of its place a block means nothing.
        assert!(Inflater::default().headers(&blocks[1]).is_err());
    }

    #[test]
    fn our_own_blocks_can_be_read() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        for _ in 0..3 {
            assert_eq!(inflater.headers(&deflater.empty_block().unwrap()).unwrap(), Headers::default());
        }
    }

    #[test]
    fn bombs_are_refused() {
        let bomb = block(&[("x", &"y".repeat(8 << 20))]);
        let packed = compressed(&[bomb]).remove(0);
        assert!(packed.len() < MAX_BLOCK, "it must fit in a frame: {}", packed.len());
        assert!(Inflater::default().headers(&packed).unwrap_err().contains("more than"));
        let many: Vec<(String, String)> = (0..200).map(|n| (format!("h{n}"), String::new())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&name[..], &value[..])).collect();
        let packed = compressed(&[block(&many)]).remove(0);
        assert!(Inflater::default().headers(&packed).unwrap_err().contains("200 headers"));
    }

    #[test]
    fn malformed_blocks_are_refused() {
        for (bad, word) in [
            (vec![0, 0], "cut off"),
            (vec![0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff], "longer"),
            (block(&[("Upper", "x")]), "Upper"),
            (block(&[("", "x")]), "name"),
            (block(&[("a", "x"), ("a", "y")]), "twice"),
            ([block(&[]), vec![1]].concat(), "after the last"),
            (vec![0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0], "UTF-8"),
        ] {
            let error = Inflater::default().headers(&compressed(&[bad]).remove(0)).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(Inflater::default().headers(b"garbage that is no zlib").is_err());
    }
}
