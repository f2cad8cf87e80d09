//! What the daemon tells operators beside its log. All of it is off unless it is set.

use serde::Deserialize;
use tonic::codegen::http::Uri;

use crate::error::{Error, Result};

/// Figures for Prometheus.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Address and port on which `GET /metrics` is answered, over HTTP; empty: nowhere.
    pub address: String,
}

/// Traces for OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracingConfig {
    /// URL of a collector that takes OTLP over gRPC; empty: there are no traces.
    pub endpoint: String,
    /// The share, 0 to 1, of calls that are traced where the caller has not decided that.
    pub sampling_ratio: f64,
}

impl Default for TracingConfig {
    fn default() -> Self {
        TracingConfig { endpoint: String::new(), sampling_ratio: 1.0 }
    }
}

impl TracingConfig {
    /// Checks what the types cannot say.
    pub(super) fn validate(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.sampling_ratio) {
            return Err(Error::Invalid(format!(
                "tracing.sampling_ratio = {}: use 0 to 1",
                self.sampling_ratio
            )));
        }
        let plain = |uri: &Uri| {
            let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
            uri.scheme_str() == Some("http") && !authority.is_empty() && !authority.contains('@')
        };
        if !self.endpoint.is_empty() && !self.endpoint.parse().is_ok_and(|uri| plain(&uri)) {
            // Not with the value: somebody may have put a password into it.
            let text = "tracing.endpoint: use http://HOST:PORT of a collector of OTLP over gRPC, without a user; for one \
                        that wants TLS, run a collector on the node that passes on to it";
            return Err(Error::Invalid(text.into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn nothing_is_told_unless_it_is_set() {
        let config = Config::default();
        assert!(config.metrics.address.is_empty() && config.tracing.endpoint.is_empty());
    }

    #[test]
    fn a_collector_is_a_plain_url() {
        let told = |endpoint: &str| {
            let config = TracingConfig { endpoint: endpoint.into(), ..Default::default() };
            config.validate().err().map(|e| e.to_string())
        };
        for endpoint in ["", "http://127.0.0.1:4317", "http://collector.test", "http://[::1]:4317/"] {
            assert_eq!(told(endpoint), None, "{endpoint}");
        }
        for endpoint in [
            "https://c.test:4317",
            "c.test:4317",
            "http://",
            "http://u:secret@c.test",
            "unix:///x",
            "http://a b",
        ] {
            let text = told(endpoint).expect(endpoint);
            assert!(text.contains("tracing.endpoint") && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn a_share_is_between_none_and_all() {
        for ratio in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            let config = TracingConfig { sampling_ratio: ratio, ..Default::default() };
            assert!(config.validate().unwrap_err().to_string().contains("tracing.sampling_ratio"), "{ratio}");
        }
        TracingConfig { sampling_ratio: 0.0, ..Default::default() }.validate().unwrap();
    }
}
