"""OCI image layouts, written the same way every time (image-spec v1.1)."""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
# 2024-01-01, for all that has no time of its own.
TIME = 1704067200


class Layer:
    """The entries of one layer, in the order in which they are added; parents come by themselves."""

    def __init__(self, compression="gzip"):
        self.compression = compression
        self.entries = []
        self.names = set()

    def add(self, path, kind=tarfile.REGTYPE, data=b"", mode=None, **fields):
        """One entry. `fields` are TarInfo's: uid, gid, mtime, linkname, devmajor, pax_headers."""
        path = path.strip("/")
        parent = os.path.dirname(path)
        if parent and parent not in self.names:
            self.add(parent, tarfile.DIRTYPE)
        self.names.add(path)
        entry = tarfile.TarInfo(path)
        entry.type = kind
        entry.size = len(data)
        entry.mtime = TIME
        entry.mode = mode if mode is not None else 0o755 if kind == tarfile.DIRTYPE else 0o644
        for name, value in fields.items():
            setattr(entry, name, value)
        self.entries.append((entry, data))
        return self

    def directory(self, path, mode=0o755, **fields):
        return self.add(path, tarfile.DIRTYPE, mode=mode, **fields)

    def text(self, path, text, mode=0o644, **fields):
        return self.add(path, data=text.encode(), mode=mode, **fields)

    def copy(self, path, source, mode=0o755, **fields):
        with open(source, "rb") as file:
            return self.add(path, data=file.read(), mode=mode, **fields)

    def symlink(self, path, target, **fields):
        return self.add(path, tarfile.SYMTYPE, mode=0o777, linkname=target, **fields)

    def hard_link(self, path, target, **fields):
        """A hard link. Its header repeats the target's fields: what else it said would be anyone's guess."""
        target = target.strip("/")
        for entry, _ in self.entries:
            if entry.name == target:
                known = ("mode", "uid", "gid", "mtime")
                fields = {**{name: getattr(entry, name) for name in known}, **fields}
        return self.add(path, tarfile.LNKTYPE, linkname=target, **fields)

    def program(self, root, path):
        """An executable of the unpacked packages, with the shared libraries that it needs."""
        loader = f"{root}/lib64/ld-linux-x86-64.so.2"
        libraries = f"{root}/lib/x86_64-linux-gnu:{root}/usr/lib/x86_64-linux-gnu"
        # Debian's link is absolute; the file itself is beside the libraries.
        loader = f"{root}/lib/x86_64-linux-gnu/{os.path.basename(os.readlink(loader))}"
        command = [loader, "--library-path", libraries, "--list", root + path]
        listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        self.copy(path, root + path)
        for library in re.findall(r"=> " + re.escape(root) + r"(/\S+)", listed):
            name = os.path.basename(library)
            self.copy(f"lib/x86_64-linux-gnu/{name}", os.path.realpath(root + library), 0o644)
        self.copy("lib64/ld-linux-x86-64.so.2", loader)
        return self

    def tar(self):
        """The layer as an uncompressed archive."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for entry, data in self.entries:
                archive.addfile(entry, io.BytesIO(data))
        return out.getvalue()

    def blob(self):
        """The media type, the blob and the diff id."""
        tar = self.tar()
        diff_id = "sha256:" + hashlib.sha256(tar).hexdigest()
        if self.compression == "gzip":
            return LAYER + "+gzip", gzip.compress(tar, 6, mtime=0), diff_id
        if self.compression == "zstd":
            command = ["zstd", "-q", "-c", "-19"]
            packed = subprocess.run(command, input=tar, check=True, capture_output=True).stdout
            return LAYER + "+zstd", packed, diff_id
        return LAYER, tar, diff_id


class Layout:
    """A directory being filled."""

    def __init__(self, path):
        self.path = path
        self.index = []
        self.layers = {}
        os.makedirs(f"{path}/blobs/sha256")

    def put(self, media_type, data, **fields):
        """Stores a blob; answers its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        with open(f"{self.path}/blobs/sha256/{digest}", "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **fields}

    def put_json(self, media_type, value, **fields):
        return self.put(media_type, json.dumps(value, sort_keys=True).encode(), **fields)

    def manifest(self, layers, config, architecture="amd64", diff_ids=None):
        """Stores an image's layers, configuration and manifest; answers the manifest's descriptor."""
        descriptors, own_ids = [], []
        for layer in layers:
            if id(layer) not in self.layers:
                media_type, blob, diff_id = layer.blob()
                self.layers[id(layer)] = (self.put(media_type, blob), diff_id, layer)
            descriptor, diff_id, _ = self.layers[id(layer)]
            descriptors.append(descriptor)
            own_ids.append(diff_id)
        created = "2024-01-01T00:00:00Z"
        configuration = {
            "architecture": architecture,
            "os": "linux",
            "created": created,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids or own_ids},
            "history": [{"created": created, "created_by": "tests/images/build"} for _ in layers],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.put_json(CONFIG, configuration),
            "layers": descriptors,
        }
        return self.put_json(MANIFEST, manifest, platform={"architecture": architecture, "os": "linux"})

    def name(self, name, descriptor):
        """Gives an image its reference name."""
        annotations = {"org.opencontainers.image.ref.name": name}
        self.index.append({**descriptor, "annotations": annotations})

    def image(self, name, layers, config, **options):
        """An image for one platform."""
        self.name(name, self.manifest(layers, config, **options))

    def multi(self, name, manifests):
        """An image index."""
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        self.name(name, self.put_json(INDEX, index))

    def close(self):
        """Writes what makes the directory a layout."""
        with open(f"{self.path}/oci-layout", "w", encoding="ascii") as file:
            file.write('{"imageLayoutVersion": "1.0.0"}')
        with open(f"{self.path}/index.json", "w", encoding="ascii") as file:
            json.dump({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.index}, file, indent=1)
