//! Where the things under test are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Built programs and guest assets.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The checkout.
    pub checkout: PathBuf,
    /// Directory of `husk`, `husk-vmm` and `husk-convert`: the one this program itself was built into.
    pub programs: PathBuf,
}

impl Paths {
    /// Finds them.
    ///
    /// # Panics
    /// When one is missing, with the command that makes it.
    pub fn find() -> Paths {
        let own = std::env::current_exe().expect("the path of this program");
        let dir = own.parent().expect("a program is in a directory");
        // Cargo leaves tests in `deps`, below the programs.
        let programs = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
        let checkout =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate is below the checkout");
        let paths = Paths { checkout: checkout.to_owned(), programs: programs.to_owned() };
        let needed = [
            (paths.program("husk"), "make build"),
            (paths.program("husk-vmm"), "make build"),
            (paths.program("husk-convert"), "make build"),
            (paths.kernel(), "make kernel"),
            (paths.initramfs(), "make initramfs"),
            (paths.images().join("index.json"), "make images"),
            (paths.disks().join("fingerprint"), "make images"),
        ];
        for (path, mend) in needed {
            assert!(path.is_file(), "{} is not there: run `{mend}`", path.display());
        }
        paths
    }

    /// A built program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// A tool, from where tests/tools says that it is.
    pub fn tool(&self, name: &str) -> PathBuf {
        let script = self.checkout.join("tests/tools").join(name);
        crate::run(&mut Command::new(script)).trim().into()
    }

    /// The guest's kernel.
    pub fn kernel(&self) -> PathBuf {
        self.checkout.join("target/guest/vmlinux")
    }

    /// The guest's initramfs.
    pub fn initramfs(&self) -> PathBuf {
        self.checkout.join("target/guest/initramfs.cpio")
    }

    /// Makes an initramfs with one of the built programs as its init.
    pub fn pack_init(&self, program: &str, to: &Path) {
        let mut pack = Command::new(self.checkout.join("guest-kernel/initramfs"));
        crate::run(pack.arg(self.program(program)).arg(to));
    }

    /// The OCI layout of test images.
    pub fn images(&self) -> PathBuf {
        self.checkout.join("target/test-images")
    }

    /// The OCI layout of critest's images.
    pub fn conformance_images(&self) -> PathBuf {
        self.checkout.join("target/conformance-images")
    }

    /// The disks.
    pub fn disks(&self) -> PathBuf {
        self.checkout.join("target/test-disks")
    }
}

/// What is in a directory; nothing if it is not there.
pub fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
