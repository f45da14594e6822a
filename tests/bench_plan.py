#!/usr/bin/env python3
"""How long ccq-quantize --dry-run takes for models of full size, and what it says.

usage: bench_plan.py CCQ-QUANTIZE

Headers without data (data/make_header.py) of 300B, 21B and 0.3B. Goals: 2 s and
200 MB for each, and the bytes of every row of sizes.json, where $CCQ_SHARED has it.
Exit 1 when one is missed.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(TOP / "data"))
import make_header  # noqa: E402

SIZES = pathlib.Path(os.environ.get("CCQ_SHARED", TOP.parent.parent / "shared"))
SIZES = SIZES / "golden" / "sizes.json"
KNOWN = {"300B": 93818311424, "21B": 7792676608, "0.3B": 467079168}


def plan(tool, model, *options):
    """The plan, seconds, and peak bytes of memory."""
    begin = time.monotonic()
    p = subprocess.Popen([tool, "--dry-run", "--json", "-q", *options, str(model),
                          str(model) + ".out"], stdout=subprocess.PIPE)
    text = p.stdout.read()
    _, status, usage = os.wait4(p.pid, 0)
    seconds = time.monotonic() - begin
    if status:
        sys.exit(f"{model}: status {status}")
    return json.loads(text), seconds, usage.ru_maxrss * 1024


def options_of(model, w4_end):
    return ["--scheme=wint8"] if model == "0.3B" else [f"--w4-end-layer={w4_end}"]


def rows():
    return json.loads(SIZES.read_text()) if SIZES.exists() else []


def main():
    tool, good = sys.argv[1], True
    with tempfile.TemporaryDirectory() as tmp:
        for model in make_header.MODELS:
            path = pathlib.Path(tmp) / model
            count, _ = make_header.write_model(path, model)
            options = ["--scheme=wint8"] if model == "0.3B" else []
            runs = [plan(tool, path, *options) for _ in range(3)]
            made, seconds, memory = runs[0][0], min(r[1] for r in runs), max(r[2] for r in runs)
            fine = seconds < 2 and memory < 200e6 and made["tensor_bytes"] == KNOWN[model]
            print(f"{model}: {count} tensors, {made['tensor_bytes']} bytes planned in "
                  f"{seconds:.3f} s and {memory / 1e6:.1f} MB{'' if fine else '  MISSED'}")
            good &= fine
        for row in rows():
            model = row["model"].split("-")[0]
            path = pathlib.Path(tmp) / f"{model}-{row['tied']}"
            make_header.write_model(path, model, row["tied"])
            ranks = row["tensor_parallel"]
            made, _, _ = plan(tool, path, f"--tensor-parallel={ranks}",
                              *options_of(model, row["w4_end_layer"]))
            equal = made["bytes_by_kind"] == row["bytes"]
            equal &= made["tensor_bytes"] == row["total_bytes"]
            print(f"{row['model']} w4_end_layer {row['w4_end_layer']} tied {row['tied']} "
                  f"ranks {ranks}: "
                  f"{made['tensor_bytes']} {'as listed' if equal else 'NOT AS LISTED'}")
            good &= equal
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
