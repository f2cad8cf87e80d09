//! `struct virtio_vsock_hdr` (virtio 1.2, section 5.10.6).

/// Bytes of a header.
pub const HEADER: usize = 44;
/// `VIRTIO_VSOCK_TYPE_STREAM`.
pub const STREAM: u16 = 1;

/// `op` of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    Request,
    Response,
    Reset,
    Shutdown,
    Data,
    CreditUpdate,
    CreditRequest,
}

impl Op {
    fn number(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::Data => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }

    fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// `VIRTIO_VSOCK_SHUTDOWN_RCV`: the sender takes no more data.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// `VIRTIO_VSOCK_SHUTDOWN_SEND`: the sender sends no more data.
pub const SHUTDOWN_SEND: u32 = 2;

/// A header's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Header {
    pub source_cid: u64,
    pub destination_cid: u64,
    pub source_port: u32,
    pub destination_port: u32,
    /// Bytes of data behind the header.
    pub length: u32,
    pub kind: u16,
    /// None for a number that the specification does not have.
    pub op: Option<Op>,
    pub flags: u32,
    /// Bytes that the sender's buffer holds.
    pub buffer: u32,
    /// Bytes that the sender has taken out of its buffer, modulo 2^32.
    pub forwarded: u32,
}

impl Header {
    /// Reads a header.
    pub fn parse(bytes: &[u8; HEADER]) -> Self {
        let part = |at: usize| bytes.get(at..).and_then(|rest| rest.first_chunk()).copied();
        let u32_at = |at| part(at).map_or(0, u32::from_le_bytes);
        let u16_at = |at: usize| {
            bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |part| u16::from_le_bytes(*part))
        };
        let u64_at = |at| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Self {
            source_cid: u64_at(0),
            destination_cid: u64_at(8),
            source_port: u32_at(16),
            destination_port: u32_at(20),
            length: u32_at(24),
            kind: u16_at(28),
            op: Op::from_number(u16_at(30)),
            flags: u32_at(32),
            buffer: u32_at(36),
            forwarded: u32_at(40),
        }
    }

    /// Writes a header; `op` must be one.
    pub fn bytes(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let parts: [&[u8]; 10] = [
            &self.source_cid.to_le_bytes(),
            &self.destination_cid.to_le_bytes(),
            &self.source_port.to_le_bytes(),
            &self.destination_port.to_le_bytes(),
            &self.length.to_le_bytes(),
            &self.kind.to_le_bytes(),
            &self.op.map_or(0, Op::number).to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.buffer.to_le_bytes(),
            &self.forwarded.to_le_bytes(),
        ];
        bytes.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_and_has_the_specified_layout() {
        let header = Header {
            source_cid: 0x0102_0304_0506_0708,
            destination_cid: 2,
            source_port: 3,
            destination_port: 4,
            length: 5,
            kind: STREAM,
            op: Some(Op::Data),
            flags: 7,
            buffer: 8,
            forwarded: 9,
        };
        let bytes = header.bytes();
        assert_eq!(Header::parse(&bytes), header);
        assert_eq!((bytes[0], bytes[7], bytes[16], bytes[24], bytes[28], bytes[30]), (8, 1, 3, 5, 1, 5));
        assert_eq!((bytes[32], bytes[36], bytes[40]), (7, 8, 9));
        assert_eq!(Header::parse(&[0xff; HEADER]).op, None);
    }
}
