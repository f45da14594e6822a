#!/usr/bin/env python3
"""ccq-run on a device gives what the CPU gives, within the gate of its numerics.

usage: test_device_run.py CCQ-RUN CCQ-QUANTIZE [DEVICE]

DEVICE is host (default): a device's code, run on the CPU. Risk: a piece of the forward pass
is given to the device in another order, with another layout of cache, routes or experts, or
with other weights than the CPU has; results change from run to run.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parent
MODEL = TOP / "data" / "ernie-micro"
IDS = ["--prompt-ids=1,17,33,250,99,4,8", "--prompt-ids=5,6,7",
       "--prompt-ids=" + ",".join(str(7 * i % 500) for i in range(40))]
RUN = QUANTIZE = None
DEVICE = "host"


def run_tool(*args):
    p = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    return p.returncode, p.stdout, p.stderr


class Device(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory()
        cls.dir = pathlib.Path(cls.tmp.name)

    @classmethod
    def tearDownClass(cls):
        cls.tmp.cleanup()

    def good(self, *args):
        status, out, err = run_tool(*args)
        self.assertEqual(status, 0, f"{args}: {err}")
        return out

    def quantized(self, *options):
        out = self.dir / "-".join(["q", *(o.strip("-").replace("=", "") for o in options)])
        if not out.exists():
            self.good(QUANTIZE, "-q", "--device=cpu", "--effort=fast", *options, MODEL, out)
        return out

    def same(self, model, gate, *options, tokens=4):
        """The device against what the CPU has stored."""
        ref = self.dir / "ref.npz"
        ref.unlink(missing_ok=True)
        self.good(RUN, "-q", "--device=cpu", *options, *IDS, f"--max-tokens={tokens}",
                  f"--save-reference={ref}", model)
        out = self.good(RUN, "--json", f"--device={DEVICE}", *options, f"--reference={ref}",
                        f"--gate={TOP / gate}", model)
        said = json.loads(out)
        self.assertTrue(said["device"].startswith(DEVICE), said["device"])
        return said

    def test_bf16(self):
        self.same(MODEL, "gates.json", "--numerics=exact")
        self.same(MODEL, "gates_fastdeploy.json")

    def test_wint2_fused(self):
        for options in (("--w4-end-layer=1",), ("--w4-end-layer=-1",),
                        ("--w4-end-layer=-1", "--k-order=plain")):
            with self.subTest(options=options):
                self.same(self.quantized(*options), "gates_fastdeploy.json")

    def test_wint2_other_roundings(self):
        model = self.quantized("--w4-end-layer=-1")
        for rounding in ("none", "unzip"):
            with self.subTest(rounding=rounding):
                self.same(model, "gates_fastdeploy.json", f"--wint2-rounding={rounding}")

    def test_exact(self):
        for options in (("--w4-end-layer=1",), ("--scheme=block_wise_fp8",)):
            with self.subTest(options=options):
                self.same(self.quantized(*options), "gates.json", "--numerics=exact")

    def test_schemes(self):
        for scheme in ("wint4", "wint8", "block_wise_fp8"):
            with self.subTest(scheme=scheme):
                self.same(self.quantized(f"--scheme={scheme}"), "gates_fastdeploy.json")

    def test_small_steps(self):
        """Prompts in pieces, one sequence at a time: the cache is where it should be."""
        model = self.quantized("--w4-end-layer=1")
        self.same(model, "gates_fastdeploy.json", "--prefill-rows=7", "--batch-size=1")

    def test_same_bits(self):
        model = self.quantized("--w4-end-layer=1")
        files = [self.dir / f"{i}.npz" for i in range(2)]
        for f in files:
            self.good(RUN, "-q", f"--device={DEVICE}", *IDS, "--max-tokens=6",
                      f"--save-reference={f}", model)
        self.assertEqual(files[0].read_bytes(), files[1].read_bytes())

    def test_layer_by_layer(self):
        """A comparison whose models are not held in memory."""
        tokens = self.dir / "tokens.txt"
        tokens.write_text(" ".join(str(11 * i % 500) for i in range(48)))
        model = self.quantized("--w4-end-layer=1")
        job = ("--json", "--numerics=exact", "--baseline", MODEL, "--tokens", tokens, "--window=24")
        all_, cut = (json.loads(self.good(RUN, f"--device={DEVICE}", *limit, *job, model))
                     for limit in ((), ("--mem-limit=6M",)))
        self.assertTrue(cut["layered"] and not all_["layered"])
        for name in ("mean_kld", "ppl"):
            self.assertAlmostEqual(all_["statistics"][name], cut["statistics"][name], delta=1e-6)

    def test_bench(self):
        out = json.loads(self.good(RUN, "--json", f"--device={DEVICE}", "--bench",
                                   "--bench-batch=2", "--bench-context=8",
                                   self.quantized("--w4-end-layer=1")))
        parts = out["bench"]["decode"][0]["parts"]
        for part in ("attention", "dense", "router", "experts", "head"):
            self.assertGreater(parts[part]["step_s"], 0, part)
            self.assertGreater(parts[part]["bytes_per_step"], 0, part)

    def test_refused(self):
        for options, status in ((("--device=tpu",), 64), (("--device=cuda:x",), 64),
                                (("--device=host", "--blas"), 64), (("--device=cuda:77",), 69)):
            with self.subTest(options=options):
                got, _, err = run_tool(RUN, *options, *IDS, MODEL)
                self.assertEqual(got, status, err)


if __name__ == "__main__":
    RUN, QUANTIZE = sys.argv[1:3]
    DEVICE = sys.argv[3] if len(sys.argv) > 3 else DEVICE
    if DEVICE == "cuda" and "device: none" in run_tool(RUN, "--version")[1]:
        print("no CUDA device")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
