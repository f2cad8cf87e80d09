//! A connection of the host's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_vsock::VsockStream;
use tonic::transport::server::Connected;

/// The most bytes handed to the kernel at once.
///
/// Linux copies what one write sends into one contiguous buffer of up to 64 KiB. In a guest whose memory is
/// fragmented it may find no such block, fail the write with ENOMEM and so end the connection; blocks of up to
/// eight pages, their header included, it goes on looking for until it has one (`PAGE_ALLOC_COSTLY_ORDER`).
const MAX_WRITE: usize = 28 << 10;

/// A vsock stream that asks the kernel for small buffers only.
pub struct Connection(pub VsockStream);

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let data = data.get(..MAX_WRITE).unwrap_or(data);
        Pin::new(&mut self.0).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = <VsockStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.0.connect_info()
    }
}
