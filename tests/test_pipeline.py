#!/usr/bin/env python3
"""ccq-quantize while it reads ahead and writes behind: the same bytes whatever the
threads, the instruction set and the memory; memory that stays within its limit; errors
that leave nothing behind, and signals after which the job goes on.

usage: test_pipeline.py CCQ-QUANTIZE MAKE-CHECKPOINT [unittest arguments]
"""
import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

TOOL = MAKE = ""
SEED = int(os.environ.get("CCQ_SEED", "12"))
SANITIZED = any(s in os.environ for s in ("ASAN_OPTIONS", "TSAN_OPTIONS"))  # shadow memory counts


def digest(path):
    h = hashlib.sha256()
    for p in sorted(pathlib.Path(path).rglob("*")):
        if p.is_file():
            h.update(str(p.relative_to(path)).encode() + b"\0" + p.read_bytes())
    return h.hexdigest()


def instruction_sets():
    out = subprocess.run([TOOL, "--version"], capture_output=True, text=True, check=True).stdout
    return next(line for line in out.splitlines() if line.startswith("isa:")).split()[1:]


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = pathlib.Path(tempfile.mkdtemp(prefix="ccq-"))
        cls.small = cls.make("small", "--layers", 3, "--hidden", 256, "--inter", 128,
                             "--experts", 3, "--vocab", 1000, "--shard", "1M")
        cls.wide = cls.make("wide", "--layers", 2, "--hidden", 512, "--inter", 2048,
                            "--experts", 2, "--vocab", 3000)
        cls.runs = 0

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.tmp)

    @classmethod
    def make(cls, name, *options):
        path = cls.tmp / name
        subprocess.run([MAKE, *map(str, options), "--seed", str(SEED), path], check=True,
                       stdout=subprocess.DEVNULL)
        return path

    def run_tool(self, *args, code=0, **more):
        p = subprocess.run([TOOL, "-q", *map(str, args)], capture_output=True, text=True,
                           stdin=subprocess.DEVNULL, timeout=240, **more)
        self.assertEqual(p.returncode, code, p.stderr + p.stdout)
        return p

    def quantize(self, model, *args, **more):
        """What it says in JSON, and the digest of the output."""
        out = self.tmp / "out"
        p = self.run_tool("--json", "--effort=fast", *args, model, out, **more)
        made = digest(out)
        shutil.rmtree(out)
        return json.loads(p.stdout), made

    def plan(self, model, *args):
        return json.loads(self.run_tool("--json", "--dry-run", "--effort=fast", *args, model,
                                        self.tmp / "out").stdout)


class Bytes(Case):
    def test_threads_and_instruction_sets(self):
        for scheme in (["--w4-end-layer=1"], ["--scheme=block_wise_fp8"]):
            made = set()
            for isa in instruction_sets():
                allowed = ",".join(instruction_sets()[:instruction_sets().index(isa) + 1])
                for threads in (1, 2, 3, 7, 64):
                    said, one = self.quantize(self.small, "-j", threads, "--cpu-isa", allowed,
                                              *scheme)
                    self.assertEqual((said["threads"], said["isa"]), (threads, isa))
                    made.add(one)
            self.assertEqual(len(made), 1, scheme)

    def test_blocks_leave_no_trace(self):
        """Matrices in as few columns at a time as can be, and whole."""
        for options in (["--w4-end-layer=-1"], ["--w4-end-layer=1"], ["--scheme=wint4"],
                        ["--scheme=block_wise_fp8"], ["--scheme=bf16"],
                        ["--w4-end-layer=-1", "--tp=2"], ["--scheme=bf16", "--tp=2"]):
            least = self.plan(self.wide, *options)["memory_least_bytes"]
            _, whole = self.quantize(self.wide, *options)
            for more in (0, 700000):
                limit = least + more
                said, made = self.quantize(self.wide, "--mem-limit", limit, *options)
                self.assertEqual(made, whole, (options, more))
                self.assertLessEqual(said["memory_bytes"], limit)
                if not SANITIZED:
                    self.assertLessEqual(said["peak_rss_bytes"], limit, (options, more))

    def test_transposed_and_joined(self):
        """torch names: [out, in], separate projections, read in blocks too."""
        torch = self.tmp / "torch"
        self.run_tool("--scheme=bf16", "--names=torch", self.wide, torch)
        for options in (["--w4-end-layer=-1"], ["--scheme=bf16"], ["--w4-end-layer=1", "--tp=2"]):
            made = set()
            for source in (self.wide, torch):
                least = self.plan(source, *options)["memory_least_bytes"]
                for limit in (least + 200000, 1 << 40):
                    out = self.tmp / "out"
                    self.run_tool("--effort=fast", "--mem-limit", limit, *options, source, out)
                    files = sorted(out.rglob("*.safetensors"))
                    made.add(tuple(hashlib.sha256(f.read_bytes()).hexdigest() for f in files))
                    shutil.rmtree(out)
            self.assertEqual(len(made), 1, options)


class Threads(Case):
    def test_default(self):
        """As many as this process may run on, not as the machine has."""
        cores = sorted(os.sched_getaffinity(0))
        for allowed in (cores[:1], cores):
            said, _ = self.quantize(self.small,
                                    preexec_fn=lambda a=allowed: os.sched_setaffinity(0, a))
            self.assertLessEqual(said["threads"], len(allowed))  # a quota may allow less
            self.assertGreater(said["threads"], 0)


class Memory(Case):
    def test_too_small(self):
        least = self.plan(self.wide)["memory_least_bytes"]
        for limit in (1, 4096, least - 1):
            p = self.run_tool("--mem-limit", limit, self.wide, self.tmp / "out", code=64)
            self.assertIn(str(least), p.stderr)
            self.assertEqual(len(p.stderr.splitlines()), 1)
            self.assertFalse((self.tmp / "out").exists())
        p = self.run_tool("--dry-run", "--mem-limit", 4096, self.wide, self.tmp / "out", code=64)
        self.assertIn(str(least), p.stderr)
        for bad in ("0", "-1", "1X", "", "1e9", "5 GB"):
            self.run_tool("--mem-limit", bad, self.wide, self.tmp / "out", code=64)

    @unittest.skipIf("TSAN_OPTIONS" in os.environ, "takes minutes")
    def test_ten_times_larger(self):
        """The plan names more than is held, and layers do not add to it. How full the rings
        get depends on what else the machine does: three runs, if need be."""
        models = [self.make(f"holes-{layers}", "--sparse", "--layers", layers, "--hidden", 2048,
                            "--inter", 1024, "--experts", 2) for layers in (3, 30)]
        peaks = ([], [])
        for _ in range(1 if SANITIZED else 3):
            for path, seen in zip(models, peaks):
                said, _ = self.quantize(path, "-j2", "--w4-end-layer=-1")
                if not SANITIZED:
                    self.assertLess(said["peak_rss_bytes"], said["memory_bytes"])
                seen.append(said["peak_rss_bytes"])
            if min(peaks[1]) < 1.05 * max(peaks[0]):
                break
        for path in models:
            shutil.rmtree(path)
        if not SANITIZED:
            self.assertLess(min(peaks[1]), 1.05 * max(peaks[0]), peaks)

    @unittest.skipIf(SANITIZED, "the address space is the sanitizer's")
    def test_address_space(self):
        """RLIMIT_AS is one of the defaults of --mem-limit; half of what is wanted will do."""
        wanted = self.plan(self.wide)["memory_bytes"]
        _, free = self.quantize(self.wide, "-j2", "--w4-end-layer=-1")
        limit = 160 << 20

        def lower():
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        said, made = self.quantize(self.wide, "-j2", "--w4-end-layer=-1", preexec_fn=lower)
        self.assertEqual(made, free)
        self.assertEqual(said["mem_limit_bytes"], limit // 5 * 4)
        self.assertGreater(wanted, 0)
        limit = 16 << 20
        p = subprocess.run([TOOL, "-q", self.wide, self.tmp / "out"], capture_output=True,
                           text=True, preexec_fn=lower)
        self.assertIn(p.returncode, (69, 127), p.stderr)  # 127: libraries alone are too much
        self.assertFalse((self.tmp / "out").exists())


class Failures(Case):
    def broken(self, name, value, count=1):
        """A copy of the small model with values changed in the middle of a tensor."""
        path = self.tmp / "broken"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.small, path)
        shard = json.loads((path / "model.safetensors.index.json").read_text())["weight_map"][name]
        with open(path / shard, "r+b") as f:
            size = struct.unpack("<Q", f.read(8))[0]
            begin, end = json.loads(f.read(size))[name]["data_offsets"]
            f.seek(8 + size + begin + (end - begin) // 4 * 2)
            f.write(count * struct.pack("<f", value)[2:])
        return path

    def test_values_anywhere(self):
        """The reader finds NaN, the encoder what is too large: the first in order is told."""
        last = "ernie.layers.2.mlp.shared_experts.down_proj"
        for name in ("ernie.embed_tokens", "ernie.layers.1.mlp.experts.1.up_gate_proj", last,
                     "ernie.norm", "lm_head"):
            path = self.broken(name + ".weight", float("nan"))
            for more in (["-j1"], ["-j64"], ["-j2", "--mem-limit=24M"]):
                p = self.run_tool(*more, "--effort=fast", path, self.tmp / "out", code=65)
                self.assertIn(name, p.stderr)
                self.assertIn("1 non-finite values, first at [", p.stderr)
                self.assertFalse((self.tmp / "out").exists())
        last = "ernie.layers.2.mlp.experts.2.down_proj"
        path = self.broken(last + ".weight", 3.38e38, 64 * 256)
        p = self.run_tool("--effort=fast", "--w4-end-layer=-1", path, self.tmp / "out", code=65)
        self.assertIn(last, p.stderr)
        self.assertFalse((self.tmp / "out").exists())

    def test_writer(self):
        def small_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for threads in (1, 64):
            p = subprocess.run([TOOL, "-q", "--effort=fast", f"-j{threads}", self.small,
                                self.tmp / "out"], capture_output=True, preexec_fn=small_files,
                               timeout=60)
            self.assertEqual(p.returncode, 74, p.stderr)
            self.assertEqual(os.listdir(self.tmp / "out"), [".ccq"])
            shutil.rmtree(self.tmp / "out")

    def test_signals_at_any_time(self):
        rng = random.Random(SEED)
        stopped = 0
        whole = {more: self.quantize(self.wide, "--effort=normal", more)[1]
                 for more in ("-j1", "-j2", "-j64")}
        self.assertEqual(len(set(whole.values())), 1)
        for i in range(12):
            threads = ["-j1", "-j2", "-j64"][i % 3]
            least = self.plan(self.wide, threads)["memory_least_bytes"]
            more = [threads] + [f"--mem-limit={least + 70000}"][:i % 2]
            p = subprocess.Popen([TOOL, "-q", "--effort=normal", *more, self.wide,
                                  self.tmp / "out"], stderr=subprocess.PIPE)
            time.sleep(0.02 + 0.3 * rng.random())
            p.send_signal(signal.SIGINT)
            err = p.communicate(timeout=60)[1]
            if p.returncode == 0:
                shutil.rmtree(self.tmp / "out")
                continue
            self.assertIn(p.returncode, (75, -signal.SIGINT), err)  # -2: before it was caught
            if p.returncode == 75:
                self.assertEqual(os.listdir(self.tmp / "out"), [".ccq"])
                self.assertIn(b"--resume", err)
                _, made = self.quantize(self.wide, "--effort=normal", "--resume")
                self.assertEqual(made, whole["-j1"])
            stopped += p.returncode == 75
        self.assertGreater(stopped, 0)


if __name__ == "__main__":
    TOOL, MAKE = sys.argv[1], sys.argv[2]
    print(f"seed: CCQ_SEED={SEED}")
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
