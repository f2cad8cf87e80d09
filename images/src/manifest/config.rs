//! The image's configuration: data for whoever runs it, of which only the layers matter here.

use oci_spec::image::{Arch, ImageConfiguration, ImageManifest, Os};
use serde_json::Value;

use crate::digest;
use crate::error::{ImageError, Result};

/// Reads a configuration. Builders leave out what the specification requires, or write `null` for it: a
/// missing platform is linux/amd64.
pub(crate) fn parse_config(bytes: &[u8]) -> Result<ImageConfiguration> {
    let corrupt = |error| {
        let told = digest::clip_error(&error);
        ImageError::Corrupt(format!("the image's configuration does not parse: {told}"))
    };
    let mut value: Value = serde_json::from_slice(bytes).map_err(corrupt)?;
    strip_nulls(&mut value);
    if let Value::Object(fields) = &mut value {
        for (name, default) in [("architecture", "amd64"), ("os", "linux")] {
            let field = fields.entry(name).or_insert_with(|| default.into());
            if field == "" {
                *field = default.into();
            }
        }
    }
    serde_json::from_value(value).map_err(corrupt)
}

fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// The diff-ids of `config`'s layers, if it is for this machine and fits `manifest`.
pub(crate) fn check_config(
    config: &ImageConfiguration,
    manifest: &ImageManifest,
    reference: &str,
) -> Result<Vec<String>> {
    if *config.os() != Os::Linux || *config.architecture() != Arch::Amd64 {
        let found = format!("{}/{}", config.os(), config.architecture());
        let found = digest::clip(&found).escape_default().to_string();
        return Err(ImageError::UnsupportedPlatform { reference: reference.into(), found });
    }
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != manifest.layers().len() {
        return Err(ImageError::Corrupt(format!(
            "{reference}: the configuration has {} layers, the manifest {}",
            diff_ids.len(),
            manifest.layers().len()
        )));
    }
    for diff_id in diff_ids {
        digest::hex(diff_id)?;
    }
    Ok(diff_ids.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOTFS: &str = r#""rootfs":{"type":"layers","diff_ids":[]}"#;

    fn manifest() -> ImageManifest {
        let digest = format!("sha256:{}", "0".repeat(64));
        serde_json::from_value(serde_json::json!({
            "schemaVersion": 2, "layers": [], "config": {"mediaType": "x", "size": 1, "digest": digest},
        }))
        .unwrap()
    }

    fn check(text: &str) -> Result<Vec<String>> {
        check_config(&parse_config(text.as_bytes())?, &manifest(), "x")
    }

    #[test]
    fn what_builders_leave_out_is_filled_in() {
        assert!(check(&format!("{{{ROOTFS}}}")).unwrap().is_empty());
        let docker = format!(
            r#"{{"architecture":"","os":null,"created":null,{ROOTFS},"history":null,"container_config":{{"x":1}},
            "config":{{"User":"","ExposedPorts":null,"Env":["A=b"],"Entrypoint":null,"Cmd":["sh"],"Volumes":null,
            "Labels":{{"io.kata-containers.x":"data"}},"OnBuild":null,"WorkingDir":"","StopSignal":"SIGTERM"}}}}"#
        );
        let config = parse_config(docker.as_bytes()).unwrap();
        assert_eq!(config.config().as_ref().unwrap().cmd().as_deref(), Some(&["sh".to_owned()][..]));
        let ports =
            format!(r#"{{{ROOTFS},"config":{{"ExposedPorts":{{"80/tcp":{{}}}},"Volumes":{{"/v":{{}}}}}}}}"#);
        assert!(parse_config(ports.as_bytes()).is_ok());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(matches!(check("{}"), Err(ImageError::Corrupt(_))));
        assert!(matches!(check("[]"), Err(ImageError::Corrupt(_))));
        let long = format!(r#"{{{ROOTFS},"history":"{}"}}"#, "x".repeat(1 << 20));
        assert!(check(&long).unwrap_err().to_string().len() < 1000);
        let arm = format!(r#"{{"architecture":"arm64","os":"linux",{ROOTFS}}}"#);
        assert!(check(&arm).unwrap_err().to_string().contains("linux/arm64"));
        let layers = |ids: &str| check(&format!(r#"{{"rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#));
        assert!(layers(r#""sha256:00""#).unwrap_err().to_string().contains("1 layers, the manifest 0"));
        assert!(matches!(layers("1"), Err(ImageError::Corrupt(_))));
    }
}
