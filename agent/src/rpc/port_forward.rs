//! Connections to the pod's own ports.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures_util::stream;
use husk_proto::agent::{PortForwardRequest, PortForwardResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tonic::codegen::BoxStream;
use tonic::{Status, Streaming};

/// What the RPC answers.
pub type Received = BoxStream<PortForwardResponse>;

/// How long a listener whose queue is full may keep a connection waiting.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The most bytes in one response.
const MAX_CHUNK: usize = 16 << 10;

/// Connects to the port that the first request names and carries bytes both ways.
pub async fn forward(mut requests: Streaming<PortForwardRequest>) -> Result<Received, Status> {
    let first = requests.message().await?;
    let first = first.ok_or_else(|| Status::invalid_argument("the first request names no port"))?;
    let port = u16::try_from(first.port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Status::invalid_argument(format!("{} is no TCP port", first.port)))?;
    let connection = connect(port).await.map_err(|e| {
        Status::failed_precondition(format!("nobody accepts at port {port} of the pod's loopback: {e}"))
    })?;
    let (reader, writer) = connection.into_split();
    tokio::spawn(send(writer, first.data, requests));
    Ok(Box::pin(stream::unfold(Some(reader), async |reader| {
        let mut reader = reader?;
        let mut data = vec![0; MAX_CHUNK];
        match reader.read(&mut data).await {
            // A reset is an end like any other to who forwards it.
            Ok(0) | Err(_) => None,
            Ok(count) => {
                data.truncate(count);
                Some((Ok(PortForwardResponse { data }), Some(reader)))
            }
        }
    })))
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    match connect_to(Ipv4Addr::LOCALHOST.into(), port).await {
        Ok(connection) => Ok(connection),
        // What a person knows is 127.0.0.1: its error is the one that is told.
        Err(error) => connect_to(Ipv6Addr::LOCALHOST.into(), port).await.map_err(|_| error),
    }
}

async fn connect_to(address: IpAddr, port: u16) -> io::Result<TcpStream> {
    let connecting = TcpStream::connect(SocketAddr::new(address, port));
    let connection = tokio::time::timeout(CONNECT_LIMIT, connecting)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    connection.set_nodelay(true)?;
    Ok(connection)
}

/// Writes what comes; dropped at the end, the half closes its side of the connection.
async fn send(mut writer: OwnedWriteHalf, first: Vec<u8>, mut requests: Streaming<PortForwardRequest>) {
    let mut data = first;
    while writer.write_all(&data).await.is_ok() {
        match requests.message().await {
            Ok(Some(next)) => data = next.data,
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn one_of_the_two_loopbacks_will_do() {
        block_on(async {
            for address in ["127.0.0.1:0", "[::1]:0"] {
                // A machine without IPv6 has nothing to try.
                let Ok(listener) = TcpListener::bind(address).await else { continue };
                let port = listener.local_addr().unwrap().port();
                assert_eq!(connect(port).await.unwrap().peer_addr().unwrap(), listener.local_addr().unwrap());
            }
        });
    }

    #[test]
    fn a_port_without_a_listener_is_told() {
        block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            drop(listener);
            assert_eq!(connect(port).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        });
    }
}
