#!/usr/bin/env python3
"""Large models of holes, quantized for real: ten times the weights with as much memory, and
tensors of more than 5 GiB. Takes minutes, and 15 GB of disk.

usage: test_big.py CCQ-QUANTIZE CCQ-INSPECT MAKE-CHECKPOINT

CCQ_TMP: where to work (default: the usual place). Standard library only.
"""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

QUANTIZE, INSPECT, MAKE = sys.argv[1:4]
NEEDED = 15 << 30


class Big(unittest.TestCase):
    def setUp(self):
        self.tmp = pathlib.Path(tempfile.mkdtemp(prefix="ccq-big-", dir=os.environ.get("CCQ_TMP")))
        self.addCleanup(shutil.rmtree, self.tmp)
        if shutil.disk_usage(self.tmp).free < NEEDED:
            self.skipTest(f"{NEEDED >> 30} GB of disk are needed")

    def make(self, name, *options):
        subprocess.run([MAKE, "--sparse", *map(str, options), self.tmp / name], check=True,
                       stdout=subprocess.DEVNULL)
        return self.tmp / name

    def size(self, model):
        return sum(f.stat().st_size for f in model.iterdir())

    def quantize(self, model, *options):
        out = self.tmp / "out"
        r = subprocess.run([QUANTIZE, "--json", "-q", "--effort", "fast", "--no-sync", "-j2",
                            *options, model, out], capture_output=True, text=True)
        self.assertEqual(r.returncode, 0, r.stderr)
        return out, json.loads(r.stdout)

    def test_ten_times_larger(self):
        peaks = []
        for layers in (3, 30):
            model = self.make("holes", "--layers", layers, "--hidden", 4096, "--inter", 2048,
                              "--experts", 12, "--vocab", 8192)
            out, said = self.quantize(model)
            peaks.append(said["peak_rss_bytes"])
            print(f"{self.size(model) / 1e9:.1f} GB of weights: peak {peaks[-1] / 1e6:.1f} MB, "
                  f"{said['wall_s']:.0f} s")
            self.assertLess(peaks[-1], said["memory_bytes"])
            shutil.rmtree(model)
            shutil.rmtree(out)
        self.assertLess(peaks[1], 1.05 * peaks[0])

    def test_five_gib(self):
        """Embedding and head of 5 GiB each: copied through a window, found whole."""
        model = self.make("wide", "--layers", 2, "--hidden", 256, "--inter", 128, "--experts", 2,
                          "--vocab", 11 << 20)
        out, said = self.quantize(model)
        print(f"{self.size(model) / 1e9:.1f} GB: peak {said['peak_rss_bytes'] / 1e6:.1f} MB")
        self.assertLess(said["peak_rss_bytes"], 1 << 30)
        r = subprocess.run([INSPECT, "--verify=deep", "--json", out], capture_output=True,
                           text=True)
        self.assertEqual((r.returncode, json.loads(r.stdout)["findings"]), (0, []), r.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
