"""A real system as an image: Debian, and a build's step on top of it.

The layers are made by umoci of what debootstrap and dpkg leave behind, as image builders make them."""

import os
import shutil
import subprocess

import debs

# dpkg installs them in the step; ping's capability is set by its package's own script, with libcap2-bin's tool.
PACKAGES = ["iputils-ping", "libcap2-bin", "libidn2-0", "libunistring2"]

# Files are added, replaced and removed, directories emptied and removed, and a link is turned.
STEP = """\
set -e
dpkg --install /step/*.deb
dpkg --purge --force-depends tzdata
useradd --create-home app
rm -rf /usr/share/doc /usr/share/man /step
mkdir /usr/share/doc
ln -sf bash /bin/sh
"""

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}


class System:
    """The OCI layout `layout` (a path) in the making; `root` is the directory with the system's files."""

    def __init__(self, layout, work):
        self.layout = layout
        self.bundle = f"{work}/bundle"
        self.root = f"{self.bundle}/rootfs"
        self._umoci("init", "--layout", layout)
        self._umoci("new", "--image", f"{layout}:empty")
        self._umoci("unpack", "--image", f"{layout}:empty", self.bundle)

    def _umoci(self, *command):
        subprocess.run(["umoci", *command], check=True, stdout=subprocess.DEVNULL)

    def commit(self, name):
        """Makes what has changed in `root` a layer, and all layers so far the image `name`."""
        self._umoci("repack", "--refresh-bundle", "--image", f"{self.layout}:{name}", self.bundle)

    def step(self):
        """Runs the build's step."""
        os.mkdir(f"{self.root}/step")
        for package in debs.fetch(PACKAGES):
            shutil.copy(package, f"{self.root}/step")
        command = ["chroot", self.root, "/bin/sh", "-c", STEP]
        subprocess.run(command, check=True, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def close(self, *names):
        """Forgets all images but `names`."""
        listed = subprocess.run(["umoci", "list", "--layout", self.layout], check=True, capture_output=True, text=True)
        for name in set(listed.stdout.split()) - set(names):
            self._umoci("remove", "--image", f"{self.layout}:{name}")
        self._umoci("gc", "--layout", self.layout)
