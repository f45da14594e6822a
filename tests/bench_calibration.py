#!/usr/bin/env python3
"""What calibration is worth: mean KL divergence from BF16, row by row, step by step.

usage: bench_calibration.py CCQ-QUANTIZE CCQ-RUN CALIBRATE-WITH
           [--model DIR]... [--rows REGEX] [--all] [--tokens N] [--json]

Every row quantizes the model anew and compares it with its source over the whole of
tokens_test.npy, in exact numerics and windows of 256; statistics are of 65536 tokens of
tokens_calib.npy, or of random ids, in windows of 256. "without X" leaves one step of
calibration out (tests/calibrate_with.c); its gain is by how much KLD is larger without it,
in % of that with all steps. Models: ernie-micro with all rows, ernie-mini with the rows
that have a goal (--all: with all), both in $CCQ_SHARED/models. Exit 1 when a goal is
missed, 77 where there is no model.
"""
import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parent
SHARED = pathlib.Path(os.environ.get("CCQ_SHARED", TOP.parent.parent / "shared"))
STEPS = {
    "table": "one pair of code lines instead of the best of nine",
    "fast": "one pair and one scale",
    "passes": "no coordinate descent",
    "joint": "coordinate descent without joint moves",
    "loop": "local scales fixed before the loop",
    "cross": "up_gate towards its own weights",
    "residual": "down towards its own weights",
    "alpha": "all of the residual, instead of the cross-fitted part",
    "shrink": "statistics of an expert alone",
    "weights": "down's tokens not weighted by the router",
    "spread": "the first tokens of the file",
    "shared": "one H a layer",
    "gain0": "least squares scales",
}
GOALS = {
    "ernie-mini": {"normal": 0.0375, "random": 0.0292, "calibrated": 0.0194,
                   "layers 1, 2 wint4: normal": 0.0305, "layers 1, 2 wint4: calibrated": 0.0175,
                   "wint4 with feedback": 0.0037},
    "ernie-micro": {"normal": 0.044, "calibrated": 0.0237},
}


def arguments():
    p = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1])
    for name in ("quantize", "run", "calibrate_with"):
        p.add_argument(name)
    p.add_argument("--model", type=pathlib.Path, action="append")
    p.add_argument("--rows", default="")
    p.add_argument("--all", action="store_true")
    p.add_argument("--tokens", type=int, default=65536)
    p.add_argument("--json", action="store_true")
    return p.parse_args()


def rows(a, model):
    """[name, what it does, command without MODEL and OUTPUT, where those go]"""
    calib, count = str(model / "tokens_calib.npy"), str(a.tokens)
    layers = json.loads((model / "config.json").read_text())["num_hidden_layers"]
    given = ["--calibration", calib, "--calibration-tokens", count, "--calibration-window", "256"]

    def tool(name, what, layer, *options):
        return name, what, [a.quantize, "-q", "--w4-end-layer", str(layer), *options,
                            str(model), "OUT"]

    yield tool("fast", "data-free, one pair and one scale", -1, "--effort", "fast")
    yield tool("normal", "data-free", -1)
    yield tool("random", "effort best: random ids", -1, "--calibration", "random:" + count,
               "--calibration-window", "256")
    yield tool("calibrated", "all steps", -1, *given)
    for step, what in STEPS.items():
        alone = "calibrated, " + step if step in ("fast", "shared", "gain0") else "without " + step
        yield alone, what, [a.calibrate_with, str(model), "OUT", calib, count, "-1", step]
    yield tool("layers 1, 2 wint4: normal", "data-free", 2)
    yield tool("layers 1, 2 wint4: calibrated", "all steps", 2, *given)
    yield tool("wint4", "Paddle's rounding", layers - 1)
    yield tool("wint4 with feedback", "all steps", layers - 1, *given)


def measure(a, model, command):
    with tempfile.TemporaryDirectory() as tmp:
        out = tmp + "/out"
        begin = time.monotonic()
        subprocess.run([out if c == "OUT" else c for c in command], check=True,
                       stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - begin
        p = subprocess.run([a.run, "-q", "--json", "--numerics", "exact", "--window", "256",
                            "--baseline", model, "--tokens", model / "tokens_test.npy", out],
                           check=True, stdout=subprocess.PIPE)
    said = json.loads(p.stdout)["statistics"]
    return {"mean_kld": said["mean_kld"], "mean_kld_se": said["mean_kld_se"],
            "ppl": said["ppl"], "same_top": said["same_top"], "quantize_s": seconds}


def show(a, f):
    if a.json:
        print(json.dumps(f), flush=True)
        return
    gain = f"{f['gain_percent']:+7.1f} %" if "gain_percent" in f else " " * 9
    goal = f"  goal {f['goal']:.4f}{'' if f['met'] else '  MISSED'}" if "goal" in f else ""
    print(f"{f['row']:30} {f['mean_kld']:.5f} ± {f['mean_kld_se']:.5f} {gain} "
          f"{f['quantize_s']:6.1f} s  {f['what']}{goal}", flush=True)


def bench(a, model, every):
    goals, calibrated, good = GOALS.get(model.name, {}), None, True
    if not a.json:
        print(f"{model.name}: mean KLD, gain of the step that is left out, time to quantize")
    for name, what, command in rows(a, model):
        if not re.search(a.rows, name) or not (every or name in goals):
            continue
        f = {"bench": "calibration", "model": model.name, "row": name, "what": what,
             **measure(a, model, command)}
        if name == "calibrated":
            calibrated = f["mean_kld"]
        elif calibrated and command[0] == a.calibrate_with:
            f["gain_percent"] = 100 * (f["mean_kld"] / calibrated - 1)
        if name in goals and a.tokens == 65536:
            f.update(goal=goals[name], met=f["mean_kld"] <= goals[name])
            good &= f["met"]
        show(a, f)
    return good


def main():
    a = arguments()
    models = a.model or [SHARED / "models" / name for name in ("ernie-micro", "ernie-mini")]
    there = [m for m in models if (m / "tokens_calib.npy").exists()
             and (m / "tokens_test.npy").exists()]
    if not there:
        print("no model with tokens_calib.npy and tokens_test.npy:", *models)
        sys.exit(77)
    good = [bench(a, m, a.all or bool(a.model) or m.name != "ernie-mini") for m in there]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
