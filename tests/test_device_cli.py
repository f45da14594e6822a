#!/usr/bin/env python3
"""ccq-quantize --device: the same bytes as the CPU's, whatever is asked for.

usage: test_device_cli.py CCQ-QUANTIZE MAKE-CHECKPOINT [cuda] [TEST...]

With cuda the device is CUDA's, else the host's. Standard library only.
"""
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(TOP))
import test_quantize_cli as models  # noqa: E402

TOOL = MAKE = ""
DEVICE = "host"
MICRO = models.MICRO


def digest(path):
    h = hashlib.sha256()
    for p in sorted(path.rglob("*")):
        if p.is_file():
            h.update(str(p.relative_to(path)).encode() + b"\0" + p.read_bytes())
    return h.hexdigest()


class Device(unittest.TestCase):
    def setUp(self):
        made = tempfile.TemporaryDirectory(prefix="ccq-")
        self.addCleanup(made.cleanup)
        self.tmp = pathlib.Path(made.name)

    def run_tool(self, *args, code=0):
        p = subprocess.run([TOOL, *map(str, args)], capture_output=True, encoding="utf-8",
                           stdin=subprocess.DEVNULL, timeout=240)
        self.assertEqual(p.returncode, code, p.stderr + p.stdout)
        return p

    def made(self, name, width, hidden=128):
        subprocess.run([MAKE, "--layers", "2", "--hidden", str(hidden), "--inter", str(width),
                        "--experts", "2", "--vocab", "64", self.tmp / name],
                       check=True, capture_output=True)
        return self.tmp / name

    def quantize(self, device, *args):
        """The document, and the digest of all files."""
        out = self.tmp / device
        said = json.loads(self.run_tool("-q", "--json", "--device", device, *args, out).stdout)
        made = digest(out)
        subprocess.run(["rm", "-r", out], check=True)
        return said, made

    def same(self, *args):
        cpu, one = self.quantize("cpu", *args)
        device, other = self.quantize(DEVICE, *args)
        self.assertEqual(one, other, args)
        self.assertEqual(cpu["device"], "cpu")
        self.assertTrue(device["device"].startswith(DEVICE), device["device"])
        for key in "tensors", "sqnr_db_by_type", "zero_columns", "verify_findings":
            self.assertEqual(cpu[key], device[key], key)
        self.assertEqual(device["device_weights"], cpu["encode_weights"])
        self.assertEqual((device["encode_weights"], device["device_cpu_blocks"]), (0, 0))
        return device

    def test_efforts(self):
        self.same("--effort=fast", MICRO)
        self.same("--effort=normal", "--gain=3", "--k-order=plain", "--w4-end-layer=4", MICRO)

    def test_ranks(self):
        self.same("--effort=fast", "--tp=2", "--w4-end-layer=-1", self.made("tp", 256, 512))

    def test_blocks_of_columns(self):
        """As few columns at a time as can be: what is in flight holds all the memory there is."""
        model = self.made("wide", 640)
        args = "--effort=fast", "--w4-end-layer=-1"
        whole = self.same(*args, model)
        least = json.loads(self.run_tool("-q", "--json", "--dry-run", *args, model,
                                         self.tmp / "none").stdout)["memory_least_bytes"]
        few = self.same(*args, "--mem-limit", least, model)
        self.assertGreater(few["device_blocks"], whole["device_blocks"])

    def test_huge(self):
        """A column that is refused is so in the same words."""
        name = "ernie.layers.1.mlp.experts.1.down_proj.weight"
        large = {128 * r + 7: 3e38 if r % 3 else -3.1e38 for r in range(128)}
        model = models.write_model(self.tmp / "in", change={name: large})
        said = set()
        for device in "cpu", DEVICE:
            out = self.tmp / "out"
            p = self.run_tool("-q", "--device", device, "--w4-end-layer=-1", model, out, code=65)
            said.add(p.stderr)
            self.assertFalse(out.exists())
        self.assertEqual(len(said), 1)
        self.assertIn("[0,7]", said.pop())

    def test_check_tensor(self):
        out = self.tmp / "out"
        self.run_tool("-q", "--device", "cpu", "--effort=fast", "--w4-end-layer=4", MICRO, out)
        p = self.run_tool("--device", DEVICE, "--effort=fast", "--check-tensor",
                          "ernie.layers.5.mlp.experts.1.up_gate_proj", MICRO, out)
        self.assertIn("the same", p.stdout)

    def test_nothing_for_it(self):
        """No wint2 tensors: the CPU's work, and it says so."""
        args = "--scheme=wint8", MICRO
        said, made = self.quantize(DEVICE, *args)
        self.assertEqual((said["device"], made), ("cpu", self.quantize("cpu", *args)[1]))

    def test_statistics(self):
        """Every effort with statistics: gathered on the way, or from a file."""
        model, stats = self.made("small", 128), self.tmp / "stats"
        random = "--calibration=random:512", "--calibration-window=64"
        self.run_tool("-q", *random, "--save-stats", stats, model)
        for args in (random + ("--effort=fast",),
                     ("--stats", stats, "--effort=normal", "--k-order=plain", "--gain=7")):
            cpu, one = self.quantize("cpu", "--w4-end-layer=-1", *args, model)
            device, other = self.quantize(DEVICE, "--w4-end-layer=-1", *args, model)
            self.assertEqual(one, other, args)
            self.assertEqual(cpu["sqnr_db_by_type"], device["sqnr_db_by_type"], args)
            self.assertEqual(device["device_blocks"], 4, args)
            self.assertEqual(device["device_cpu_blocks"], 0, args)

    def test_report(self):
        out = self.tmp / "out"
        p = self.run_tool("-v", "--device", DEVICE, "--effort=fast", "--w4-end-layer=4", MICRO, out)
        self.assertRegex(p.stderr, rf"\n  device    {DEVICE}\b")
        self.assertRegex(p.stdout, rf"\ndevice {DEVICE}.*: \d+ blocks of columns")

    def test_absent(self):
        for device, code in ("cuda:999", 69), ("host:0", 64), ("cuda:", 64), ("gpu", 64):
            p = self.run_tool("--device", device, MICRO, self.tmp / "out", code=code)
            self.assertIn("--device", p.stderr)
            self.assertFalse((self.tmp / "out").exists())


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: test_device_cli.py CCQ-QUANTIZE MAKE-CHECKPOINT [cuda] [TEST...]")
    TOOL, MAKE = map(os.path.abspath, sys.argv[1:3])
    rest = sys.argv[3:]
    if rest[:1] == ["cuda"]:
        DEVICE, rest = "cuda", rest[1:]
        if "\ndevice: cuda:" not in subprocess.run([TOOL, "--version"], capture_output=True,
                                                   encoding="utf-8").stdout:
            print("skipped: no CUDA device")
            sys.exit(77)
    unittest.main(argv=[sys.argv[0], *rest])
