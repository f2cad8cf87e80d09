"""Makes a layout where it is not there yet, or was made of other things."""

import hashlib
import os
import shutil
import sys

import debs
import layout

HERE = os.path.dirname(os.path.realpath(__file__))


def _fingerprint(sources, packages):
    """What decides the result: the scripts and the packages."""
    state = hashlib.sha256()
    for name in sources:
        with open(f"{HERE}/{name}", "rb") as file:
            state.update(file.read())
    for path in packages:
        state.update(os.path.basename(path).encode() + b"\n")
    return state.hexdigest()


def make(output, sources, packages, write):
    """Has `write(layout, root)` fill the layout `output`, with `packages` unpacked in the directory `root`, unless
    what is there came of the same packages and the same `sources`, files beside this one."""
    packages = debs.fetch(packages)
    mark = _fingerprint(["making.py", "layout.py", "debs.py", *sources], packages)
    stamp = f"{output}/fingerprint"
    if os.path.exists(stamp) and open(stamp, encoding="ascii").read() == mark:
        print(f"images: {output} is up to date", file=sys.stderr)
        return
    root = debs.unpack(packages)
    shutil.rmtree(output + ".new", ignore_errors=True)
    target = layout.Layout(output + ".new")
    try:
        write(target, root)
        target.close()
        with open(f"{output}.new/fingerprint", "w", encoding="ascii") as file:
            file.write(mark)
        shutil.rmtree(output, ignore_errors=True)
        os.rename(output + ".new", output)
    finally:
        shutil.rmtree(output + ".new", ignore_errors=True)
        shutil.rmtree(root, ignore_errors=True)
    print(f"images: {len(target.index)} images in {output}", file=sys.stderr)
