#!/usr/bin/env python3
"""ccq-inspect on all data: every flipped bit of an output is found and named, values
and zeros are seen, checkpoints and single files are compared and listed, the K order
is found where nothing records it.

usage: test_inspect_deep.py CCQ-INSPECT CCQ-QUANTIZE [unittest arguments]

Standard library only. CCQ_SEED repeats a run.
"""
import io
import json
import math
import os
import pathlib
import random
import shutil
import struct
import sys
import tempfile
import unittest
import zipfile

TOP = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(TOP))
import oracle  # noqa: E402
import test_inspect_cli as base  # noqa: E402
import tp_slice  # noqa: E402
from test_inspect_cli import edit_config, poke, read, write  # noqa: E402

SEED = int(os.environ.get("CCQ_SEED", "47"))
MICRO, EXPERT, WINT4 = base.MICRO, base.EXPERT, base.WINT4
WINT8 = "ernie.layers.0.self_attn.o_proj"
MODELS = {}  # option text -> directory, each made once
ROOT = None


def tool(*args):
    return base.tool(*args)


def model(*options):
    """An output of the bundled model with these options, to look at only."""
    if options not in MODELS:
        out = ROOT / f"m{len(MODELS)}"
        r = base.tool("-q", "--effort", "fast", *options, MICRO, out, binary=base.QUANTIZE)
        if r.returncode:
            raise AssertionError(f"ccq-quantize {options}: {r.stderr}")
        MODELS[options] = out
    return MODELS[options]


def mixed():
    return model("--w4-end-layer", "1")


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="ccq-deep-"))
        self.addCleanup(shutil.rmtree, self.dir)

    def copy(self, source, bare=True):
        """Bare: without manifest, recipe and index, so that only the change is found."""
        d = self.dir / "model"
        if d.exists():
            shutil.rmtree(d)
        shutil.copytree(source, d)
        if bare:
            for name in ("ccq_manifest.json", "ccq_recipe.json", "model.safetensors.index.json"):
                (d / name).unlink(missing_ok=True)
        return d

    def changed(self, source, change, bare=True):
        d = self.copy(source, bare)
        t = read(d)
        change(t)
        write(d, t)
        return d

    def document(self, *args, status=(0,)):
        r = tool("--json", *args)
        self.assertIn(r.returncode, status, (args, r.stderr))
        d = json.loads(r.stdout)
        self.assertEqual(d["schema"], "ccq.inspect/1")
        return d

    def verify(self, directory, mode="deep"):
        d = self.document(f"--verify={mode}", directory, status=(0, 1))
        return d["findings"], d["warnings"]

    def usage(self, *args):
        r = tool(*args)
        self.assertEqual((args, r.returncode, r.stdout), (args, 64, ""), r.stderr)


class Deep(Case):
    def test_good(self):
        shared = base.SHARED / "models"
        for d in (mixed(), model("--scheme", "block_wise_fp8"), model("--scheme", "wint4"),
                  model("--scheme", "wint8"), MICRO, shared / "ernie-micro/wint2",
                  shared / "ernie-mini", shared / "ernie-micro/pt"):
            if d.is_dir():
                self.assertEqual((d, self.verify(d)), (d, ([], [])))

    def test_flipped_bits(self):
        """Random bits of every file, in one shard or several: the file is named, and
        the tensor where it is one's data."""
        rng = random.Random(SEED)
        for options in (("--w4-end-layer", "1"), ("--shard-size", "300K")):
            d = self.copy(model(*options), bare=False)
            for path in sorted(d.iterdir()):
                good = path.read_bytes()
                if path.suffix == ".safetensors":
                    self.flip_data(d, path, good, rng)
                for _ in range(6):
                    self.flip(d, path, good, rng.randrange(len(good)), rng)
            self.assertEqual(self.verify(d), ([], []))

    def flip(self, d, path, good, at, rng, tensor=None):
        bad = bytearray(good)
        bit = rng.randrange(8)
        bad[at] ^= 1 << bit
        path.write_bytes(bad)
        found = [f for f in self.verify(d)[0] if f["file"] == path.name and
                 (tensor is None or f["tensor"] == tensor)]
        self.assertTrue(found, f"{path.name} byte {at} bit {bit} ({tensor}) is not found")
        path.write_bytes(good)

    def flip_data(self, d, path, good, rng):
        size = struct.unpack("<Q", good[:8])[0]
        header = json.loads(good[8:8 + size])
        header.pop("__metadata__")
        for name in rng.sample(sorted(header), min(12, len(header))):
            first, end = header[name]["data_offsets"]
            at = 8 + size + rng.randrange(first, end)
            self.flip(d, path, good, at, rng, tensor=name)

    def test_quick_leaves_data_alone(self):
        d = self.copy(mixed(), bare=False)
        path = d / "model.safetensors"
        bad = bytearray(path.read_bytes())
        bad[-1] ^= 1
        path.write_bytes(bad)
        self.assertEqual(self.verify(d, "quick"), ([], []))
        found, _ = self.verify(d)
        self.assertEqual([f["code"] for f in found], ["MANIFEST"])
        r = tool("--verify=deep", d)
        self.assertEqual(r.returncode, 1)
        self.assertIn(found[0]["tensor"], r.stdout)

    def test_zeros(self):
        """A warning and no finding; a bias may be zero."""
        bias = "ernie.layers.1.mlp.moe_statics.e_score_correction_bias"
        for name in (EXPERT + ".quant_weight", EXPERT + ".weight_scale", EXPERT + ".super_scales",
                     WINT8 + ".quant_weight", WINT8 + ".weight_scale", "ernie.norm.weight",
                     "ernie.layers.2.mlp.gate.weight", bias):
            def change(t):
                t[name][2] = bytes(len(t[name][2]))
            d = self.changed(mixed(), change)
            found, warned = self.verify(d)
            self.assertEqual((name, found), (name, []))
            names = {w["tensor"] for w in warned}
            self.assertEqual(name in names, name != bias, (name, warned))
            self.assertEqual(names - {name, WINT8 + ".quant_weight", EXPERT + ".quant_weight"},
                             set())
            self.assertEqual(self.verify(d, "quick")[1], [])
            r = tool("--verify=deep", d)
            self.assertEqual(r.returncode, 0)
            self.assertEqual("warning: " in r.stderr, name != bias)

        def decodes_to_zero(t):  # wint8 stores q + 128
            t[WINT8 + ".quant_weight"][2] = b"\x80" * len(t[WINT8 + ".quant_weight"][2])
        _, warned = self.verify(self.changed(mixed(), decodes_to_zero))
        self.assertEqual([(w["tensor"], w["message"]) for w in warned],
                         [(WINT8 + ".quant_weight", "all decoded weights are zero")])

    def test_nonfinite(self):
        """What only a look at all values finds."""
        fp8 = model("--scheme", "block_wise_fp8")
        for source, name, fmt, at, value, where in (
                (mixed(), "ernie.embed_tokens.weight", "H", 4321, 0x7FC0, "[4321]"),
                (mixed(), "lm_head.weight", "H", 17, 0xFF80, "[17]"),
                (mixed(), WINT8 + ".weight_scale", "H", 5, 0x7F7F, ", 5]"),
                (fp8, WINT8 + ".quant_weight", "B", 130, 0x7F, "[1, 2]"),
                (fp8, WINT8 + ".quant_weight", "B", 129, 0xFF, "[1, 1]"),
                (fp8, WINT8 + ".weight_scale", "f", 0, 3e38, "[0, ")):
            d = self.changed(source, lambda t: poke(t[name], fmt, at, value))
            self.assertEqual(self.verify(d, "quick")[0], [])
            found, _ = self.verify(d)
            tensor = name.replace("weight_scale", "quant_weight")
            self.assertEqual([(f["code"], f["tensor"]) for f in found], [("NONFINITE", tensor)])
            self.assertIn(where, found[0]["message"])

    def test_one_fault_one_finding(self):
        """A scale that is not finite is not told again for each weight it spoils."""
        d = self.changed(mixed(), lambda t: poke(t[EXPERT + ".super_scales"], "H", 3, 0x7FC0))
        found, _ = self.verify(d)
        self.assertEqual([(f["code"], f["tensor"]) for f in found],
                         [("NONFINITE", EXPERT + ".super_scales")])

    def test_checksums_without_a_model(self):
        """Data is checked although the model does not open."""
        d = self.copy(mixed(), bare=False)
        edit_config(d, lambda c: c.pop("num_hidden_layers"))
        path = d / "model.safetensors"
        bad = bytearray(path.read_bytes())
        bad[-1] ^= 16
        path.write_bytes(bad)
        self.assertEqual([f["code"] for f in self.verify(d)[0] if f["tensor"]], ["MANIFEST"])

    def test_threads(self):
        d = self.changed(mixed(), lambda t: poke(t[WINT8 + ".weight_scale"], "H", 5, 0x7F7F),
                         bare=False)
        one, *rest = (tool("--json", "--verify=deep", "-j", j, "--cpu-isa", isa, d).stdout
                      for j, isa in ((1, "c"), (2, "avx2"), (7, "c,avx2,avx512")))
        self.assertGreater(len(one), 1000)
        self.assertEqual(rest, [one, one])

    def test_usage(self):
        for args in (("--verify=full",), ("--verify=",), ("--verify=deep,quick",)):
            self.usage(*args, mixed())


class Large(Case):
    """A tensor of several chunks: sums and places go across them."""
    EMBED, VOCAB = "ernie.embed_tokens.weight", 36000  # 9.2 MB; a chunk is 4 MiB

    def setUp(self):
        super().setUp()
        source, self.out = self.dir / "source", self.dir / "out"
        shutil.copytree(MICRO, source)
        edit_config(source, lambda c: c.update(vocab_size=self.VOCAB))
        t = read(source)
        for name, shape in ((self.EMBED, [self.VOCAB, 128]), ("lm_head.weight", [128, self.VOCAB])):
            rng = random.Random(SEED)
            row = bytes(rng.randrange(64) for _ in range(510))  # finite, of no power of 2
            t[name][1:] = shape, (row * (self.VOCAB * 256 // 510 + 1))[:self.VOCAB * 256]
        write(source, t)
        r = base.tool("-q", "--effort", "fast", source, self.out, binary=base.QUANTIZE)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.start = self.document("--tensor", "embed", self.out)["tensors"][0]["stored"][0][
            "offset"]

    def test_large(self):
        self.assertEqual(self.verify(self.out), ([], []))
        other = self.dir / "other"
        shutil.copytree(self.out, other)
        path = other / "model.safetensors"
        good = path.read_bytes()
        for element in (0, (4 << 19) + 5, self.VOCAB * 128 - 1):
            bad = bytearray(good)
            struct.pack_into("<H", bad, self.start + 2 * element, 0x7FC0)
            path.write_bytes(bad)
            found, _ = self.verify(other)
            self.assertEqual([(f["code"], f["tensor"]) for f in found],
                             [("MANIFEST", self.EMBED), ("NONFINITE", self.EMBED)])
            self.assertIn(f"1 non-finite values, first at [{element}]", found[1]["message"])
            diff = self.document("--compare", other, self.out, status=(1,))["compare"]
            self.assertEqual([(x["name"], x["element"], x["index"], x["other"])
                              for x in diff["differences"]],
                             [(self.EMBED, element, [element // 128, element % 128], "nan (7fc0)")])
            got = self.document("--values", "--tensor", "embed", other)["tensors"][0]
            self.assertEqual(got["nonfinite_at"], [[element // 128, element % 128]])
        bad = bytearray(good)
        bad[self.start:self.start + self.VOCAB * 256 - 1] = bytes(self.VOCAB * 256 - 1)
        bad[self.start + self.VOCAB * 256 - 1] = 1  # one byte that is not zero, in the last chunk
        path.write_bytes(bad)
        self.assertEqual(self.verify(other)[1], [])


class Fp8(Case):
    def test_rules(self):
        source = model("--scheme", "block_wise_fp8")
        up = "ernie.layers.1.mlp.experts.1.up_gate_proj"
        for change, code, words in (
                (lambda t: t.__setitem__(up + ".quant_weight", ["I8", [128, 192], bytes(24576)]),
                 "SHAPE_RULE", "gate/up boundary 96 is not a multiple of 128"),
                (lambda t: t.__setitem__(up + ".weight_scale", ["F32", [2, 1], bytes(8)]),
                 "SHAPE", "wanted [1, 2]"),
                (lambda t: t[up + ".quant_weight"].__setitem__(0, "F8_E4M3"), "DTYPE", "I8"),
                (lambda t: poke(t[up + ".weight_scale"], "f", 1, math.nan), "NONFINITE", "[1]"),
                (lambda t: t.pop(up + ".weight_scale"), "INCOMPLETE", "missing")):
            d = self.changed(source, change)
            found, _ = self.verify(d, "quick")
            self.assertTrue([f for f in found if f["code"] == code and words in f["message"] and
                             f["tensor"].startswith(up)], (code, words, found))

    def test_config(self):
        source = model("--scheme", "block_wise_fp8")
        for key, value, words in (
                ("quantization", "block_wise_fp8", "mix_quant"),
                ("dense_quant_type", "wint8", "dense_quant_type"),
                ("weight_block_size", [64, 128], "weight_block_size"),
                ("weight_block_size", None, "weight_block_size"),
                ("is_quantized", False, "is_quantized")):
            d = self.copy(source)
            edit_config(d, lambda c: base.set_path(c, "quantization_config." + key, value))
            found, _ = self.verify(d, "quick")
            self.assertTrue([f for f in found if (f["code"], f["file"]) ==
                             ("CONFIG", "config.json") and words in f["message"]], (key, found))

    def test_views(self):
        d = self.document(model("--scheme", "block_wise_fp8"))
        part = d["layers"][1]["experts"]
        self.assertEqual((part["type"], part["granularity"], part["group_size"]),
                         ("block_wise_fp8", "block_wise", 128))
        self.assertEqual(part["bytes"], 4 * (128 * 256 + 2 * 4 + 128 * 128 + 4))

    def test_wint25_is_named(self):
        def change(t):
            t[EXPERT + ".quant_weight"][:2] = ["I16", [16, 256]]
        d = self.changed(mixed(), change)
        r = tool(d)
        self.assertEqual(r.returncode, 65)
        self.assertIn("wint2.5", r.stderr)
        self.assertIn("wint2.5", self.verify(d)[0][0]["message"])


class Compare(Case):
    def compare(self, a, b, status):
        doc = self.document("--compare", b, a, status=(status,))
        self.assertNotIn("summary", doc)
        c = doc["compare"]
        self.assertEqual(c["equal"], status == 0)
        self.assertEqual(len(c["differences"]), sum(c["counts"].values()))
        return c

    def test_equal(self):
        d = self.copy(mixed(), bare=False)
        self.assertEqual(self.compare(mixed(), d, 0)["tensors"], len(read(mixed())))
        r = tool("--compare", d, mixed())
        self.assertEqual((r.returncode, r.stdout.split()[:2]), (0, ["compare:", "equal,"]))

    def test_config(self):
        d = self.copy(mixed(), bare=False)

        def change(c):
            c["rope_theta"] = 10000
            c["rms_norm_eps"] = 10 * c["rms_norm_eps"] / 10  # another spelling, the same number
            c["extra"] = {"a": [1, {}]}
            c["quantization_config"]["moe_quant_config"]["moe_w4_quant_config"][
                "quant_end_layer"] = 2
            c["architectures"].append("x")
            del c["hidden_act"]
        edit_config(d, change)
        c = self.compare(mixed(), d, 1)
        self.assertEqual(c["counts"], {"config": 6, "tensor": 0, "shape": 0, "values": 0})
        found = {x["name"]: (x.get("model"), x.get("other")) for x in c["differences"]}
        self.assertEqual(found, {
            "config.json: architectures[1]": (None, '"x"'),
            "config.json: extra.a[0]": (None, "1"),
            "config.json: extra.a[1]": (None, "{}"),
            "config.json: hidden_act": ('"silu"', None),
            "config.json: quantization_config.moe_quant_config.moe_w4_quant_config."
            "quant_end_layer": ("1", "2"),
            "config.json: rope_theta": (found["config.json: rope_theta"][0], "10000")})

    def test_tensors(self):
        rng = random.Random(SEED)
        scale, codes, rows = EXPERT + ".code_zp", EXPERT + ".quant_weight", 32
        at = sorted(rng.sample(range(rows * 256), 5))
        good = read(mixed())

        def change(t):
            data = bytearray(t[codes][2])
            for i in at:
                data[i] ^= 0x55
            t[codes][2] = bytes(data)
            poke(t[scale], "f", 7, -0.0)
            t["ernie.norm.weight"][0] = "F16"
            t[EXPERT + ".super_scales"][1] = [256, 1]
            t["extra.vector"] = ["F32", [2], bytes(8)]
            del t["lm_head.weight"]
        d = self.changed(mixed(), change)
        c = self.compare(mixed(), d, 1)
        self.assertEqual(c["counts"], {"config": 0, "tensor": 2, "shape": 2, "values": 2})
        found = {x["name"]: x for x in c["differences"]}
        x = found[codes]
        self.assertEqual((x["element"], x["index"], x["differing"], x["elements"]),
                         (at[0], [at[0] // 256, at[0] % 256], 5, rows * 256))
        byte = good[codes][2][at[0]]
        self.assertEqual((x["model"], x["other"]), (str(byte), str(byte ^ 0x55)))
        self.assertEqual((found[scale]["index"], found[scale]["other"]), ([7], "-0 (80000000)"))
        self.assertEqual((found["ernie.norm.weight"]["model"], found["ernie.norm.weight"]["other"]),
                         ("BF16 [128]", "F16 [128]"))
        self.assertEqual(found[EXPERT + ".super_scales"]["other"], "BF16 [256, 1]")
        self.assertNotIn("model", found["extra.vector"])
        self.assertNotIn("other", found["lm_head.weight"])
        r = tool("--compare", d, mixed())
        self.assertEqual(r.returncode, 1)
        self.assertIn(f"{codes}: element [{at[0] // 256}, {at[0] % 256}] is {byte}, OTHER has "
                      f"{byte ^ 0x55}; 5 of 8192 differ", r.stdout)

    def test_sides(self):
        for other, status in ((self.dir / "absent", 66), (MICRO / "model.safetensors", 64)):
            r = tool("--compare", other, mixed())
            self.assertEqual((r.returncode, r.stdout, len(r.stderr.splitlines())), (status, "", 1))
        a, b = mixed() / "model.safetensors", model("--scheme", "wint8") / "model.safetensors"
        self.assertEqual(self.document("--compare", a, a)["compare"]["equal"], True)
        self.assertEqual(self.document("--compare", b, a, status=(1,))["compare"]["equal"], False)

    def test_beside_other_options(self):
        d = self.document("--compare", mixed(), "--verify", mixed())
        self.assertTrue(d["compare"]["equal"])
        self.assertEqual(d["findings"], [])
        self.assertIn("summary", d)


class Values(Case):
    def test_corner(self):
        for source, name in ((mixed(), EXPERT), (mixed(), WINT4), (mixed(), WINT8)):
            t = oracle.read_checkpoint(source)
            got = self.document("--values", "--tensor", name, source)["tensors"][0]
            n = got["shape"][1]
            q = oracle.numbers(oracle.decode_matrix(t, name, "fastdeploy", "fused"), "H")
            want = [[oracle.bf16_value(q[k * n + i]) for i in range(8)] for k in range(8)]
            self.assertEqual((name, got["corner"]), (name, want))
            self.assertEqual((got["nonfinite"], got["nonfinite_at"]), (0, []))
        for name, code, value in (("ernie.norm.weight", "H", oracle.bf16_value),
                                  ("ernie.layers.1.mlp.gate.weight", "f", float)):
            got = self.document("--values", "--tensor", name, mixed())["tensors"][0]
            k, n = got["shape"]
            x = oracle.numbers(oracle.read_checkpoint(mixed())[name], code)
            self.assertEqual(got["corner"], [[value(x[i * n + j]) for j in range(min(n, 8))]
                                             for i in range(min(k, 8))])

    def test_nonfinite_places(self):
        def change(t):
            for i, bits in ((3, 0x7F80), (130, 0xFF80), (70, 0x7FC0)):
                poke(t["lm_head.weight"], "H", i, bits)
            poke(t[EXPERT + ".super_scales"], "H", 2, 0x7FC0)
        d = self.changed(mixed(), change)
        got = self.document("--values", "--tensor", "lm_head|" + EXPERT, d)["tensors"]
        self.assertEqual([x["nonfinite"] for x in got], [128, 3])
        self.assertEqual(got[0]["nonfinite_at"], [[k, 2] for k in range(8)])
        self.assertEqual([row[2] for row in got[0]["corner"]], ["nan"] * 8)
        n = got[1]["shape"][1]
        self.assertEqual(got[1]["nonfinite_at"], [[i // n, i % n] for i in (3, 70, 130)])
        self.assertEqual(got[1]["corner"][0][3], "inf")
        r = tool("--values", "--tensor", "lm_head", d)
        self.assertIn("not finite: 3, first at [0, 3], ", r.stdout)

    def test_torch_names(self):
        """Pieces that lie transposed."""
        d = base.SHARED / "models/ernie-micro/pt"
        if not d.is_dir():
            self.skipTest(f"no {d}")
        name = "ernie.layers.0.self_attn.qkv_proj"
        one, other = (self.document("--values", "--tensor", name, x)["tensors"][0]["corner"]
                      for x in (d, base.SHARED / "models/ernie-micro"))
        self.assertEqual(one, other)

    def test_histograms(self):
        fp8 = model("--scheme", "block_wise_fp8")
        r = tool("--tensor", WINT8, fp8)
        self.assertIn("e4m3 codes by value", r.stdout)
        got = self.document("--tensor", WINT8, fp8)["tensors"][0]
        counts = [0] * 256
        for b in read(fp8)[WINT8 + ".quant_weight"][2]:
            counts[b] += 1
        self.assertEqual(got["codes"], counts)
        for name, low, high in ((WINT4, -7, 7), (WINT8, -127, 127)):
            self.assertIn(f"integers {low}..{high}, mean ", tool("--tensor", name, mixed()).stdout)

    def test_usage(self):
        self.usage("--values", mixed())


class Order(Case):
    def test_found(self):
        plain = self.copy(model("--w4-end-layer", "1", "--k-order", "plain"))
        r = tool("--against", MICRO, plain)
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertRegex(r.stdout, r"\AK order: plain fits \(\d+\.\d dB against -?\d+\.\d dB\)\n")
        self.assertNotIn("assumed", r.stderr)
        d = self.document("--against", MICRO, plain)
        fit = d["k_order_fit"]
        self.assertEqual((d["k_order"], fit["fits"], d["summary"]["k_order"]), ("plain",) * 3)
        self.assertIs(d["summary"]["k_order_recorded"], False)
        self.assertGreater(fit["plain_db"], fit["fastdeploy_db"] + 5)
        rows = {x["name"]: x["sqnr_db"] for x in d["against"] if x["type"] == "wint2"}
        self.assertGreater(min(rows.values()), 8)
        other = self.document("--against", MICRO, self.copy(mixed()))
        self.assertEqual(other["k_order_fit"]["fits"], "fastdeploy")

    def test_given_or_recorded(self):
        plain = self.copy(model("--w4-end-layer", "1", "--k-order", "plain"))
        d = self.document("--against", MICRO, "--k-order", "fastdeploy", plain)
        self.assertNotIn("k_order_fit", d)
        self.assertLess(max(x["sqnr_db"] for x in d["against"] if x["type"] == "wint2"), 3)
        self.assertNotIn("k_order_fit", self.document("--against", MICRO, mixed()))
        self.usage("--k-order", "plain", mixed())  # the recipe says otherwise
        self.usage("--k-order", "other", mixed())
        r = tool("--k-order", "plain", plain)
        self.assertIn("K order     plain, given", r.stdout)

    def test_neither(self):
        """Weights of another model: no order fits, and that is said."""
        def change(t):
            rng = random.Random(SEED)
            for name in t:
                if "experts" in name:
                    t[name][2] = b"".join(struct.pack("<f", rng.gauss(0, 1))[2:]
                                          for _ in range(len(t[name][2]) // 2))
        other = self.dir / "other"
        shutil.copytree(MICRO, other)
        (other / "model.safetensors.index.json").unlink(missing_ok=True)
        t = read(other)
        change(t)
        write(other, t)
        d = self.document("--against", other, self.copy(mixed()))
        self.assertNotIn("fits", d["k_order_fit"])
        self.assertEqual(d["k_order"], "fastdeploy")


class Ranks(Case):
    """A model cut for two ranks: all of them are looked at, places are those of the whole."""
    UP = "ernie.layers.2.mlp.experts.1.up_gate_proj"

    def cut(self, *options, bare=False):
        source = ROOT / "whole"
        if not source.exists():
            tp_slice.make_model(source, SEED)
        key = ("cut", *options)
        if key not in MODELS:
            MODELS[key] = ROOT / f"m{len(MODELS)}"
            r = base.tool("-q", "--effort", "fast", "--w4-end-layer", "1", "--tensor-parallel", "2",
                          *options, source, MODELS[key], binary=base.QUANTIZE)
            self.assertEqual(r.returncode, 0, r.stderr)
        d = self.copy(MODELS[key], bare)
        for rank in d.glob("rank*/*.index.json") if bare else ():
            rank.unlink()
        return d

    def test_good(self):
        self.assertEqual(self.verify(self.cut()), ([], []))
        self.assertEqual(self.verify(self.cut(bare=True)), ([], []))

    def test_flipped_bits(self):
        rng = random.Random(SEED)
        d = self.cut()
        files = sorted(p for p in d.rglob("*") if p.is_file())
        self.assertGreater(len(files), 6)
        for path in files:
            good = path.read_bytes()
            name = path.relative_to(d).as_posix()
            for _ in range(8):
                at, bit = rng.randrange(len(good)), rng.randrange(8)
                bad = bytearray(good)
                bad[at] ^= 1 << bit
                path.write_bytes(bad)
                found, _ = self.verify(d)
                self.assertIn(name, [f["file"] for f in found], (name, at, bit, found))
                tensor = self.tensor_at(good, at) if path.suffix == ".safetensors" else None
                if tensor:
                    self.assertIn((name, tensor), [(f["file"], f["tensor"]) for f in found])
            path.write_bytes(good)
        self.assertEqual(self.verify(d), ([], []))

    @staticmethod
    def tensor_at(shard, at):
        size = struct.unpack("<Q", shard[:8])[0]
        for name, t in json.loads(shard[8:8 + size]).items():
            if name != "__metadata__" and \
                    t["data_offsets"][0] <= at - 8 - size < t["data_offsets"][1]:
                return name
        return None

    def poke(self, d, rank, name, fmt, index, value):
        t = read(d / f"rank{rank}")
        poke(t[name], fmt, index, value)
        write(d / f"rank{rank}", t)

    def test_replicas(self):
        """What every rank holds whole is the same in all."""
        for name, fmt in (("ernie.layers.1.input_layernorm.weight", "H"),
                          ("ernie.layers.1.mlp.gate.weight", "f")):
            d = self.cut(bare=True)
            self.poke(d, 1, name, fmt, 3, 1)
            self.assertEqual(self.verify(d, "quick")[0], [])
            found, _ = self.verify(d)
            self.assertEqual([(f["code"], f["tensor"]) for f in found], [("CONFIG", name)])
            self.assertIn("rank1", found[0]["file"] + found[0]["message"])

    def test_places(self):
        """Column 2 of rank 1 is column I/T + 2 of the gate half, or of the up half."""
        d = self.cut(bare=True)
        whole = self.document("--tensor", self.UP, d)["tensors"][0]["shape"][1]
        for column, want in ((2, whole // 4 + 2), (whole // 4 + 2, whole * 3 // 4 + 2)):
            d = self.cut(bare=True)
            self.poke(d, 1, self.UP + ".super_scales", "H", column, 0x7FC0)
            got = self.document("--values", "--tensor", self.UP, d)["tensors"][0]
            self.assertEqual(got["nonfinite_at"], [[k, want] for k in range(8)])
            found, _ = self.verify(d)
            self.assertEqual([(f["file"], f["tensor"]) for f in found],
                             [("rank1/model.safetensors", self.UP + ".super_scales")])
        one = self.document("--values", "--tensor", self.UP, "--tp-rank", "0", d)["tensors"][0]
        self.assertEqual((one["shape"][1], one["corner"]), (whole // 2, got["corner"]))

    def test_compare(self):
        a = self.cut()
        b = self.dir / "other"
        shutil.copytree(a, b)
        self.assertTrue(self.document("--compare", b, a)["compare"]["equal"])
        self.poke(b, 1, self.UP + ".quant_weight", "B", 5, 77)
        diff = self.document("--compare", b, a, status=(1,))["compare"]["differences"]
        self.assertEqual([(x["name"], x["index"]) for x in diff],
                         [("rank1/" + self.UP + ".quant_weight", [0, 5])])
        diff = self.document("--compare", mixed(), a, status=(1,))["compare"]["differences"]
        self.assertEqual(diff[-1]["name"], "rank directories")

    def test_order(self):
        d = self.cut("--k-order", "plain", bare=True)
        got = self.document("--against", ROOT / "whole", d)
        self.assertEqual((got["k_order"], got["k_order_fit"]["fits"]), ("plain", "plain"))

    def test_usage(self):
        d = self.cut()
        self.usage("--tp-rank", "2", d)
        self.usage("--tp-rank", "0", mixed())
        self.usage("--tp-rank", "0", "--verify", d)
        self.usage("--tp-rank", "0", "--compare", d, d)


def npy(descr, shape, data):
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + data


class Files(Case):
    def listing(self, path, *args):
        d = self.document(*args, path)
        return d["format"], {x["name"]: x for x in d["tensors"]}

    def test_safetensors(self):
        path = mixed() / "model.safetensors"
        kind, got = self.listing(path)
        want = read(mixed())
        self.assertEqual((kind, sorted(got)), ("safetensors", sorted(want)))
        for name, (dtype, shape, data) in want.items():
            self.assertEqual((got[name]["dtype"], got[name]["shape"], got[name]["bytes"]),
                             (dtype, shape, len(data)))
        _, some = self.listing(path, "--tensor", "code_zp$")
        self.assertEqual(sorted(some), sorted(n for n in want if n.endswith("code_zp")))
        r = tool(path)
        self.assertIn("lm_head.weight", r.stdout)

    def test_numpy(self):
        path = self.dir / "a.npz"
        members = {"ids": npy("<i4", "(3,)", bytes(12)), "x": npy("<f4", "(2, 0, 4)", b""),
                   "odd": npy("<c16", "(1,)", bytes(16))}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            for name, data in members.items():
                z.writestr(name + ".npy", data)
        kind, got = self.listing(path)
        self.assertEqual((kind, sorted(got)), ("npz", ["ids", "odd", "x"]))
        self.assertEqual((got["ids"]["dtype"], got["ids"]["shape"], got["ids"]["bytes"]),
                         ("I32", [3], 12))
        self.assertEqual((got["x"]["shape"], got["x"]["bytes"]), ([2, 0, 4], 0))
        self.assertIn("c16", got["odd"]["fault"])
        self.assertIn("I32   [3]", tool(path).stdout)
        path = self.dir / "b.npy"
        path.write_bytes(npy("|u1", "(2, 5)", bytes(10)))
        kind, got = self.listing(path)
        self.assertEqual((kind, got["array"]["shape"], got["array"]["dtype"]),
                         ("npy", [2, 5], "U8"))

    def test_pdparams(self):
        path = base.SHARED / "models/ernie-micro/pdparams/layer1_protocol4.pdparams"
        if not path.is_file():
            self.skipTest(f"no {path}")
        kind, got = self.listing(path)
        self.assertEqual((kind, got["ernie.embed_tokens.weight"]["shape"]),
                         ("pdparams", [512, 128]))

    def test_bad(self):
        rng = random.Random(SEED)
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w") as z:
            z.writestr("a.npy", npy("<f4", "(4,)", bytes(16)))
        good = (whole.getvalue(), npy("<f4", "(4,)", bytes(16)),
                (mixed() / "model.safetensors").read_bytes()[:30000])
        path = self.dir / "bad"
        for text in (b"", b"PK", b"\x93NUMPY", b"\x80\x04.", b"12345678" * 4, *good):
            for _ in range(12):
                bad = bytearray(text[:rng.randrange(len(text) + 1)])
                for _ in range(rng.randrange(3) if bad else 0):
                    bad[rng.randrange(len(bad))] = rng.randrange(256)
                path.write_bytes(bad)
                self.assertIn(tool(path).returncode, (0, 65), bytes(bad[:60]))

    def test_usage(self):
        path = mixed() / "model.safetensors"
        for args in (("--verify",), ("--against", MICRO), ("--tp-rank", "0"),
                     ("--tensor", "x", "--values"), ("--k-order", "plain")):
            self.usage(*args, path)
        r = tool(self.dir / "absent.safetensors")
        self.assertEqual(r.returncode, 66)


def main():
    global ROOT
    base.INSPECT, base.QUANTIZE = sys.argv[1:3]
    print(f"seed: CCQ_SEED={SEED}")
    with tempfile.TemporaryDirectory(prefix="ccq-deep-models-") as d:
        ROOT = pathlib.Path(d)
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])


if __name__ == "__main__":
    main()
