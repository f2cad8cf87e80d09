"""Makes what is not there yet, or was made of other things."""

import hashlib
import os
import shutil
import sys

import debs
import layout

HERE = os.path.dirname(os.path.realpath(__file__))


def fingerprint(sources, packages=()):
    """What decides a result: the scripts, files beside this one, and the packages."""
    state = hashlib.sha256()
    for name in ["making.py", "layout.py", "debs.py", *sources]:
        with open(f"{HERE}/{name}", "rb") as file:
            state.update(file.read())
    for path in packages:
        state.update(os.path.basename(path).encode() + b"\n")
    return state.hexdigest()


def unless_current(output, mark, write):
    """Has `write(directory)` fill the directory that becomes `output`, unless what is there has the same `mark`."""
    stamp = f"{output}/fingerprint"
    if os.path.exists(stamp) and open(stamp, encoding="ascii").read() == mark:
        print(f"images: {output} is up to date", file=sys.stderr)
        return
    new = output + ".new"
    shutil.rmtree(new, ignore_errors=True)
    os.makedirs(new)
    try:
        write(new)
        with open(f"{new}/fingerprint", "w", encoding="ascii") as file:
            file.write(mark)
        shutil.rmtree(output, ignore_errors=True)
        os.rename(new, output)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    print(f"images: made {output}", file=sys.stderr)


def make(output, sources, packages, write):
    """Has `write(layout, root)` fill the layout `output`, with `packages` unpacked in the directory `root`, unless
    what is there came of the same packages and the same `sources`, files beside this one."""
    packages = debs.fetch(packages)

    def filled(directory):
        root = debs.unpack(packages)
        try:
            target = layout.Layout(directory)
            write(target, root)
            target.close()
        finally:
            shutil.rmtree(root, ignore_errors=True)

    unless_current(output, fingerprint(sources, packages), filled)
