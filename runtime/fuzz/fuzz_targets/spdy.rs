//! A client of the streaming server that sends SPDY frames in any order, whole, cut or made up, and a server that
//! takes its streams as exec does.
#![no_main]

use arbitrary::Arbitrary;
use flate2::{Compress, Compression, FlushCompress};
use husk_fuzz::spdy::{DICTIONARY, Stream, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// As the server has it for exec.
const MAX_STREAMS: usize = 8;
/// Bytes that one input may come to in the server's answers: a few for each byte that it takes.
const MAX_ANSWERS: usize = 16 << 20;

/// What the client sends.
#[derive(Arbitrary, Debug)]
enum Piece {
    /// SYN_STREAM or HEADERS with a block that the server can decompress.
    Headers { kind: bool, flags: u8, stream: u32, headers: Vec<(String, String)>, says: Option<u32>, cut: u8 },
    Control { kind: u8, flags: u8, payload: Vec<u8>, says: Option<u32> },
    Data { stream: u8, flags: u8, length: u16, says: Option<u32> },
    Raw(Vec<u8>),
}

impl Piece {
    fn write(&self, out: &mut Vec<u8>, zlib: &mut Compress) {
        match self {
            Piece::Headers { kind, flags, stream, headers, says, cut } => {
                let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
                for part in headers.iter().flat_map(|(name, value)| [name, value]) {
                    plain.extend((part.len() as u32).to_be_bytes());
                    plain.extend(part.as_bytes());
                }
                plain.truncate(plain.len().saturating_sub(usize::from(*cut)));
                let mut payload = (stream & !(1 << 31)).to_be_bytes().to_vec();
                if *kind {
                    payload.extend([0; 6]);
                }
                let mut block = Vec::with_capacity(2 * plain.len() + 64);
                zlib.compress_vec(&plain, &mut block, FlushCompress::Sync).expect("deflate");
                payload.extend(block);
                control(out, if *kind { 1 } else { 8 }, *flags, &payload, *says);
            }
            Piece::Control { kind, flags, payload, says } => {
                control(out, u16::from(kind % 12), *flags, payload, *says)
            }
            Piece::Data { stream, flags, length, says } => {
                out.extend(u32::from(*stream).to_be_bytes());
                out.extend(size(*flags, says.unwrap_or(u32::from(*length))));
                out.resize(out.len() + usize::from(*length), 7);
            }
            Piece::Raw(bytes) => out.extend(bytes),
        }
    }
}

fn control(out: &mut Vec<u8>, kind: u16, flags: u8, payload: &[u8], says: Option<u32>) {
    out.extend(0x8003_u16.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(size(flags, says.unwrap_or(payload.len() as u32)));
    out.extend(payload);
}

/// Flags and the 24 bits of a length.
fn size(flags: u8, length: u32) -> [u8; 4] {
    (u32::from(flags) << 24 | length & 0xff_ffff).to_be_bytes()
}

libfuzzer_sys::fuzz_target!(|pieces: Vec<Piece>| {
    let mut zlib = Compress::new(Compression::fast(), true);
    zlib.set_dictionary(&DICTIONARY).expect("a dictionary");
    let mut bytes = Vec::new();
    for piece in &pieces {
        piece.write(&mut bytes, &mut zlib);
    }
    // Time stands still but for what sleeps.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().expect("an event loop");
    runtime.block_on(serve(&bytes));
});

/// The whole life of a connection on which the client sends `bytes` and nothing more.
async fn serve(bytes: &[u8]) {
    let sent = bytes.len();
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let (connection, driver) = connect(theirs, MAX_STREAMS);
    let (mut answers, mut requests) = tokio::io::split(ours);
    let client = async move {
        // A server that gives the connection up reads no more.
        let _ = requests.write_all(bytes).await;
        let _ = requests.shutdown().await;
    };
    let listening = async move {
        let mut buffer = vec![0; 64 << 10];
        let mut all = 0;
        while let Ok(count) = answers.read(&mut buffer).await
            && count > 0
        {
            all += count;
            assert!(all <= MAX_ANSWERS, "the answers do not end");
        }
    };
    let accepting = async move {
        while let Some(stream) = connection.accept().await {
            tokio::spawn(echo(stream, sent));
        }
    };
    let served = async move { tokio::join!(client, accepting, driver) };
    tokio::select! {
        _ = served => {}
        () = listening => {}
    }
}

/// Sends back what comes, as `cat` would.
async fn echo(stream: Stream, sent: usize) {
    let _ = stream.header("streamtype");
    let mut taken = 0;
    while let Some(data) = stream.read().await {
        taken += data.len();
        assert!(taken <= sent, "{taken} bytes of {sent}");
        if stream.write(data).await.is_err() {
            break;
        }
    }
    stream.finish().await;
}
