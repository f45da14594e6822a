#!/usr/bin/env python3
"""Every object of a CUDA file holds machine code for each architecture, and code that later
ones compile for themselves.

usage: check_cuda.py BUILD

Reads what nvcc puts into an object's section .nv_fatbin; standard library only.
"""
import pathlib
import struct
import subprocess
import sys
import tempfile

WANTED = {("sm", 80), ("sm", 90), ("compute", 80)}  # as in kernels/meson.build
MAGIC = 0xBA55ED50
KINDS = {1: "compute", 2: "sm"}


def section(path):
    with tempfile.NamedTemporaryFile() as f:
        subprocess.run(["objcopy", "-O", "binary", "--only-section=.nv_fatbin",
                        "--set-section-flags=.nv_fatbin=alloc", path, f.name], check=True)
        return pathlib.Path(f.name).read_bytes()


def parts(data):
    """(kind, architecture) of each part of each fat binary."""
    at = 0
    while at + 16 <= len(data):
        magic, _, head, size = struct.unpack_from("<IHHQ", data, at)
        if magic != MAGIC:
            at += 8
            continue
        at, end = at + head, at + head + size
        while at < end:
            kind, _, head, size = struct.unpack_from("<HHIQ", data, at)
            yield KINDS.get(kind, f"kind {kind}"), struct.unpack_from("<I", data, at + 28)[0]
            at += head + size
        at = end


def main():
    objects = sorted(pathlib.Path(sys.argv[1]).rglob("*.cu.o"))
    good = bool(objects)
    if not objects:
        print(f"{sys.argv[1]}: no object of a CUDA file")
    for path in objects:
        found = set(parts(section(path)))
        said = " ".join(f"{kind}_{arch}" for kind, arch in sorted(found))
        print(f"{path.name}: {said or 'nothing'}")
        if not WANTED <= found:
            good = False
            print("  missing: " + " ".join(f"{k}_{a}" for k, a in sorted(WANTED - found)))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
