//! Network configurations: the first file by name in a directory, as libcni's users take it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::NetworkError;

/// The largest configuration that is read, in bytes.
const MAX_CONFIG: u64 = 1 << 20;

/// The versions of the specification that are spoken, the newest last.
const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A network: plugins to be run one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in super::super) struct NetworkList {
    pub(super) name: String,
    pub(super) cni_version: String,
    pub(super) disable_check: bool,
    pub(super) plugins: Vec<PluginConfig>,
    /// The file that it came from.
    pub(in super::super) source: PathBuf,
}

/// One plugin's part.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PluginConfig {
    /// `type`: the name of the binary.
    pub(super) kind: String,
    /// Everything, as written.
    pub(super) raw: Map<String, Value>,
}

impl NetworkList {
    /// Whether the version has CHECK, and DEL with a `prevResult`: since 0.4.0.
    pub(super) fn has_check(&self) -> bool {
        self.cni_version != VERSIONS[0]
    }

    /// The plugin whose result is the list's.
    pub(in super::super) fn last_plugin(&self) -> &str {
        self.plugins.last().map_or("", |plugin| &plugin.kind)
    }
}

impl PluginConfig {
    pub(super) fn has_capability(&self, name: &str) -> bool {
        self.raw.get("capabilities").and_then(|all| all.get(name)).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The address plugin that this one runs.
    pub(super) fn ipam(&self) -> Option<&str> {
        let kind = self.raw.get("ipam")?.get("type")?.as_str()?;
        (!kind.is_empty()).then_some(kind)
    }
}

/// Loads the first `*.conflist`, `*.conf` or `*.json` of `dir` by name.
///
/// # Errors
/// A first file that cannot be used is an error, and the next one is not tried: a node on the wrong network
/// is worse than one that says what is wrong.
pub(in super::super) fn load_first(dir: &Path) -> Result<NetworkList, NetworkError> {
    let none = || NetworkError::NoConfig { dir: dir.to_owned() };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(none()),
        entries => entries.map_err(|error| wrong(dir, error))?,
    };
    let mut first: Option<PathBuf> = None;
    for entry in entries {
        let path = entry.map_err(|error| wrong(dir, error))?.path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        let named = matches!(extension, Some("conflist" | "conf" | "json"));
        if named && !path.is_dir() && first.as_ref().is_none_or(|first| path < *first) {
            first = Some(path);
        }
    }
    let path = first.ok_or_else(none)?;
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(|error| wrong(&path, error))?;
    file.take(MAX_CONFIG + 1).read_to_end(&mut bytes).map_err(|error| wrong(&path, error))?;
    if bytes.len() as u64 > MAX_CONFIG {
        return Err(wrong(&path, format_args!("it is larger than {MAX_CONFIG} bytes")));
    }
    parse(&bytes, &path)
}

/// The parts that are looked at; the rest of a single plugin's configuration goes to the plugin unread.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(default)]
    name: String,
    cni_version: Option<String>,
    #[serde(default)]
    cni_versions: Vec<String>,
    #[serde(default)]
    disable_check: Value,
    plugins: Option<Vec<Map<String, Value>>>,
}

/// Parses a configuration; a `*.conflist` has `plugins`, every other file is one plugin.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<NetworkList, NetworkError> {
    let raw: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| wrong(path, error))?;
    let written: Written = serde_json::from_value(raw.clone().into()).map_err(|error| wrong(path, error))?;
    if !valid_name(&written.name) {
        let why =
            format_args!("name \"{}\" must be [A-Za-z0-9_.-], the first a letter or digit", written.name);
        return Err(wrong(path, why));
    }
    let cni_version = version(&written).map_err(|why| wrong(path, why))?;
    let is_list = path.extension().is_some_and(|extension| extension == "conflist");
    let plugins = match written.plugins {
        Some(plugins) if is_list => plugins,
        None if !is_list => vec![raw],
        Some(_) => return Err(wrong(path, "a file with \"plugins\" must be named *.conflist")),
        None => return Err(wrong(path, "\"plugins\" is missing")),
    };
    if plugins.is_empty() {
        return Err(wrong(path, "\"plugins\" is empty"));
    }
    let plugins = plugins.into_iter().map(|raw| plugin(raw, path)).collect::<Result<_, _>>()?;
    let disable_check = match &written.disable_check {
        Value::Bool(value) => *value,
        Value::String(value) => value == "true",
        _ => false,
    };
    Ok(NetworkList { name: written.name, cni_version, disable_check, plugins, source: path.to_owned() })
}

fn plugin(raw: Map<String, Value>, path: &Path) -> Result<PluginConfig, NetworkError> {
    let kind = raw.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind.is_empty() || kind.contains('/') || kind.starts_with('.') {
        let why = format_args!("a plugin's \"type\" must be the name of a binary, not \"{kind}\"");
        return Err(wrong(path, why));
    }
    if let Some(capabilities) = raw.get("capabilities") {
        // Read here, so that a slip is told and not taken for "false".
        BTreeMap::<String, bool>::deserialize(capabilities)
            .map_err(|error| wrong(path, format_args!("\"capabilities\" of \"{kind}\": {error}")))?;
    }
    Ok(PluginConfig { kind, raw })
}

/// The newest of the versions that the file offers and husk speaks.
fn version(written: &Written) -> Result<String, String> {
    let offered: Vec<&str> =
        written.cni_version.iter().chain(&written.cni_versions).map(String::as_str).collect();
    let spoken = VERSIONS.iter().rev().find(|version| offered.contains(version));
    spoken.map(|version| (*version).to_owned()).ok_or_else(|| {
        let offered =
            if offered.is_empty() { "0.1.0 (none is named)".to_owned() } else { offered.join(", ") };
        format!("cniVersion {offered} is not supported; name one of {}", VERSIONS.join(", "))
    })
}

fn valid_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn wrong(path: &Path, why: impl std::fmt::Display) -> NetworkError {
    NetworkError::Config { path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Result<NetworkList, NetworkError> {
        parse(text.as_bytes(), Path::new("10-net.conflist"))
    }

    #[test]
    fn the_first_file_by_name_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        assert!(matches!(load_first(dir.path()), Err(NetworkError::NoConfig { .. })));
        assert!(matches!(load_first(&dir.path().join("none")), Err(NetworkError::NoConfig { .. })));
        write("20-b.conflist", r#"{"cniVersion":"1.0.0","name":"b","plugins":[{"type":"bridge"}]}"#);
        write("10-a.conf", r#"{"cniVersion":"0.4.0","name":"a","type":"ptp","ipam":{"type":"host-local"}}"#);
        write("00-notes.txt", "not a configuration");
        let first = load_first(dir.path()).unwrap();
        assert_eq!((first.name.as_str(), first.plugins.len()), ("a", 1));
        assert_eq!(first.plugins[0].ipam(), Some("host-local"));
        write("05-broken.conflist", "{");
        let error = load_first(dir.path()).unwrap_err().to_string();
        assert!(error.contains("05-broken.conflist"), "{error}");
    }

    #[test]
    fn versions_are_negotiated() {
        let with = |head: &str| list(&format!(r#"{{{head} "name":"n","plugins":[{{"type":"x"}}]}}"#));
        assert_eq!(with(r#""cniVersion":"0.3.1","#).unwrap().cni_version, "0.3.1");
        let newest = with(r#""cniVersion":"0.4.0","cniVersions":["1.1.0","9.0.0"],"#).unwrap();
        assert_eq!(newest.cni_version, "1.1.0");
        for unsupported in ["", r#""cniVersion":"0.2.0","#, r#""cniVersion":"2.0.0","#] {
            assert!(with(unsupported).unwrap_err().to_string().contains("is not supported"));
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for bad in [
            r#"[]"#,
            r#"{"cniVersion":"1.0.0","name":"n"}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{}]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"../../bin/sh"}]}"#,
            r#"{"cniVersion":"1.0.0","name":"../n","plugins":[{"type":"x"}]}"#,
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"x","capabilities":{"a":"yes"}}]}"#,
        ] {
            assert!(matches!(list(bad), Err(NetworkError::Config { .. })), "{bad}");
        }
    }
}
