#!/usr/bin/env python3
"""The output of several builds of ccq-quantize is the same, byte for byte: whatever the
compiler, its optimization, the instruction set and the threads.

usage: same_bytes.py MODEL CCQ-QUANTIZE...
"""
import hashlib
import pathlib
import subprocess
import sys
import tempfile

CASES = (["--effort=fast", "--w4-end-layer=1"], ["--effort=normal", "--w4-end-layer=-1"],
         ["--scheme=wint4", "--weight-only-rule=cpu"], ["--scheme=block_wise_fp8"])
THREADS = (1, 2, 3, 7, 64)  # the first case with each of them, the others with one


def instruction_sets(tool):
    out = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    return next(line for line in out.splitlines() if line.startswith("isa:")).split()[1:]


def digest(tool, model, *options):
    h = hashlib.sha256()
    with tempfile.TemporaryDirectory() as tmp:
        out = pathlib.Path(tmp) / "out"
        subprocess.run([tool, "-q", *options, model, out], check=True)
        for p in sorted(out.iterdir()):
            h.update(p.name.encode() + b"\0" + p.read_bytes())
    return h.hexdigest()


def main():
    model, tools = sys.argv[1], sys.argv[2:]
    good = True
    for case in CASES:
        found = {}
        for tool in tools:
            sets = instruction_sets(tool)
            for i, isa in enumerate(sets):
                allowed = "--cpu-isa=" + ",".join(sets[:i + 1])
                for threads in THREADS if case is CASES[0] else THREADS[2 * i:2 * i + 1]:
                    made = digest(tool, model, f"-j{threads}", allowed, *case)
                    found.setdefault(made, []).append(f"{tool} {isa} {threads}")
        print(f"{' '.join(case)}: {sum(map(len, found.values()))} runs, {len(found)} outputs")
        if len(found) != 1:
            good = False
            for one, runs in found.items():
                print(f"  {one[:16]}: {', '.join(runs)}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
