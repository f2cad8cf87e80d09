//! The guest's root: this very program as its init (it is static), and busybox.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const DIRECTORY: u32 = 0o040_755;
const EXECUTABLE: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// A cpio archive in the kernel's "newc" form (Documentation/driver-api/early-userspace/buffer-format.rst).
struct Archive(Vec<u8>);

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let fields =
            [0, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
        self.0.extend(b"070701");
        fields.iter().for_each(|field| write!(self.0, "{field:08x}").unwrap());
        self.0.extend(name.as_bytes());
        self.0.push(0);
        self.pad();
        self.0.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// Writes the archive to `path`.
pub fn write(path: &Path) {
    let mut archive = Archive(Vec::new());
    for directory in ["bin", "dev", "proc", "sys", "tmp", "mnt"] {
        archive.add(directory, DIRECTORY, (0, 0), &[]);
    }
    archive.add("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let busybox = fs::read(busybox.expect("busybox (Debian: busybox-static)")).unwrap();
    archive.add("bin/busybox", EXECUTABLE, (0, 0), &busybox);
    archive.add("init", EXECUTABLE, (0, 0), &fs::read("/proc/self/exe").unwrap());
    archive.add("TRAILER!!!", 0, (0, 0), &[]);
    fs::write(path, archive.0).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
}
