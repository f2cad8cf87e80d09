"""Writes cpio archives in the "newc" format, which is what Linux unpacks as an initramfs
(Documentation/driver-api/early-userspace/buffer-format.rst). It needs no root, even for device nodes, and
the same entries give the same bytes: owner, times and inode numbers are not taken from the file system."""

import os
import stat


class Archive:
    """An archive that grows by entries, in the order in which they are added."""

    def __init__(self):
        self._parts = []
        self._inode = 0

    def _entry(self, name, mode, data=b"", rdev=(0, 0), links=1):
        self._inode += 1
        raw = name.strip("/").encode() + b"\0"
        fields = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, rdev[0], rdev[1], len(raw), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        self._parts += [head, b"\0" * (-len(head) % 4), data, b"\0" * (-len(data) % 4)]

    def directory(self, name, mode=0o755):
        self._entry(name, stat.S_IFDIR | mode, links=2)

    def file(self, name, data, mode=0o644):
        self._entry(name, stat.S_IFREG | mode, data)

    def copy(self, name, path, mode=0o644):
        with open(path, "rb") as source:
            self.file(name, source.read(), mode)

    def device(self, name, major, minor, mode=0o600):
        self._entry(name, stat.S_IFCHR | mode, rdev=(major, minor))

    def symlink(self, name, target):
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def write(self, path):
        """Ends the archive and puts it at `path` in one step, in whole pages: QEMU's microvm machine keeps its ACPI
        tables in what an initrd leaves of the memory's last page, however little that is."""
        self._entry("TRAILER!!!", 0)
        self._parts.append(b"\0" * (-sum(map(len, self._parts)) % 4096))
        part = f"{path}.{os.getpid()}.part"
        with open(part, "wb") as out:
            out.writelines(self._parts)
        os.replace(part, path)
