#!/usr/bin/env python3
"""ccq-run on models larger than --mem-limit: the same figures, less memory.

usage: test_layered_cli.py CCQ-RUN CCQ-QUANTIZE MAKE_CHECKPOINT [unittest arguments]

Standard library only.
"""
import array
import json
import os
import pathlib
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest

TOP = pathlib.Path(__file__).resolve().parent
TOOL = QUANTIZE = MAKE = ""
MICRO = pathlib.Path(os.environ.get("CCQ_DATA", TOP / "data")) / "ernie-micro"
SEED = int(os.environ.get("CCQ_SEED", "11"))
TOKENS = MICRO / "tokens_test.npy"
SANITIZED = "ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ
PROCESS = 32 << 20  # bytes of a process beside weights, cache and work space


def start(*args, env=None):
    # the work space has a part for each thread, so their number is fixed here
    return subprocess.Popen([TOOL, "-j2", *map(str, args)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env={**os.environ, **(env or {})})


def run(*args, status=0, env=None):
    """Output and messages; peak is the resident memory in bytes."""
    p = start(*args, env=env)
    parts = {}
    threads = [threading.Thread(target=lambda k=k, f=f: parts.update({k: f.read().decode()}))
               for k, f in (("out", p.stdout), ("err", p.stderr))]
    for t in threads:
        t.start()
    _, code, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(code)
    for t in threads:
        t.join()
    p.stdout.close()
    p.stderr.close()
    run.peak = usage.ru_maxrss * 1024
    if p.returncode != status:
        raise AssertionError(f"{args}: status {p.returncode}, not {status}\n{parts['err']}")
    return parts["out"], parts["err"]


def document(*args, **more):
    return json.loads(run("--json", *args, **more)[0])


def npy(ids):
    head = f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({len(ids)},), }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return (b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() +
            array.array("i", ids).tobytes())


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="ccq-layered-"))
        self.random = random.Random(SEED)

    def tearDown(self):
        shutil.rmtree(self.dir)

    def tokens(self, count, vocab):
        path = self.dir / "tokens.npy"
        path.write_bytes(npy([self.random.randrange(vocab) for _ in range(count)]))
        return path

    def quantized(self, *options):
        out = self.dir / "wint2"
        subprocess.run([QUANTIZE, "-q", *options, MICRO, out], check=True, capture_output=True)
        return out

    def same(self, *args, limit):
        """Runs both ways; what comes from layers."""
        want = document(*args)
        got = document("--mem-limit", limit, *args)
        self.assertFalse(want["layered"])
        self.assertTrue(got["layered"])
        self.assertEqual(got["statistics"], want["statistics"])
        self.assertEqual(got.get("greedy"), want.get("greedy"))
        self.assertEqual(got.get("gates"), want.get("gates"))
        self.assertLessEqual(got["memory_bytes"], limit)
        self.assertLess(got["weight_bytes"], want["weight_bytes"])
        return got


class Figures(Case):
    def test_perplexity(self):
        tokens = self.tokens(700, 500)
        for numerics in "exact", "fastdeploy":
            for window in 70, 3:
                got = self.same("--perplexity", tokens, "--window", window, "--numerics", numerics,
                                "-v", MICRO, limit=1300000)
                self.assertGreater(got["spilled_bytes"], 0)

    def test_baseline(self):
        tokens = self.tokens(700, 500)
        model = self.quantized()
        for window, limit in (100, 2000000), (33, 2500000):
            self.same("--baseline", MICRO, "--tokens", tokens, "--window", window, model,
                      limit=limit)

    def test_reference(self):
        """Rows, router, greedy continuation, gates."""
        reference = MICRO / "reference.npz"
        gates = self.dir / "gates.json"
        gates.write_text('{"max": {"mean_kld": 9}, "min": {"router_agreement": 0}}')
        for model, limit in (MICRO, 2000000), (self.quantized(), 1200000):
            for numerics in "exact", "fastdeploy":
                got = self.same("--reference", reference, "--gate", gates, "--numerics", numerics,
                                model, limit=limit)
                self.assertTrue(got["greedy"])

    def test_trace(self):
        traces = []
        for limit in "1G", 2000000:
            traces.append(self.dir / f"{limit}.jsonl")
            d = document("--reference", MICRO / "reference.npz", "--trace", traces[-1],
                         "--mem-limit", limit, MICRO)
            self.assertEqual(d["layered"], limit != "1G")
        self.assertEqual(traces[0].read_bytes(), traces[1].read_bytes())
        self.assertGreater(traces[0].stat().st_size, 10000)


class Memory(Case):
    def make(self, *options):
        out = self.dir / "big"
        subprocess.run([MAKE, *options, out], check=True, capture_output=True)
        return out

    @unittest.skipIf(SANITIZED, "shadow memory counts")
    def test_peak(self):
        """A model many times larger than the limit; then one of twice the layers."""
        limit = 40000000
        peaks = []
        for layers in "16", "32":
            big = self.make("--sparse", "--layers", layers, "--hidden", "512", "--inter", "256",
                            "--experts", "16", "--vocab", "2048")
            size = sum(f.stat().st_size for f in big.iterdir())
            self.assertGreater(size, 5 * limit)
            d = document("--perplexity", self.tokens(256, 2048), "--window", 64, "--mem-limit",
                         limit, big)
            self.assertTrue(d["layered"])
            self.assertLessEqual(d["memory_bytes"], limit)
            self.assertLess(run.peak, limit + PROCESS)
            peaks.append(run.peak)
            shutil.rmtree(big)
        self.assertLess(peaks[1], 1.1 * peaks[0], "memory grows with the model")

    def test_refused(self):
        args = "--perplexity", TOKENS, "--window", 32, MICRO
        err = run("--mem-limit", 100000, *args, status=69)[1]
        self.assertIn("layer by layer at least", err)
        self.assertIn("the memory limit is 100000", err)
        # what has to draw tokens, or to be timed, is in memory
        for more in ["--prompt-ids", "1"], ["--bench"], ["--prompt-ids", "1", "--reference",
                                                        MICRO / "reference.npz"]:
            err = run("--mem-limit", 1300000, *more, MICRO, status=69)[1]
            self.assertIn("the memory limit is 1300000", err)

    def test_files(self):
        """They lie in TMPDIR, and nothing is left there; a bad TMPDIR is named."""
        tokens = self.tokens(2000, 500)
        args = "--perplexity", tokens, "--window", 32, "--mem-limit", 1000000, MICRO
        tmp = self.dir / "tmp"
        tmp.mkdir()
        err = run("-v", *args, env={"TMPDIR": str(tmp)})[1]
        self.assertIn(f"temporary files in {tmp}", err)
        self.assertEqual(list(tmp.iterdir()), [])
        err = run(*args, env={"TMPDIR": str(self.dir / "gone")}, status=73)[1]
        self.assertIn("gone: ", err)

    def test_stop(self):
        p = start("-v", "--perplexity", TOKENS, "--window", 32, "--mem-limit", 1000000, MICRO)
        while "rows in steps" not in p.stderr.readline().decode():
            self.assertIsNone(p.poll(), "it ended")
        time.sleep(0.1)
        p.send_signal(signal.SIGTERM)
        out, err = p.communicate(timeout=60)
        self.assertEqual(p.returncode, 75)
        self.assertFalse(out)
        self.assertIn(b"interrupted", err)


if __name__ == "__main__":
    TOOL, QUANTIZE, MAKE = sys.argv[1:4]
    print(f"seed: CCQ_SEED={SEED}", file=sys.stderr)
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
