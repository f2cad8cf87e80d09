//! A terminal's sizes, as clients send them: JSON documents one after the other, `{"Width":80,"Height":24}`.

use husk_proto::agent::TerminalSize;
use serde::Deserialize;

/// The most bytes of a document that has not ended.
const MAX_PENDING: usize = 1024;

/// Cells in one direction: a terminal's size has 16 bits each.
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "Width")]
    width: u16,
    #[serde(rename = "Height")]
    height: u16,
}

/// Finds sizes in a stream of bytes.
#[derive(Default)]
pub struct Sizes {
    pending: Vec<u8>,
}

impl Sizes {
    /// Takes bytes in and answers the last size that they complete: only that one counts.
    pub fn push(&mut self, data: &[u8]) -> Result<Option<TerminalSize>, String> {
        self.pending.extend_from_slice(data);
        let mut documents = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Document>();
        let mut last = None;
        let mut read = 0;
        while let Some(document) = documents.next() {
            match document {
                Ok(document) => last = Some(document),
                Err(e) if e.is_eof() => break,
                Err(e) => return Err(format!("a terminal's size that is none: {e}")),
            }
            read = documents.byte_offset();
        }
        self.pending.drain(..read);
        if self.pending.len() > MAX_PENDING {
            return Err(format!("a terminal's size of more than {MAX_PENDING} bytes"));
        }
        Ok(last.map(|size| TerminalSize { rows: size.height.into(), columns: size.width.into() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_whole_and_in_parts() {
        let mut sizes = Sizes::default();
        let size = |rows, columns| Some(TerminalSize { rows, columns });
        assert_eq!(sizes.push(b"{\"Width\":80,\"Height\":24}\n").unwrap(), size(24, 80));
        assert_eq!(sizes.push(b"{\"Width\":1,\"Hei").unwrap(), None);
        assert_eq!(sizes.push(b"ght\":2}{\"Width\":3,\"Height\":4}{").unwrap(), size(4, 3));
        assert_eq!(sizes.push(b"").unwrap(), None);
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for bad in [&b"{\"Width\":70000,\"Height\":1}"[..], b"{\"Width\":-1,\"Height\":1}", b"x", b"[]"] {
            assert!(Sizes::default().push(bad).is_err(), "{bad:?}");
        }
        let endless = [b"{\"Width\":1,\"x\":\"".to_vec(), vec![b'y'; 2000]].concat();
        assert!(Sizes::default().push(&endless).is_err());
    }
}
