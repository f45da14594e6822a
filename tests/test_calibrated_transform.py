#!/usr/bin/env python3
"""ccq-quantize --calibration with --transform: bytes, memory, resume, what it costs.

usage: test_calibrated_transform.py CCQ-QUANTIZE CCQ-INSPECT CCQ-RUN QUANTIZE-FAULTS
       [unittest arguments]

Standard library only.
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import test_quantize_cli as base  # noqa: E402
from test_quantize_cli import MICRO, Case, digest, write_model, write_tokens  # noqa: E402
from test_schemes_cli import tensors_of  # noqa: E402

INSPECT = RUN = FAULTS = ""
BOTH = "rotate,permute"
KINDS = ("rotate", "permute", BOTH)
FEW = ["--w4-end-layer=2", "--calibration=random", "--calibration-tokens=1024",
       "--calibration-window=128"]
# Tied, as released models are, with a shared expert, and small enough for the C kernels.
SMALL = {"moe_num_experts": 3, "moe_k": 2, "moe_num_shared_experts": 1, "num_hidden_layers": 3}
# Text, 8192 ids each, one part to calibrate with and another to measure on.
PART = 8192


def ids_of(path):
    raw = path.read_bytes()
    data = raw[10 + struct.unpack("<H", raw[8:10])[0]:]
    return struct.unpack(f"<{len(data) // 4}i", data)


class Turned(Case):
    def quantize(self, name, *args, source=MICRO, calibration=FEW):
        out = self.tmp / name
        self.run_tool("-q", *calibration, *args, source, out)
        return out

    def small(self, **more):
        return write_model(self.tmp / "small", dict(SMALL, **more))

    def verify(self, out):
        p = subprocess.run([INSPECT, "--verify=deep", str(out)], capture_output=True, text=True)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)


class Bytes(Turned):
    def same(self, source, kind, *variants):
        found = {digest(self.quantize(f"{kind}{i}", f"--transform={kind}", *more, source=source))
                 for i, more in enumerate(variants)}
        self.assertEqual(len(found), 1, kind)
        self.verify(self.tmp / f"{kind}0")

    def test_threads(self):
        for kind in ("rotate", "permute"):
            self.same(MICRO, kind, ["-j1"], ["-j2"], ["-j7"], ["--cpu-isa=c,avx2"])

    def test_isa(self):
        for kind in KINDS:
            self.same(self.small(), kind, ["-j1"], ["-j7"], ["--cpu-isa=c"], ["--cpu-isa=c,avx2"])
            shutil.rmtree(self.tmp / "small")

    def test_each_is_another_model(self):
        seen = {str(tensors_of(self.quantize(t, f"--transform={t}"))[0]) for t in ("none", *KINDS)}
        self.assertEqual(len(seen), 4)

    def test_without_statistics(self):
        """What no statistics act on is what it would be without any."""
        small = self.small()
        for i, (source, kind, more) in enumerate([
                (MICRO, BOTH, []), (MICRO, "permute", []),
                (MICRO, "rotate", ["--weight-only-rule=cpu"]),
                (small, "rotate", ["--force", "--tensor-type=lm_head=wint8"])]):
            args = [f"--transform={kind}", *more]
            made, plain = (tensors_of(self.quantize(f"{n}{i}", *args, source=source,
                                                    calibration=c))[0]
                           for n, c in (("a", FEW), ("b", FEW[:1])))
            self.assertEqual(made.keys(), plain.keys())
            for name in made:
                if ".experts." not in name:
                    self.assertEqual(made[name], plain[name], name)
            self.assertNotEqual(made, plain)

    def test_recipe_repeats(self):
        first = self.quantize("a", f"--transform={BOTH}", "--calibration-seed=3")
        again = self.quantize("b", "--recipe", first / "ccq_recipe.json", calibration=[])
        self.assertEqual(digest(first), digest(again))
        recipe = json.loads((again / "ccq_recipe.json").read_text())
        self.assertEqual(recipe["transform"], ["rotate", "permute"])
        self.assertEqual(recipe["calibration"], "random")

    def test_memory_limit(self):
        """The least memory that the plan names is enough, and leaves no trace."""
        args = [*FEW, f"--transform={BOTH}", "-j2"]
        p = self.run_tool("--json", "--dry-run", *args, MICRO, self.tmp / "x")
        least = json.loads(p.stdout)["memory_least_bytes"]
        whole = self.quantize("a", f"--transform={BOTH}")
        small = self.quantize("b", f"--transform={BOTH}", "-j2", f"--mem-limit={least}")
        self.assertEqual(digest(whole), digest(small))
        self.refuse(64, *args, f"--mem-limit={least - 1}", MICRO, self.out, says=str(least))

    def test_resume(self):
        """What is finished is checked against the same fp32 values, and not made again."""
        args = ["-q", "-j2", *FEW, f"--transform={BOTH}"]
        whole = self.quantize("a", f"--transform={BOTH}")
        count = self.tmp / "count"
        for fault in ("none:0", "kill"):
            env = {**os.environ, "CCQ_FAULT_COUNT": str(count), "CCQ_FAULT_CLASS": "io",
                   "CCQ_FAULT": fault if fault != "kill" else f"kill:{calls // 2}"}
            shutil.rmtree(self.out, ignore_errors=True)
            subprocess.run([FAULTS, *args, MICRO, self.out], env=env, capture_output=True)
            calls = int(count.read_text())
        journal = self.out / ".ccq" / "journal.0-of-1"
        self.assertGreater(journal.read_bytes().count(b"\n"), 3)
        self.run_tool(*args, "--resume", MICRO, self.out)
        self.assertEqual(digest(self.out), digest(whole))


class Accuracy(Turned):
    def test_mean_kld(self):
        """A transform costs little: the same bits, in another basis or order."""
        ids = ids_of(MICRO / "tokens_test.npy")
        text = write_tokens(self.tmp / "text.npy", ids[:PART])
        test = write_tokens(self.tmp / "test.npy", ids[-PART:])
        calibration = ["--calibration", text, "--calibration-window=256"]
        found = {}
        for name, c in (("data-free", []), ("none", calibration), ("rotate", calibration),
                        ("permute", calibration), (BOTH, calibration)):
            kind = "none" if name == "data-free" else name
            out = self.quantize(name, f"--transform={kind}", "--w4-end-layer=-1", calibration=c)
            p = subprocess.run([RUN, "--json", "--numerics=exact", "--window=256", "--tokens", test,
                                "--baseline", MICRO, out], capture_output=True, text=True)
            self.assertEqual(p.returncode, 0, p.stderr)
            found[name] = json.loads(p.stdout)["statistics"]["mean_kld"]
            print(f"{name}: mean KLD {found[name]:.5f}")
        for kind in KINDS:
            self.assertLess(found[kind], 1.2 * found["none"], kind)
            self.assertLess(found[kind], found["data-free"], kind)


class Refusals(Turned):
    def test_statistics_in_a_file(self):
        """They are those of the model as it is."""
        stats = self.tmp / "stats"
        for kind in KINDS:
            self.refuse(64, *FEW, f"--transform={kind}", "--save-stats", stats, MICRO, self.out,
                        says="without a transform")
        self.run_tool("-q", *FEW, "--save-stats", stats, MICRO, self.out)
        shutil.rmtree(self.out, ignore_errors=True)
        self.refuse(64, "--stats", stats, "--transform=rotate", MICRO, self.out,
                    says="without a transform")

    def test_hidden_size(self):
        model = self.small(hidden_size=192, moe_num_experts=2)
        self.refuse(64, *FEW, "--transform=rotate", model, self.out, says="hidden_size 192")


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    base.TOOL, INSPECT, RUN, FAULTS = sys.argv[1:5]
    unittest.main(argv=sys.argv[:1] + sys.argv[5:])
