#!/usr/bin/env python3
"""The same files through ccq and through the Python package safetensors: both take a
file or both refuse it, but for what ccq refuses on purpose.

usage: test_differential.py OPEN_FILE MAKE_DATA CORPUS   (77 without the package)

CCQ_SEED repeats a run, CCQ_ROUNDS (2000) is how many mutations are made.
"""
import json
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

try:
    import safetensors
except ImportError:
    print("skipped: no Python package safetensors")
    sys.exit(77)

OPENER, MAKE_DATA, CORPUS = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
SEED = int(os.environ.get("CCQ_SEED", "14"))
ROUNDS = int(os.environ.get("CCQ_ROUNDS", "2000"))
# What the package takes and ccq refuses, each with its reason in docs/format.md: keys
# twice (the last one wins there), limits, a NUL in a name.
ON_PURPOSE = {"DUPLICATE", "LIMIT", "NAME"}
NUMBERS = [0, 1, 2, 3, 4, 7, 8, 16, 255, 2**31, 2**32, 2**53 + 1, 2**61, 2**63, 2**64 - 1, 2**64]
TYPES = ["BOOL", "U8", "I8", "F16", "BF16", "I32", "F32", "F64", "I64", "F8_E4M3", "F8_E5M2", "U16",
         "U32", "U64", "I16", "BF17", "f32", ""]


def python_opens(path):
    try:
        with safetensors.safe_open(str(path), framework="np") as f:
            f.keys()
    except (safetensors.SafetensorError, OSError):
        return False
    return True


def ccq_opens(paths):
    args = [x for p in paths for x in ("file", str(p))]
    r = subprocess.run([OPENER, *args], capture_output=True, text=True, errors="replace",
                       check=True, timeout=120)
    return [line.split("\t")[0] for line in r.stdout.split("\n")[:-1]]


def compare(paths):
    faults, counts = [], {"both take": 0, "both refuse": 0, "on purpose": 0}
    for i in range(0, len(paths), 100):
        for path, code in zip(paths[i:i + 100], ccq_opens(paths[i:i + 100])):
            theirs = python_opens(path)
            if theirs == (code == "OK"):
                counts["both take" if theirs else "both refuse"] += 1
            elif theirs and code in ON_PURPOSE:
                counts["on purpose"] += 1
            else:
                faults.append((path, code, theirs))
    return faults, counts


def value(rng, depth=0):
    kind = rng.randrange(8)
    if kind < 4 or depth > 2:
        return rng.choice(NUMBERS)
    return rng.choice([None, True, "x", 1.5, -1, [], {}, [value(rng, depth + 1)],
                       {"k": value(rng, depth + 1)}])


def header(rng):
    """A good header, then some of it changed."""
    out, at = {}, 0
    if rng.randrange(3) == 0:
        out["__metadata__"] = {"format": "np"}
    for i in range(rng.randrange(5)):
        n = rng.choice([0, 1, 2, 4, 8])
        dtype = rng.choice(["U8", "I8", "BOOL", "F8_E4M3"])
        out[f"t{i}"] = {"dtype": dtype, "shape": [n], "data_offsets": [at, at + n]}
        at += n
    if out and rng.randrange(4):
        for _ in range(rng.randrange(1, 3)):
            key = rng.choice(list(out))
            member = out[key]
            if not isinstance(member, dict) or not member or rng.randrange(6) == 0:
                out[key] = value(rng)
                continue
            inner = rng.choice(list(member))
            change = rng.randrange(5)
            if change == 0:
                del member[inner]
            elif change == 1:
                member[inner] = value(rng)
            elif change == 2:
                member["dtype"] = rng.choice(TYPES)
            elif isinstance(member.get(inner), list) and member[inner]:
                member[inner][rng.randrange(len(member[inner]))] = rng.choice(NUMBERS)
            else:
                member[rng.choice(["extra", "shape", "dtype"])] = value(rng)
    return out, at


def mutated(rng):
    h, size = header(rng)
    text = json.dumps(h, separators=rng.choice([(",", ":"), (", ", ": ")])).encode()
    text += b" " * rng.choice([0, 0, 1, 8])
    length = len(text) + rng.choice([0] * 20 + [1, -1, 8])
    size += rng.choice([0] * 10 + [1, -1])
    data = bytearray(struct.pack("<Q", max(length, 0)) + text + bytes(max(size, 0)))
    if rng.randrange(6) == 0 and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def main():
    print(f"seed: CCQ_SEED={SEED}, safetensors {safetensors.__version__}")
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="ccq-differential-") as temp:
        root = pathlib.Path(temp)
        made = subprocess.run([sys.executable, MAKE_DATA, root], capture_output=True, text=True,
                              check=True, encoding="utf-8").stdout
        rows = [line.split("\t") for line in made.splitlines()]
        paths = [root / path for kind, _, path, _ in rows
                 if kind == "file" and (root / path).is_file()
                 and (root / path).stat().st_size < 1 << 27]
        paths += sorted(p for p in CORPUS.iterdir() if p.is_file())
        for i in range(ROUNDS):
            paths.append(root / f"mutated-{i}.safetensors")
            paths[-1].write_bytes(mutated(rng))
        faults, counts = compare(paths)
        for path, code, theirs in faults:
            print(f"{path.name}: ccq {code}, the package {'takes' if theirs else 'refuses'} it: "
                  f"{path.read_bytes()[:300]!r}")
    print(f"{len(paths)} files:", ", ".join(f"{n} {k}" for k, n in counts.items()),
          f"{len(faults)} differences")
    return 1 if faults or not all(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
