#!/usr/bin/env python3
"""Runs every fuzz target under the sanitizers, two at a time, and prints how much of its
reader it reached: branches of the reader's own files, counted by gcov.

usage: coverage.py BUILD [ROUNDS [TARGET...]]   (BUILD is made when it is not there)

Standard library only; needs gcc, gcov and meson.
"""
import collections
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
READERS = {
    "safetensors": ["safetensors_read", "safetensors_layout", "checkpoint", "table", "json"],
    "shards": ["shard_index", "checkpoint", "safetensors_read", "safetensors_layout"],
    "splice": ["config", "config_splice"],
    "json": ["json", "json_write"],
    "npz": ["npz", "npy_header", "zip_read"],
    "pdparams": ["pdparams", "pickle", "pickle_ops", "pickle_match", "payload"],
    "journal": ["journal", "identity"],
    "recipe": ["recipe", "rules"],
    "prompts": ["jsonl"],
    "verify": ["verify", "verify_config", "verify_deep", "verify_manifest", "verify_tensors",
               "manifest"],
}


def build(directory, targets):
    if not (directory / "build.ninja").exists():
        subprocess.run(["meson", "setup", directory, TOP, "-Db_coverage=true", "-Db_lundef=false",
                        "-Db_sanitize=address,undefined", "-Dbuildtype=debugoptimized",
                        "-Dopenblas=disabled", "-Dsentencepiece=disabled", "-Dcuda=disabled"],
                       check=True, stdout=subprocess.DEVNULL, env={**os.environ, "CC": "gcc"})
    names = [f"tests/fuzz/fuzz_{t}" for t in targets]
    if "verify" in targets:
        names += ["tests/make_checkpoint", "tools/ccq-quantize"]
    subprocess.run(["ninja", "-C", directory, *names], check=True, stdout=subprocess.DEVNULL)


def run(directory, target, rounds, counts):
    """(status, what it said). The counters go to a folder of the target's own."""
    env = {**os.environ, "CCQ_DATA": str(TOP / "tests/data"), "GCOV_PREFIX": str(counts),
           "CCQ_MAKE_CHECKPOINT": str(directory / "tests/make_checkpoint"),
           "CCQ_QUANTIZE": str(directory / "tools/ccq-quantize"),
           "ASAN_OPTIONS": "halt_on_error=1:detect_leaks=1:strict_string_checks=1",
           "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1"}
    r = subprocess.run([directory / f"tests/fuzz/fuzz_{target}", "-n", str(rounds),
                        TOP / "tests/fuzz/corpus" / target], capture_output=True, text=True,
                       errors="replace", env=env, cwd=directory)
    said = r.stdout.splitlines()[-1] if r.stdout else f"{target}: no output"
    return r.returncode, said + ("\n" + r.stderr[-6000:] if r.returncode else "")


def branches(counts, name):
    """(taken, all) of one file. A branch of several objects counts once."""
    taken = collections.Counter()
    for data in counts.rglob(f"*{name}.c.gcda"):
        if data.name.rsplit("_.._", 1)[-1] not in (f"{name}.c.gcda", f"tools_{name}.c.gcda"):
            continue
        built = pathlib.Path("/") / data.relative_to(counts)
        shutil.copy(built.with_suffix(".gcno"), data.parent)
        r = subprocess.run(["gcov", "--stdout", "--json-format", "--branch-probabilities", data],
                           capture_output=True, text=True, check=True, cwd=counts)
        for file in json.loads(r.stdout)["files"]:
            if not file["file"].endswith(f"/{name}.c") or "tests/fuzz" in file["file"]:
                continue
            for line in file["lines"]:
                for i, b in enumerate(line["branches"]):
                    if not b["throw"]:
                        taken[line["line_number"], i] += b["count"]
    return sum(1 for n in taken.values() if n), len(taken)


def look(directory, target, rounds):
    """(fine, lines to print)."""
    counts = directory / "counts" / target
    shutil.rmtree(counts, ignore_errors=True)
    # a whole checkpoint is looked at each time: a tenth of them take as long
    status, said = run(directory, target, rounds // 10 if target == "verify" else rounds, counts)
    parts = [(name, *branches(counts, name)) for name in READERS[target]]
    done, whole = (sum(p[i] for p in parts) for i in (1, 2))
    text = ", ".join(f"{n}.c {100 * a // b if b else 0} %" for n, a, b in parts)
    return status == 0 and whole > 0, (
        f"{said}\n{target}: {100 * done // whole if whole else 0} % of {whole} branches ({text})")


def main():
    directory = pathlib.Path(sys.argv[1]).absolute()
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 100000
    targets = sys.argv[3:] or list(READERS)
    build(directory, targets)
    good = True
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for fine, text in pool.map(lambda t: look(directory, t, rounds), targets):
            print(text, flush=True)
            good &= fine
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
