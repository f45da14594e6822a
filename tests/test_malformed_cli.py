#!/usr/bin/env python3
"""The malformed files through the tools: exit status, one line that names the code's
reason, no output; --verify has the code among its findings.

usage: test_malformed_cli.py CCQ-QUANTIZE CCQ-INSPECT CCQ-RUN MAKE_DATA MAKE_PDPARAMS

Files that change while they are read (S74, S75): test_checkpoint_dir.c. What a model's
tensors and config have to do with each other (C05 to C09, W01 to W05):
test_inspect_cli.py, test_quantize_cli.py, test_run_cli.py. Standard library only.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile

QUANTIZE, INSPECT, RUN, MAKE_DATA, MAKE_PDPARAMS = sys.argv[1:6]
MICRO = pathlib.Path(MAKE_DATA).resolve().parent / "ernie-micro"
SECONDS = 60

RECIPES = [
    ("JSON", "{", "object without end"),
    ("JSON", '{"schema": "ccq.recipe/1"} x', "text behind it"),
    ("JSON", "[]", "a list"),
    ("UTF8", b'{"schema": "\xff"}', "not UTF-8"),
    ("DUPLICATE", '{"schema": "ccq.recipe/1", "schema": "ccq.recipe/1"}', "key twice"),
    ("NUMBER", '{"schema": "ccq.recipe/1", "gain": 1e999}', "infinite"),
    ("LIMIT", '{"schema": "ccq.recipe/1", "note": "%s"}' % ("x" * (1 << 20)), "over 1 MiB"),
    ("CONFIG", "{}", "no schema"),
    ("CONFIG", '{"schema": "ccq.recipe/2"}', "another schema"),
    ("CONFIG", '{"schema": "ccq.recipe/1", "output_version": 1000000}', "a newer ccq"),
    ("CONFIG", '{"schema": "ccq.recipe/1", "scheme": "wint3"}', "unknown scheme"),
    ("CONFIG", '{"schema": "ccq.recipe/1", "scheme": 2}', "scheme as a number"),
    ("CONFIG", '{"schema": "ccq.recipe/1", "gain": 9}', "gain out of its range"),
    ("CONFIG", '{"schema": "ccq.recipe/1", "gain": 0.5}', "gain is no integer"),
    ("CONFIG", '{"schema": "ccq.recipe/1", "shard_bytes": -1}', "negative size"),
    ("CONFIG", '{"schema": "ccq.recipe/1", "tensor_types": "a=wint4"}', "rules are no list"),
    ("CONFIG", '{"schema": "ccq.recipe/1", "tensor_types": [1]}', "a rule is no text"),
    ("CONFIG", '{"schema": "ccq.recipe/1", "transform": ["rotate", "rotate"]}', "doubled"),
    ("CONFIG", '{"schema": "ccq.recipe/1", "tensor_parallel": 0}', "no ranks"),
    ("CONFIG", '{"schema": "ccq.recipe/1", "force": 1}', "force is no bool"),
    ("CONFIG", '{"schema": "ccq.recipe/1", "colour": "red"}', "unknown key"),
]
# A pattern is the caller's own: the command line's status.
PATTERNS = [("experts", "REGEX=TYPE"), ("=wint2", "REGEX=TYPE"), ("experts=wint3", "wint4"),
            ("(=wint2", "("), ("a{2,1}=wint2", "{"), ("\\d=wint2", "[0-9]"),
            ("nothing_like_it=wint2", "near"), ("x" * 1000 + "=wint2", "999"),
            ("((a{255}){255}){255}=wint2", "intervals"), ("((){255}){255}=wint2", "intervals"),
            ("a{2147483648}=wint2", "intervals")]


def tool(*args):
    return subprocess.run([*map(str, args)], capture_output=True, text=True, errors="replace",
                          timeout=SECONDS)


def one_line(r, status, what):
    """What is wrong with an answer that refuses something, or nothing."""
    if r.returncode != status:
        yield f"{what}: exit {r.returncode}, not {status}: {r.stderr[:300]}"
    if not re.fullmatch(r"ccq-[a-z]+: [^\n]+\n", r.stderr):
        yield f"{what}: not one line: {r.stderr[:300]!r}"
    if any(not c.isprintable() for c in r.stderr.rstrip("\n")):
        yield f"{what}: unprintable: {r.stderr!r}"


def check_pickle(model, code, what):
    yield from one_line(tool(INSPECT, model), 65, f"inspect {what}")


def check_model(model, code, what):
    """A directory that is no model: refused by both tools, found by --verify."""
    out = model.parent / (model.name + ".out")
    r = tool(QUANTIZE, "-q", "--effort", "fast", model, out)
    yield from one_line(r, 65, f"quantize {what}")
    if out.exists():
        yield f"quantize {what}: the output directory is left"
    yield from one_line(tool(INSPECT, model), 65, f"inspect {what}")
    r = tool(INSPECT, "--json", "--verify=deep", model)
    codes = [f["code"] for f in json.loads(r.stdout)["findings"]] if r.returncode == 1 else r
    if r.returncode != 1 or code not in codes:
        yield f"verify {what}: wanted {code}: {codes}"


def model_of(root, number, config=None, **links):
    """A model directory; its files are links."""
    d = root / f"m{number}"
    d.mkdir()
    (d / "config.json").symlink_to(config or MICRO / "config.json")
    for name, path in links.items():
        (d / name.replace("__", ".")).symlink_to(path)
    return d


def prepare(root, number, kind, code, path):
    full = root / path
    if kind == "file":
        return model_of(root, number, model__safetensors=full)
    if kind == "config":
        d = model_of(root, number, full / "config.json",
                     model__safetensors=MICRO / "model.safetensors")
        if code == "NO_CONFIG":
            (d / "config.json").unlink()
        return d
    if kind == "pdparams":
        return model_of(root, number, x__pdparams=full)
    d = model_of(root, number)
    for entry in full.iterdir():
        (d / entry.name).symlink_to(entry)
    return d


def check_recipe(root, number, row):
    code, text, reason = row
    path, out = root / f"recipe{number}.json", root / f"recipe{number}.out"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    r = tool(QUANTIZE, "--recipe", path, MICRO, out)
    yield from one_line(r, 65, f"recipe: {reason}")
    if out.exists() or path.name not in r.stderr:
        yield f"recipe: {reason}: {r.stderr}"


def check_pattern(root, number, row):
    pattern, word = row
    out = root / f"pattern{number}.out"
    r = tool(QUANTIZE, "--tensor-type", pattern, MICRO, out)
    yield from one_line(r, 64, f"{pattern[:40]}")
    if out.exists() or word not in r.stderr:
        yield f"{pattern[:40]}: {r.stderr}"


def check_arrays(path, kind):
    option = ["--prompts"] if kind == "npz" else ["--perplexity"]
    yield from one_line(tool(RUN, *option, path, MICRO), 65, f"run {path.name}")


def rows_of(script, root):
    made = subprocess.run([sys.executable, script, root], capture_output=True, text=True,
                          check=True, encoding="utf-8")
    return [line.split("\t") for line in made.stdout.splitlines()]


def jobs(root):
    """(function, arguments) of everything that is checked."""
    number = 0
    for kind, code, path, *_ in rows_of(MAKE_DATA, root):
        number += 1
        if code == "OK":
            continue
        if kind in ("npz", "npy"):
            yield check_arrays, root / path, kind
        else:
            yield check_model, prepare(root, number, kind, code, path), code, path
    for kind, code, path, *_ in rows_of(MAKE_PDPARAMS, root / "pickles"):
        number += 1
        if code != "OK" and kind == "file":
            d = prepare(root, number, "pdparams", code, pathlib.Path("pickles") / path)
            yield check_pickle, d, code, path
    plug = socket.socket(socket.AF_UNIX)
    plug.bind(str(root / "plug"))
    yield (check_model, model_of(root, number + 1, model__safetensors=root / "plug"), "NOT_A_FILE",
           "S76: a socket")
    for i, row in enumerate(RECIPES):
        yield check_recipe, root, i, row
    for i, pattern in enumerate(PATTERNS):
        yield check_pattern, root, i, pattern


def main():
    root = pathlib.Path(tempfile.mkdtemp(prefix="ccq-bad-", dir=os.environ.get("TMPDIR")))
    try:
        (root / "pickles").mkdir()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            done = [pool.submit(lambda f, a: list(f(*a)), f, a) for f, *a in jobs(root)]
            faults = [fault for d in done for fault in d.result()]
    finally:
        shutil.rmtree(root)
    print(*faults, sep="\n")
    print(f"{len(done)} files, {len(faults)} faults")
    return 1 if faults or len(done) < 200 else 0


if __name__ == "__main__":
    sys.exit(main())
