//! Makes OCI layouts.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A layout being written.
pub struct Layout {
    pub dir: PathBuf,
    entries: Vec<Value>,
}

/// How a layer is stored.
#[derive(Clone, Copy)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".into(), |text, byte| format!("{text}{byte:02x}"))
}

impl Layout {
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layout = Self { dir: dir.to_owned(), entries: Vec::new() };
        layout.write_index();
        layout
    }

    /// A layout in `dir` whose only image, `test`, is `tag` of the layout in `from`.
    pub fn of(from: &Path, tag: &str, dir: &Path) -> Self {
        let mut layout = Self::new(dir);
        let read = |path: PathBuf| fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let index: Value = serde_json::from_slice(&read(from.join("index.json"))).unwrap();
        let mut images = index["manifests"].as_array().unwrap().iter();
        let is_wanted = |entry: &&Value| entry["annotations"]["org.opencontainers.image.ref.name"] == tag;
        let image = images.find(is_wanted).unwrap_or_else(|| panic!("{tag} is not in {}", from.display()));
        let copy = |descriptor: &Value| {
            let to = layout.blob_path(&digest_of(descriptor));
            let bytes = read(from.join("blobs/sha256").join(to.file_name().unwrap()));
            fs::write(to, &bytes).unwrap();
            bytes
        };
        let manifest: Value = serde_json::from_slice(&copy(image)).unwrap();
        manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .chain([&manifest["config"]])
            .for_each(|blob| drop(copy(blob)));
        layout.tag("test", image.clone());
        layout
    }

    fn write_index(&self) {
        let index = json!({"schemaVersion": 2, "manifests": self.entries});
        fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
    }

    /// Stores `bytes` and gives their descriptor.
    pub fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        fs::write(self.blob_path(&digest), bytes).unwrap();
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    pub fn blob_path(&self, digest: &str) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
    }

    /// An image of those archives for `architecture`; its manifest's descriptor.
    pub fn image(&self, layers: &[(&[u8], Compression)], architecture: &str, config: Value) -> Value {
        let diff_ids: Vec<String> = layers.iter().map(|(tar, _)| digest(tar)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let layers: Vec<Value> =
            layers.iter().map(|(tar, compression)| self.layer(tar, *compression)).collect();
        self.manifest(&config, &layers, architecture)
    }

    pub fn layer(&self, tar: &[u8], compression: Compression) -> Value {
        let base = "application/vnd.oci.image.layer.v1.tar";
        match compression {
            Compression::None => self.blob(base, tar),
            Compression::Zstd => self.blob(&format!("{base}+zstd"), &zstd::encode_all(tar, 3).unwrap()),
            Compression::Gzip => {
                let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                gzip.write_all(tar).unwrap();
                self.blob(&format!("{base}+gzip"), &gzip.finish().unwrap())
            }
        }
    }

    pub fn manifest(&self, config: &Value, layers: &[Value], architecture: &str) -> Value {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
        let mut descriptor = self.blob(media_type, manifest.to_string().as_bytes());
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor
    }

    /// An index of those manifests; its descriptor.
    pub fn index(&self, manifests: &[Value]) -> Value {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        self.blob(media_type, index.to_string().as_bytes())
    }

    /// Adds an image with a layer for each of `files` (name and content), uncompressed; its manifest's
    /// descriptor.
    pub fn add(&mut self, tag: &str, files: &[(&str, &[u8])]) -> Value {
        let tars: Vec<_> = files.iter().map(|(name, content)| one_file(name, content)).collect();
        let layers: Vec<_> = tars.iter().map(|tar| (tar.as_slice(), Compression::None)).collect();
        let descriptor = self.image(&layers, "amd64", json!({}));
        self.tag(tag, descriptor.clone());
        descriptor
    }

    /// Names a manifest or index, and it alone.
    pub fn tag(&mut self, name: &str, mut descriptor: Value) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.entries.retain(|entry| entry["annotations"] != descriptor["annotations"]);
        self.entries.push(descriptor);
        self.write_index();
    }
}

/// A layout in `dir` whose image `test` has a layer for each of `files` (name and content), uncompressed.
pub fn simple(dir: &Path, files: &[(&str, &[u8])]) -> Layout {
    let mut layout = Layout::new(&dir.join("layout"));
    layout.add("test", files);
    layout
}

/// A layer with one file.
pub fn one_file(name: &str, content: &[u8]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content).unwrap();
    tar.into_inner().unwrap()
}

/// The digest in a descriptor.
pub fn digest_of(descriptor: &Value) -> String {
    descriptor["digest"].as_str().unwrap().to_owned()
}
