#!/usr/bin/env python3
"""ccq-quantize from end to end, beside what the machine can do, in one run.

usage: bench_quantize.py CCQ-QUANTIZE MAKE-CHECKPOINT BENCH-RATES
           [--size SIZE] [--runs N] [--threads N] [--dir DIR] [--json] [MAKE OPTION]...

A random checkpoint (512 MB unless --size says more; matrices of ERNIE-4.5-21B-A3B's shapes
unless a MAKE OPTION says otherwise) is quantized at effort fast, its files in the page
cache. The bound is the larger of

    bytes read / rate of reading the page cache + bytes written / rate of writing with fsync
    quantized weights / rate of encoding on all threads

whose rates are measured before and after; goal: wall time at most 1.15 x the bound (the
best of the runs). On a machine that does other work too, the processor time of the job
over that of reading, encoding and writing by themselves says more; it is printed, and so
is the share of it that the checksums of what is read and written take: goal, 5 %. Then
models of one and of ten times so many layers, with matrices of 16 to 32 MB: goal for the
peak memory of the two, 5 %. Both are files of holes (make_checkpoint --sparse): how much
memory is held does not depend on what is in it. Exit 1 when a goal is missed.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

WALL_GOAL, MEMORY_GOAL, HASH_GOAL = 1.15, 1.05, 0.05
SHAPES = ["--hidden", "2560", "--inter", "1536", "--experts", "16"]


def arguments():
    p = argparse.ArgumentParser(usage=__doc__.split("\n\n")[1])
    for name in ("quantize", "make", "rates"):
        p.add_argument(name)
    p.add_argument("--size", default="512M")
    p.add_argument("--runs", type=int, default=3)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--dir")
    p.add_argument("--json", action="store_true")
    return p.parse_known_args()


def make(a, extra, path, *options):
    subprocess.run([a.make, "--size", a.size, *extra, *options, path], check=True,
                   stdout=subprocess.DEVNULL)
    return sorted(str(p) for p in pathlib.Path(path).glob("*.safetensors"))


def rates(a, files):
    out = subprocess.run([a.rates, str(a.threads), *files], check=True, capture_output=True)
    return json.loads(out.stdout)


def quantize(a, model, out):
    """Wall and processor seconds of the process, and what it says in JSON."""
    threads = ["--threads", str(a.threads)] if a.threads else []
    begin = time.monotonic()
    p = subprocess.Popen([a.quantize, "-q", "--json", "--effort=fast", "--w4-end-layer=-1",
                          *threads, model, out], stdout=subprocess.PIPE)
    text = p.stdout.read()
    _, status, usage = os.wait4(p.pid, 0)
    wall = time.monotonic() - begin
    if status:
        sys.exit(f"{model}: status {status}")
    shutil.rmtree(out)
    return wall, usage.ru_utime + usage.ru_stime, json.loads(text)


def speed(a, extra, tmp):
    files = make(a, SHAPES + extra, f"{tmp}/model")
    both, walls, cpus = [rates(a, files)], [], []
    for _ in range(a.runs):
        wall, cpu, said = quantize(a, f"{tmp}/model", f"{tmp}/out")
        walls.append(wall)
        cpus.append(cpu)
    both.append(rates(a, files))
    rate = {k: max(r[k] for r in both) for k in both[0]}
    read = sum(os.path.getsize(f) for f in files)
    io = read / rate["read_bytes_per_s"] + said["total_bytes"] / rate["write_bytes_per_s"]
    encode = said["quantized_parameters"] / rate["encode_weights_per_s"]
    ratio = min(walls) / max(io, encode)
    cpu = (read / rate["read_bytes_per_cpu_s"] + said["total_bytes"] / rate["write_bytes_per_cpu_s"]
           + said["quantized_parameters"] / rate["encode_weights_per_cpu_s"])
    hashing = (read / rate["hash_in_bytes_per_cpu_s"] +
               said["total_bytes"] / rate["hash_out_bytes_per_cpu_s"]) / min(cpus)
    shutil.rmtree(f"{tmp}/model")
    return {"bench": "quantize", "what": "end to end", "bytes_in": read,
            "bytes_out": said["total_bytes"], "weights": said["quantized_parameters"],
            "threads": said["threads"], "isa": said["isa"], **rate, "wall_s": min(walls),
            "walls_s": walls, "job_s": said["wall_s"], "io_s": io, "encode_s": encode,
            "cpu_s": min(cpus), "cpu_bound_s": cpu, "cpu_ratio": min(cpus) / cpu,
            "hash_share": hashing, "hash_goal": HASH_GOAL,
            "ratio": ratio, "goal": WALL_GOAL,
            "met": ratio <= WALL_GOAL and hashing <= HASH_GOAL}


def memory(a, extra, tmp):
    peaks, sizes = [], []
    layers = None
    for times in (1, 10):
        options = ["--sparse", "--hidden", "4096", "--inter", "2048", "--experts", "8"]
        options += ["--layers", str(layers * times)] if layers else []
        files = make(a, extra, f"{tmp}/sparse", *options)
        config = json.loads(pathlib.Path(f"{tmp}/sparse/config.json").read_text())
        layers = layers or config["num_hidden_layers"]
        peaks.append(quantize(a, f"{tmp}/sparse", f"{tmp}/out")[2]["peak_rss_bytes"])
        sizes.append(sum(os.path.getsize(f) for f in files))
        shutil.rmtree(f"{tmp}/sparse")
    ratio = peaks[1] / peaks[0]
    return {"bench": "quantize", "what": "memory", "bytes_in": sizes, "peak_rss_bytes": peaks,
            "ratio": ratio, "goal": MEMORY_GOAL, "met": ratio <= MEMORY_GOAL}


def text(f):
    missed = "" if f["met"] else "  MISSED"
    if f["what"] == "memory":
        return ("memory: peak {:.1f} MB for {:.0f} MB of weights, {:.1f} MB for {:.0f} MB: "
                "{:.3f} x, goal {:.2f}{}".format(
                    f["peak_rss_bytes"][0] / 1e6, f["bytes_in"][0] / 1e6,
                    f["peak_rss_bytes"][1] / 1e6, f["bytes_in"][1] / 1e6, f["ratio"], f["goal"],
                    missed))
    return ("page cache: read {:.2f} GB/s, write {:.2f} GB/s; encode {:.0f} Mw/s on {} threads "
            "({})\n{:.0f} MB in, {:.0f} MB out, {:.0f} Mw: io {:.2f} s, encode {:.2f} s; wall "
            "{:.2f} s = {:.2f} x the larger, goal {:.2f}{}\nprocessor time {:.2f} s = {:.2f} x "
            "that of reading, encoding and writing alone, checksums {:.1f} % of it, goal {:.0f} %"
            .format(
                f["read_bytes_per_s"] / 1e9, f["write_bytes_per_s"] / 1e9,
                f["encode_weights_per_s"] / 1e6, f["threads"], f["isa"], f["bytes_in"] / 1e6,
                f["bytes_out"] / 1e6, f["weights"] / 1e6, f["io_s"], f["encode_s"], f["wall_s"],
                f["ratio"], f["goal"], missed, f["cpu_s"], f["cpu_ratio"],
                100 * f["hash_share"], 100 * f["hash_goal"]))


def main():
    a, extra = arguments()
    good = True
    with tempfile.TemporaryDirectory(dir=a.dir) as tmp:
        for figure in (speed, memory):
            f = figure(a, extra, tmp)
            print(json.dumps(f) if a.json else text(f), flush=True)
            good &= f["met"]
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
