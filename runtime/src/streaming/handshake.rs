//! The change from HTTP to a streaming protocol: which one the client wants, and the answer.

use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The header in which SPDY clients name protocols, and are answered.
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// Exec's and attach's protocol over SPDY.
const REMOTE_COMMAND: &str = "v4.channel.k8s.io";
/// Port-forward's.
const PORT_FORWARD: &str = "portforward.k8s.io";
/// Over WebSocket, with and without the channel that closes others.
const CHANNELS: &str = "v4.channel.k8s.io";
const CLOSABLE_CHANNELS: &str = "v5.channel.k8s.io";
/// Port-forward's SPDY in a WebSocket.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// How the client's streams come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// SPDY/3.1.
    Spdy,
    /// SPDY/3.1 in a WebSocket.
    Tunnel,
    /// Channels of a WebSocket.
    Channels {
        /// The client knows the CLOSE channel.
        closable: bool,
    },
}

/// The transport and the headers of the answer; or what is wrong with the request. `ports`: it is for a
/// port-forward.
pub fn negotiate(headers: &HeaderMap, ports: bool) -> Result<(Transport, HeaderMap), String> {
    let upgrades = words(headers, UPGRADE);
    let asked = |name: &str| upgrades.iter().any(|word| word.eq_ignore_ascii_case(name));
    if !words(headers, CONNECTION).iter().any(|word| word.eq_ignore_ascii_case("upgrade")) {
        return Err("the request is no upgrade: use a client that speaks SPDY/3.1 or WebSocket".into());
    }
    if asked("SPDY/3.1") {
        let protocol =
            choose(headers, STREAM_PROTOCOL, &[if ports { PORT_FORWARD } else { REMOTE_COMMAND }])?;
        return Ok((Transport::Spdy, answer("SPDY/3.1", [(STREAM_PROTOCOL, protocol)])));
    }
    if asked("websocket") {
        let known = if ports { [TUNNEL, CHANNELS] } else { [CLOSABLE_CHANNELS, CHANNELS] };
        let protocol = choose(headers, SEC_WEBSOCKET_PROTOCOL, &known)?;
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err("the WebSocket's version must be 13".into());
        }
        let key = headers.get(SEC_WEBSOCKET_KEY).ok_or("the WebSocket's key is missing")?;
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()))
            .map_err(|_| "the WebSocket's key cannot be answered")?;
        let transport = match protocol {
            TUNNEL => Transport::Tunnel,
            protocol => Transport::Channels { closable: protocol == CLOSABLE_CHANNELS },
        };
        let mut answer = answer("websocket", [(SEC_WEBSOCKET_PROTOCOL, protocol)]);
        answer.insert(SEC_WEBSOCKET_ACCEPT, accept);
        return Ok((transport, answer));
    }
    Err(format!("cannot upgrade to {upgrades:?}: SPDY/3.1 and websocket are served"))
}

/// The first of our protocols, the best first, that the client knows.
fn choose<'a>(headers: &HeaderMap, name: HeaderName, known: &[&'a str]) -> Result<&'a str, String> {
    let asked = words(headers, name.clone());
    known
        .iter()
        .find(|known| asked.contains(known))
        .copied()
        .ok_or_else(|| format!("none of the protocols {asked:?} ({name}) is served here: {known:?} are"))
}

/// The words of a header that may come several times, and with several words.
fn words(headers: &HeaderMap, name: HeaderName) -> Vec<&str> {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|word| !word.is_empty()).collect()
}

fn answer<const N: usize>(protocol: &'static str, others: [(HeaderName, &str); N]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(protocol));
    for (name, value) in others {
        // The values are constants of this file.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn spdy() {
        let asked = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v5.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io"),
        ]);
        let (transport, answer) = negotiate(&asked, false).unwrap();
        assert_eq!(transport, Transport::Spdy);
        assert_eq!(answer["x-stream-protocol-version"], "v4.channel.k8s.io");
        assert!(negotiate(&asked, true).unwrap_err().contains("portforward.k8s.io"));
    }

    #[test]
    fn websocket() {
        let asked = |protocols| {
            headers(&[
                ("connection", "keep-alive, upgrade"),
                ("upgrade", "WebSocket"),
                ("sec-websocket-version", "13"),
                // The example of RFC 6455, section 1.3.
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-protocol", protocols),
            ])
        };
        let of = |protocols, ports| negotiate(&asked(protocols), ports).map(|(transport, _)| transport);
        let both = "v4.channel.k8s.io, v5.channel.k8s.io";
        assert_eq!(of(both, false), Ok(Transport::Channels { closable: true }));
        assert_eq!(of("v4.channel.k8s.io", false), Ok(Transport::Channels { closable: false }));
        assert_eq!(of(both, true), Ok(Transport::Channels { closable: false }));
        assert_eq!(of("SPDY/3.1+portforward.k8s.io", true), Ok(Transport::Tunnel));
        assert!(of("SPDY/3.1+portforward.k8s.io", false).is_err());
        let (_, answer) = negotiate(&asked(both), false).unwrap();
        assert_eq!(answer["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        assert!(negotiate(&HeaderMap::new(), false).unwrap_err().contains("no upgrade"));
        let other = headers(&[("connection", "upgrade"), ("upgrade", "h2c")]);
        assert!(negotiate(&other, false).unwrap_err().contains("h2c"));
        let old = headers(&[
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "8"),
            ("sec-websocket-protocol", "v4.channel.k8s.io"),
        ]);
        assert!(negotiate(&old, false).unwrap_err().contains("13"));
    }
}
