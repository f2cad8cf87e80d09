"""Debian packages: fetched with apt into a cache, unpacked without being installed."""

import glob
import os
import subprocess
import sys
import tempfile

CACHE = os.environ.get("HUSK_CACHE") or os.path.expanduser("~/.cache/husk")


def _run(command, **options):
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, **options)


def _file_names(packages):
    """What apt would download now: package to file name."""
    command = ["apt-get", "download", "--print-uris", *packages]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        return None
    names = [line.split()[1] for line in result.stdout.splitlines() if line.startswith("'")]
    return {name.split("_")[0]: name for name in names}


def fetch(packages):
    """The packages' files, in order; only what the cache lacks is downloaded."""
    cache = f"{CACHE}/debs"
    os.makedirs(cache, exist_ok=True)
    names = _file_names(packages)
    if names is None or any(package not in names for package in packages):
        # Without package lists, what an earlier run has left is as good.
        kept = {package: glob.glob(f"{cache}/{package}_*.deb") for package in packages}
        if all(kept.values()):
            return [max(kept[package], key=os.path.getmtime) for package in packages]
        print("images: refreshing the package lists", file=sys.stderr)
        as_root = [] if os.getuid() == 0 else ["sudo"]
        _run([*as_root, "apt-get", "update"], stdout=sys.stderr)
        names = _file_names(packages)
        if names is None:
            sys.exit(f"images: apt does not know all of {' '.join(packages)}; is this Debian 12?")
    missing = [package for package in packages if not os.path.exists(f"{cache}/{names[package]}")]
    if missing:
        print(f"images: downloading {' '.join(missing)}", file=sys.stderr)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            _run(["apt-get", "-o", "APT::Sandbox::User=root", "download", *missing], cwd=work, stdout=subprocess.DEVNULL)
            for package in missing:
                os.rename(f"{work}/{names[package]}", f"{cache}/{names[package]}")
    return [f"{cache}/{names[package]}" for package in packages]


def unpack(files):
    """A directory with the files of all the packages; the caller removes it."""
    root = tempfile.mkdtemp(prefix="husk-images.")
    for file in files:
        _run(["dpkg", "-x", file, root])
    return root
