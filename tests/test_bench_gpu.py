#!/usr/bin/env python3
"""Risk: the benchmark of a device is only found broken where there is one.

usage: test_bench_gpu.py BENCH_GPU

On the host device every line of JSON parses and has its fields, whether it goes to a file or to
standard output; all ways and roundings are there, and fractions are what the other fields say.
"""
import json
import math
import os
import subprocess
import sys
import tempfile

CLOCKS = {"sm_mhz_before", "sm_mhz_after", "memory_mhz_before", "memory_mhz_after"}
SAMPLE = {"samples", "ms", "p10", "p90"} | CLOCKS
STEP = {"model", "batch", "routing", "active", "most", "turns"} | SAMPLE
EXPERTS = STEP | {"rounding", "way", "copies", "reuse_bytes", "bytes", "flop", "of_bw", "of_read",
                  "of_mm", "of_floor"}
FIELDS = {
    "device": {"device", "capability", "multiprocessors", "memory_bytes", "l2_bytes", "driver",
               "cuda", "seed", "quick"},
    "copy": {"bytes_per_s"} | SAMPLE,
    "read": {"bytes_per_s"} | SAMPLE,
    "matmul_kn": {"flop_per_s"} | SAMPLE,
    "matmul_nk": {"flop_per_s"} | SAMPLE,
    "encode": {"effort", "k", "n", "weights_per_s"} | SAMPLE,
    "feedback": {"effort", "k", "n", "weights_per_s"} | SAMPLE,
    "sort": STEP | {"repeat"},
    "router": STEP | {"repeat"},
    "experts": EXPERTS,
    "experts+reduce": EXPERTS,
    "moe": EXPERTS,
}
# 2 experts of 256 x 256 and 128 x 256 at least: codes, local scales, 10 bytes a column
EXPERT_BYTES = 3 * 256 * 128 * (1 / 4 + 1 / 128) + 10 * (256 + 256)


def lines_of(text):
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        assert line["bench"] == "gpu", line
        wanted = FIELDS[line["what"]] | {"bench", "what"}
        assert set(line) == wanted, (line, set(line) ^ wanted)
        for key, value in line.items():
            number = isinstance(value, (int, float)) and math.isfinite(value)
            assert isinstance(value, str) or number or key in CLOCKS and value is None, (key, line)
        if "ms" in line:
            assert 0 <= line["p10"] <= line["ms"] <= line["p90"] and line["samples"] >= 1, line
    assert lines[0]["what"] == "device" and {line["what"] for line in lines} == set(FIELDS)
    return lines


def check_experts(lines):
    rate = {line["what"]: line["bytes_per_s"] for line in lines[:3] if "bytes_per_s" in line}
    seen = set()
    for line in (line for line in lines if "way" in line):
        seen.add((line["what"], line["routing"], line["rounding"], line["way"], line["batch"]))
        assert math.isclose(line["bytes"], line["active"] * EXPERT_BYTES, rel_tol=1e-9), line
        assert line["flop"] == 6 * line["batch"] * 2 * 256 * 128, line
        for key, name in (("of_bw", "copy"), ("of_read", "read")):
            want = line["bytes"] / (line["ms"] / 1e3) / rate[name]
            assert math.isclose(line[key], want, rel_tol=1e-4), (key, want, line)
        assert line["of_floor"] == max(line["of_bw"], line["of_mm"]), line
    ways = [("fused", "few"), ("fused", "wgmma"), ("fused", "dequant"), ("none", "few"),
            ("none", "wgmma")]
    want = {(what, routing, *way, batch) for what in ("experts", "experts+reduce", "moe")
            for routing in ("uniform", "zipf") for way in ways for batch in (1, 4)}
    assert seen == want, seen ^ want


def main():
    bench = [os.path.abspath(sys.argv[1]), "--device", "host"]
    os.environ["CCQ_SEED"] = "18446744073709551615"
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "lines")
        done = subprocess.run(bench + ["--json", path], capture_output=True, text=True, check=True)
        assert "{" not in done.stdout and "of the floor" in done.stdout, done.stdout
        assert "clock" in done.stdout and "CCQ_SEED=18446744073709551615" in done.stdout
        with open(path, encoding="utf-8") as f:
            lines = lines_of(f.read())
    assert lines[0]["seed"] == "18446744073709551615", lines[0]
    check_experts(lines)
    done = subprocess.run(bench + ["--json"], capture_output=True, text=True, check=True)
    check_experts(lines_of(done.stdout))
    done = subprocess.run(bench + ["--jsno"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "usage" in done.stderr, done


main()
