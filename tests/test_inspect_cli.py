#!/usr/bin/env python3
"""ccq-inspect from outside: faults are found and named, good files have none,
errors against a source equal an independent decoder's.

usage: test_inspect_cli.py CCQ-INSPECT CCQ-QUANTIZE [unittest arguments]

Every bad checkpoint is a good one, quantized here from the bundled model, with
the one change that its test shows. Standard library only.
"""
import json
import math
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(TOP))
import oracle  # noqa: E402

INSPECT = QUANTIZE = ""
SHARED = pathlib.Path(os.environ.get("CCQ_SHARED", TOP.parent.parent / "shared"))
MICRO = pathlib.Path(os.environ.get("CCQ_DATA", TOP / "data")) / "ernie-micro"
SEED = int(os.environ.get("CCQ_SEED", "31"))
EXPERT = "ernie.layers.3.mlp.experts.1.up_gate_proj"  # wint2, [128, 256]
WINT4 = "ernie.layers.1.mlp.experts.1.up_gate_proj"
GOOD = None  # directory of the good checkpoint, made once


def tool(*args, binary=None):
    return subprocess.run([binary or INSPECT, *map(str, args)], capture_output=True,
                          encoding="utf-8", errors="replace", timeout=120)


def read(directory):
    """name -> [dtype, shape, bytes], in file order."""
    return {n: list(t) for n, t in oracle.read_file(directory / "model.safetensors").items()}


def write(directory, tensors):
    header, at = {"__metadata__": {"format": "np"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    with open(directory / "model.safetensors", "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            f.write(data)


def edit_config(directory, change):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config, indent=2))


def set_path(config, path, value):
    *parents, last = path.split(".")
    for key in parents:
        config = config[key]
    if value is None:
        del config[last]
    else:
        config[last] = value


def poke(tensor, fmt, index, value):
    data = bytearray(tensor[2])
    struct.pack_into("<" + fmt, data, index * struct.calcsize(fmt), value)
    tensor[2] = bytes(data)


class Verify(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="ccq-inspect-"))
        self.addCleanup(shutil.rmtree, self.dir)

    def copy(self, manifest=False):
        """A copy of the good checkpoint; without manifest, index and recipe, so
        that only the change itself can be found."""
        d = self.dir / "model"
        if d.exists():
            shutil.rmtree(d)
        shutil.copytree(GOOD, d)
        if not manifest:
            for name in ("ccq_manifest.json", "ccq_recipe.json", "model.safetensors.index.json"):
                (d / name).unlink()
        return d

    def findings(self, directory):
        r = tool("--verify", "--json", directory)
        self.assertIn(r.returncode, (0, 1), r.stderr)
        document = json.loads(r.stdout)
        self.assertEqual(document["schema"], "ccq.inspect/1")
        self.assertEqual(r.returncode, 1 if document["findings"] else 0)
        for f in document["findings"]:
            self.assertEqual(sorted(f), ["code", "file", "message", "tensor"])
        return document["findings"]

    def expect(self, directory, code, *words, file=None, tensor=None):
        """Some finding has this code, and the words, file and tensor given."""
        found = self.findings(directory)
        hits = [f for f in found if f["code"] == code and
                all(w in f["message"] for w in words) and
                (file is None or f["file"] == file) and
                (tensor is None or f["tensor"] == tensor)]
        self.assertTrue(hits, f"no {code} {words} {file} {tensor} in {found}")

    def tensors(self, change, code, *words, **where):
        d = self.copy()
        t = read(d)
        change(t)
        write(d, t)
        where.setdefault("file", "model.safetensors")
        self.expect(d, code, *words, **where)

    def config(self, path, value, code, *words):
        d = self.copy()
        edit_config(d, lambda c: set_path(c, path, value))
        self.expect(d, code, *words, file="config.json")

    # ---- nothing to find ----------------------------------------------------

    def test_good(self):
        self.assertEqual(self.findings(GOOD), [])
        self.assertEqual(self.findings(self.copy()), [])
        self.assertEqual(self.findings(MICRO), [])
        d = self.copy()
        write(d, read(d))
        self.assertEqual(self.findings(d), [])

    def test_shared_models(self):
        models = SHARED / "models"
        if not models.is_dir():
            self.skipTest(f"no {models}")
        for name in ("ernie-micro/wint2", "ernie-mini/wint2", "ernie-micro", "ernie-mini",
                     "ernie-micro/pt"):
            r = tool("--verify", models / name)
            self.assertEqual((name, r.returncode, r.stdout.split()[:2]),
                             (name, 0, ["verify:", "ok,"]), r.stdout)

    def test_notes_are_no_findings(self):
        d = self.copy()
        r = tool("--verify", d)
        self.assertEqual(r.returncode, 0)
        for word in ("manifest", "recipe", "index"):
            self.assertIn(word, r.stderr)
        t = read(d)
        t["extra.vector"] = ["F32", [2], bytes(8)]
        write(d, t)
        self.assertEqual(self.findings(d), [])

    def test_missing_directory(self):
        r = tool("--verify", self.dir / "absent")
        self.assertEqual(r.returncode, 66, r.stderr)

    # ---- tensors ------------------------------------------------------------

    def test_missing_tensor(self):
        for suffix in (".weight_scale", ".super_scales", ".code_scale", ".code_zp"):  # W05
            self.tensors(lambda t: t.pop(EXPERT + suffix), "INCOMPLETE", tensor=EXPERT + suffix)
        self.tensors(lambda t: t.pop(WINT4 + ".weight_scale"), "INCOMPLETE",
                     tensor=WINT4 + ".weight_scale")
        self.tensors(lambda t: t.pop(EXPERT + ".quant_weight"), "INCOMPLETE",
                     tensor=EXPERT + ".weight_scale")
        for name in ("ernie.norm.weight", "ernie.layers.2.input_layernorm.weight",
                     "ernie.layers.4.mlp.gate.weight"):
            self.tensors(lambda t: t.pop(name), "INCOMPLETE", file="")
        for base in (EXPERT, "ernie.layers.3.self_attn.o_proj"):
            self.tensors(lambda t: [t.pop(n) for n in list(t) if n.startswith(base)],
                         "INCOMPLETE", base, file="")

    def test_dtype(self):
        for name, dtype in ((EXPERT + ".quant_weight", "I8"), (EXPERT + ".weight_scale", "I8"),
                            (EXPERT + ".super_scales", "F16"), (EXPERT + ".code_scale", "I32"),
                            (EXPERT + ".code_zp", "U32"), (WINT4 + ".quant_weight", "BOOL"),
                            (WINT4 + ".weight_scale", "F16"), ("ernie.norm.weight", "F16"),
                            ("ernie.layers.1.mlp.gate.weight", "I32")):
            def change(t):
                t[name][0] = dtype
            self.tensors(change, "DTYPE", dtype, tensor=name)

    def test_shape(self):
        for name, shape in ((EXPERT + ".weight_scale", [2, 128]),
                            (EXPERT + ".super_scales", [1, 256]),
                            (EXPERT + ".code_zp", [256, 1]), (WINT4 + ".quant_weight", [64, 256])):
            def change(t):
                t[name][1] = shape
            self.tensors(change, "SHAPE", tensor=name)

    def test_alignment(self):
        def rows(k):  # W04
            def change(t):
                down = EXPERT.replace("up_gate", "down")
                t[down + ".quant_weight"] = ["U8", [k // 4, 128], bytes(k * 32)]
                t[down + ".weight_scale"] = ["U8", [1, 128], bytes(128)]
            return change

        def columns(t):
            for suffix, width in ((".quant_weight", 32), (".weight_scale", 1)):
                t[EXPERT + suffix] = ["U8", [width, 24], bytes(24 * width)]
            t[EXPERT + ".super_scales"] = ["BF16", [24], bytes(48)]
            for suffix in (".code_scale", ".code_zp"):
                t[EXPERT + suffix] = ["F32", [24], bytes(96)]

        def wint8(k, n):
            def change(t):
                t["ernie.layers.0.self_attn.o_proj.quant_weight"] = ["I8", [n, k], bytes(n * k)]
                t["ernie.layers.0.self_attn.o_proj.weight_scale"] = ["BF16", [n], bytes(2 * n)]
            return change

        self.tensors(rows(64), "SHAPE_RULE", "K=64 is not a multiple of 128")
        self.tensors(columns, "SHAPE_RULE", "N=24 is not a multiple of 16")
        self.tensors(wint8(96, 128), "SHAPE_RULE", "K=96 is not a multiple of 64")
        self.tensors(wint8(128, 8), "SHAPE_RULE", "N=8 is not a multiple of 16")

    def test_values(self):
        inf, nan = float("inf"), float("nan")
        for suffix, fmt, value, code in (
                (".code_scale", "f", inf, "NONFINITE"),  # W02
                (".code_zp", "f", nan, "NONFINITE"),
                (".super_scales", "H", 0x7F80, "NONFINITE"),
                (".super_scales", "H", 0xFFC1, "NONFINITE"),
                (".super_scales", "H", 0x7F00, "NONFINITE"),  # finite, 480 x it is not
                (".code_scale", "f", 400.0, "CODE_RANGE"),  # W03
                (".code_zp", "f", -40000.0, "CODE_RANGE")):
            def change(t):
                poke(t[EXPERT + suffix], fmt, 77, value)
            where = ".code_scale" if code == "CODE_RANGE" else suffix
            self.tensors(change, code, "77", tensor=EXPERT + where)
        for name, fmt, value in ((WINT4 + ".weight_scale", "H", 0x7FC0),
                                 ("ernie.norm.weight", "H", 0xFF80),
                                 ("ernie.layers.2.mlp.gate.weight", "f", nan)):
            def change(t):
                poke(t[name], fmt, 5, value)
            self.tensors(change, "NONFINITE", "[5]", tensor=name)

    def test_unsafe_line(self):
        rng = random.Random(SEED)
        for _ in range(10000):  # about one line in ten disagrees on some byte
            cs, zp = oracle.f32(rng.uniform(60, 125)), oracle.f32(rng.uniform(0, 700))
            if any(math.floor(oracle.f32(oracle.fma32(b, cs, zp) + 0.5)) !=
                   math.floor(oracle.f32(oracle.f32(oracle.f32(b * cs) + zp) + 0.5))
                   for b in range(256)):
                break
        else:
            self.fail("no unsafe line found")

        def change(t):
            poke(t[EXPERT + ".code_scale"], "f", 9, cs)
            poke(t[EXPERT + ".code_zp"], "f", 9, zp)
        self.tensors(change, "CODE_RANGE", "first 9 ", "fused", tensor=EXPERT + ".code_scale")

    def test_names(self):
        def matrix(t):
            t["ernie.layers.1.mlp.extra"] = ["BF16", [2, 2], bytes(8)]

        def both(t):
            t[EXPERT + ".weight"] = ["BF16", [128, 256], bytes(65536)]

        def beyond(t):
            t["ernie.layers.6.input_layernorm.weight"] = ["BF16", [128], bytes(256)]
        self.tensors(matrix, "UNKNOWN", tensor="ernie.layers.1.mlp.extra")
        self.tensors(both, "CONFIG", tensor=EXPERT + ".weight")
        self.tensors(beyond, "CONFIG", "num_hidden_layers", file="config.json")

    def test_mixed_layer(self):
        def change(t):
            for base in ("up_gate_proj", "down_proj"):
                old = f"ernie.layers.3.mlp.experts.0.{base}"
                for name in [n for n in t if n.startswith(old)]:
                    del t[name]
                for suffix in (".quant_weight", ".weight_scale"):
                    t[old + suffix] = t[f"ernie.layers.1.mlp.experts.0.{base}{suffix}"]
        self.tensors(change, "SHAPE_RULE", "layer 3 mixes types", file="")

    # ---- config.json --------------------------------------------------------

    def test_config_file(self):
        def text(change):
            d = self.copy()
            path = d / "config.json"
            path.write_text(change(path.read_text()))
            return d
        d = self.copy()
        (d / "config.json").unlink()
        self.expect(d, "NO_CONFIG")  # C01
        self.expect(text(lambda s: s.replace("{", '{"hidden_size": 128,', 1)), "DUPLICATE",
                    "hidden_size", file="config.json")  # C02
        self.expect(text(lambda s: s.replace('"hidden_size": 128', '"hidden_size": 1e999')),
                    "NUMBER", file="config.json")  # C03
        self.expect(text(lambda s: s + "x"), "JSON", file="config.json")  # C04
        self.config("moe_num_experts", [64, 64], "UNSUPPORTED", "moe_num_experts")  # C06
        self.config("hidden_size", 256, "CONFIG", "128")  # C08

    def test_quantization_config(self):
        q, m = "quantization_config.", "quantization_config.moe_quant_config."
        w4, w2 = m + "moe_w4_quant_config.", m + "moe_w2_quant_config."
        self.config(w4 + "quant_end_layer", 3, "CONFIG", "layer 2", "wint4")
        self.config(w4 + "quant_end_layer", 0, "CONFIG", "layer 1", "wint2")
        self.config(w4 + "quant_end_layer", None, "CONFIG", "quant_end_layer")
        self.config(w2 + "quant_start_layer", 4, "CONFIG", "layer 2", "neither")  # C05
        self.config(w2 + "quant_start_layer", 1, "CONFIG", "layer 1", "both")
        self.config(w2 + "quant_end_layer", 4, "CONFIG", "layer 5", "neither")
        self.config(q + "dense_quant_type", "wint4", "CONFIG", "dense_quant_type")
        self.config(q + "moe_quant_type", "wint2", "CONFIG", "moe_quant_type")
        self.config(m + "quant_type", "w4a8", "CONFIG", "quant_type")
        self.config(q + "is_quantized", False, "CONFIG", "is_quantized")
        self.config(q + "quantization", None, "CONFIG", "quantization")
        self.config("quantization_config", None, "CONFIG", "quantization_config")

    def test_keys(self):
        for key in ("rope_theta", "moe_use_aux_free", "moe_num_shared_experts",
                    "moe_layer_start_index", "num_key_value_heads", "vocab_size",
                    "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings",
                    "hidden_act", "intermediate_size", "moe_k", "moe_intermediate_size",
                    "moe_num_experts", "hidden_size", "num_attention_heads",
                    "num_hidden_layers", "dtype", "architectures"):
            self.config(key, None, "CONFIG", f'"{key}"')
        for key, value in (("torch_dtype", "bfloat16"), ("transformers_version", "4.57.1"),
                           ("tie_word_embeddings", True), ("dtype", "float16"),
                           ("architectures", ["Ernie4_5ForCausalLM"])):
            self.config(key, value, "CONFIG", f'"{key}"')

    def test_claim_without_tensors(self):
        d = self.dir / "bf16"
        shutil.copytree(MICRO, d)
        edit_config(d, lambda c: c.update(quantization_config={"quantization": "wint2"}))
        self.expect(d, "CONFIG", "no tensor is quantized", file="config.json")

    # ---- the directory ------------------------------------------------------

    def test_directory(self):
        d = self.copy()
        (d / "model.pdparams").write_bytes(b"")
        self.expect(d, "UNSUPPORTED", file="model.pdparams")
        d = self.copy()
        (d / ".ccq").mkdir()
        self.expect(d, "INCOMPLETE", file=".ccq")
        d = self.copy()
        (d / "model.safetensors").unlink()
        self.expect(d, "NO_SHARD")

    def test_index(self):
        def change(edit):
            d = self.copy()
            shutil.copy(GOOD / "model.safetensors.index.json", d)
            path = d / "model.safetensors.index.json"
            index = json.loads(path.read_text())
            edit(index["weight_map"])
            path.write_text(json.dumps(index))
            return d
        file = "model.safetensors.index.json"
        self.expect(change(lambda m: m.pop("ernie.norm.weight")), "INDEX", file=file,
                    tensor="ernie.norm.weight")
        self.expect(change(lambda m: m.update(ghost="model.safetensors")), "INDEX")
        self.expect(change(lambda m: m.update(ghost="absent.safetensors")), "NO_SHARD")
        self.expect(change(lambda m: m.update(ghost="../model.safetensors")), "PATH")
        odd = 'x\n\x1b[1m\\'
        d = change(lambda m: m.update(ghost=odd)).rename(GOOD.parent / ("to" + odd))
        p = tool("--verify", d)
        self.assertEqual(p.returncode, 1, p.stderr)
        self.assertIn('NO_SHARD x\\n\\x1b[1m\\\\: no such file\n', p.stdout)  # escaped once
        said = json.loads(tool("--verify", "--json", d).stdout)["findings"]
        self.assertEqual([f["file"] for f in said if f["code"] == "NO_SHARD"], [odd])
        shutil.rmtree(d)

    # ---- the manifest -------------------------------------------------------

    def flips(self, d, name, low, high, count, rng):
        path = d / name
        good = path.read_bytes()
        for _ in range(count):
            at, bit = rng.randrange(low, high or len(good)), rng.randrange(8)
            bad = bytearray(good)
            bad[at] ^= 1 << bit
            path.write_bytes(bad)
            found = self.findings(d)
            self.assertIn(name, [f["file"] for f in found], f"{name} byte {at} bit {bit}: {found}")
            path.write_bytes(good)

    def test_flipped_bits(self):
        """Any bit of a header or a side file: found, and the file named."""
        rng = random.Random(SEED)
        d = self.copy(manifest=True)
        self.assertEqual(self.findings(d), [])
        header = 8 + struct.unpack("<Q", (d / "model.safetensors").read_bytes()[:8])[0]
        self.flips(d, "model.safetensors", 0, 8, 8, rng)
        self.flips(d, "model.safetensors", 8, header, 25, rng)
        for path in sorted(d.iterdir()):
            if path.name != "model.safetensors":
                self.flips(d, path.name, 0, None, 12, rng)
        self.assertEqual(self.findings(d), [])

    def test_manifest_sets(self):
        for name in ("tokenizer.model", "ccq_recipe.json"):
            d = self.copy(manifest=True)
            (d / name).unlink()
            self.expect(d, "MANIFEST", file=name)
        for change in (lambda b: b[:-1], lambda b: b + b"\0"):
            d = self.copy(manifest=True)
            path = d / "model.safetensors"
            path.write_bytes(change(path.read_bytes()))
            self.expect(d, "MANIFEST", file="model.safetensors")

    def test_mutations_never_crash(self):
        """Random damage without a manifest: 0 or 1, never a signal or a wrong code."""
        rng = random.Random(SEED + 1)
        d = self.copy()
        files = [d / "config.json", d / "model.safetensors"]
        good = [p.read_bytes() for p in files]
        header = 8 + struct.unpack("<Q", good[1][:8])[0]
        for _ in range(60):
            which = rng.randrange(2)
            bad = bytearray(good[which])
            for _ in range(rng.randrange(1, 4)):
                bad[rng.randrange(len(bad) if which == 0 else header)] = rng.randrange(256)
            if rng.randrange(8) == 0:
                del bad[rng.randrange(len(bad)):]
            files[which].write_bytes(bad)
            self.findings(d)
            files[which].write_bytes(good[which])

    def test_escaped_names(self):
        d = self.copy()
        t = read(d)
        t["evil\x1b[31m\nname\""] = ["BF16", [2, 2], bytes(8)]
        write(d, t)
        r = tool("--verify", d)
        self.assertEqual(r.returncode, 1)
        self.assertNotIn("\x1b", r.stdout + r.stderr)
        self.assertIn("evil\\x1b[31m\\nname\\\"", r.stdout)
        self.assertEqual([f["tensor"] for f in self.findings(d) if f["code"] == "UNKNOWN"][0],
                         "evil\x1b[31m\nname\"")


class Views(unittest.TestCase):
    def document(self, *args):
        r = tool("--json", *args)
        self.assertEqual(r.returncode, 0, r.stderr)
        return json.loads(r.stdout, parse_constant=lambda x: self.fail("not a number: " + x))

    def test_layers(self):
        doc = self.document(GOOD)
        self.assertEqual([r["layer"] for r in doc["layers"]], list(range(6)))
        first, second, last = doc["layers"][0], doc["layers"][1], doc["layers"][5]
        self.assertEqual(sorted(first), ["attention", "layer", "mlp"])
        self.assertEqual(sorted(second), ["attention", "experts", "layer", "shared"])
        self.assertEqual((second["experts"]["type"], second["experts"]["granularity"]),
                         ("wint4", "per_channel"))
        e = last["experts"]
        self.assertEqual((e["type"], e["granularity"], e["group_size"]), ("wint2", "pp_acc", 64))
        # 4 experts of [128, 256] and [128, 128]: KN/4 + KN/128 + 10N bytes each
        size = 4 * sum(128 * n // 4 + n + 10 * n for n in (256, 128))
        self.assertEqual(e["bytes"], size)
        self.assertAlmostEqual(e["bits_per_weight"], 8 * size / (4 * 128 * 384), places=12)
        tensors = read(GOOD)
        self.assertEqual(doc["summary"]["bytes"], sum(len(t[2]) for t in tensors.values()))
        self.assertEqual(doc["summary"]["parameters"], 1757332)
        self.assertTrue(doc["summary"]["k_order_recorded"])

    def test_folding(self):
        short, long = (tool(*args, GOOD).stdout for args in ((), ("-v",)))
        self.assertIn("2-5", short)
        self.assertNotIn("2-5", long)
        self.assertEqual(len(long.splitlines()) - len(short.splitlines()), 3)
        self.assertNotIn("\x1b", short)
        self.assertIn("\x1b", tool("--color=always", GOOD).stdout)

    def test_tensor(self):
        t = read(GOOD)
        doc = self.document("--tensor", "experts.1.up_gate_proj.weight$", GOOD)
        self.assertEqual([x["name"] for x in doc["tensors"]],
                         [EXPERT.replace("3", str(i), 1) for i in range(1, 6)])
        got = doc["tensors"][2]
        self.assertEqual((got["name"], got["type"], got["shape"]), (EXPERT, "wint2", [128, 256]))
        codes, local = [0] * 256, [0] * 16
        for b in t[EXPERT + ".quant_weight"][2]:
            codes[b] += 1
        for b in t[EXPERT + ".weight_scale"][2]:
            local[b >> 4] += 1
            local[b & 15] += 1
        self.assertEqual((got["codes"], got["local_scales"]), (codes, local))
        self.assertEqual(sum(x["columns"] for x in got["lines"]), 256)
        supers = [oracle.bf16_value(u) for u in
                  struct.unpack("<256H", t[EXPERT + ".super_scales"][2])]
        self.assertEqual((got["scales"]["min"], got["scales"]["max"]), (min(supers), max(supers)))
        stored = {s["name"]: s for s in got["stored"]}
        raw = (GOOD / "model.safetensors").read_bytes()
        for name in (EXPERT + s for s in (".quant_weight", ".code_zp")):
            s = stored[name]
            self.assertEqual(raw[s["offset"]:s["offset"] + s["bytes"]], t[name][2])
        wint4 = self.document("--tensor", WINT4, GOOD)["tensors"][0]
        nibbles = [0] * 16
        for b in t[WINT4 + ".quant_weight"][2]:
            nibbles[b & 15] += 1
            nibbles[b >> 4] += 1
        self.assertEqual(wint4["codes"], nibbles)

    def test_tensor_patterns(self):
        for pattern in ("no.such.tensor", "(", r"layers\.\d", "[[:nonsense:]]"):
            r = tool("--tensor", pattern, GOOD)
            self.assertEqual((pattern, r.returncode, r.stdout), (pattern, 64, ""))
            self.assertIn("--tensor", r.stderr)

    def test_against(self):
        """Every figure of small tensors of each type, from decoded weights of oracle.py."""
        order = oracle.recorded_order(GOOD)
        self.compare(GOOD, MICRO, order)

    def test_against_shared(self):
        model = SHARED / "models" / "ernie-micro"
        if not model.is_dir():
            self.skipTest(f"no {model}")
        one = self.compare(model / "wint2", model, "fastdeploy")
        other = {x["name"]: x for x in
                 self.document("--against", model / "pt", model / "wint2")["against"]}
        self.assertEqual(one, other)  # torch names hold the same weights

    def compare(self, model, base, order):
        doc = self.document("--against", base, model)
        self.assertEqual(doc["k_order"], order)
        rows = {x["name"]: x for x in doc["against"]}
        stored, source = oracle.read_checkpoint(model), oracle.read_checkpoint(base)
        for name in (EXPERT, "ernie.layers.5.mlp.experts.0.down_proj", WINT4,
                     "ernie.layers.0.self_attn.o_proj"):
            bits = oracle.decode_matrix(stored, name, order, "fused")
            q = [oracle.bf16_value(u) for u in oracle.numbers(bits, "H")]
            w = [oracle.bf16_value(u) for u in oracle.numbers(source[name + ".weight"], "H")]
            error = math.fsum((a - b) ** 2 for a, b in zip(w, q))
            energy, energy_q = math.fsum(a * a for a in w), math.fsum(b * b for b in q)
            got = rows[name]
            for key, want in (("sqnr_db", -10 * math.log10(error / energy)),
                              ("rel_l2", math.sqrt(error / energy)),
                              ("cosine", math.fsum(map(lambda a, b: a * b, w, q)) /
                               math.sqrt(energy * energy_q))):
                self.assertTrue(math.isclose(got[key], want, rel_tol=1e-11),
                                f"{name} {key}: {got[key]} wanted {want}")
            self.assertEqual(got["max_abs"], max(abs(a - b) for a, b in zip(w, q)))
        self.assertGreater(rows[EXPERT]["sqnr_db"], 8)
        self.assertEqual([n for n, x in rows.items() if x["type"] in ("bf16", "f32") and
                          (not x["equal"] or x["max_abs"] != 0 or "sqnr_db" in x)], [])
        return rows

    def test_against_threads(self):
        one, *rest = (tool("--json", "--against", MICRO, "-j", j, "--cpu-isa", isa, GOOD).stdout
                      for j, isa in ((1, "c"), (2, "avx2"), (7, "c")))
        self.assertGreater(len(one), 1000)
        for other in rest:
            self.assertEqual(other, one)

    def test_against_vectors(self):
        """Tensors outside the table are compared by name."""
        with tempfile.TemporaryDirectory(prefix="ccq-inspect-") as name:
            dirs = [pathlib.Path(name) / x for x in ("model", "base")]
            extra = {f"extra.{i}": ["F32", [2], struct.pack("<2f", i, 1)] for i in range(9)}
            for d, source in zip(dirs, (GOOD, MICRO)):
                shutil.copytree(source, d)
                for side in d.glob("*.index.json"):
                    side.unlink()
                write(d, {**read(d), **extra})
                extra["extra.3"][2] = struct.pack("<2f", 4, 1)
            rows = {x["name"]: x for x in self.document("--against", dirs[1], dirs[0])["against"]}
            self.assertEqual([n for n, x in rows.items() if n in extra and not x["equal"]],
                             ["extra.3"])
            self.assertEqual(rows["extra.3"]["max_abs"], 1)
            self.assertTrue(extra.keys() <= rows.keys())

    def test_against_mismatch(self):
        with tempfile.TemporaryDirectory(prefix="ccq-inspect-") as name:
            d = pathlib.Path(name) / "model"
            shutil.copytree(MICRO, d)
            t = read(d)
            del t["lm_head.weight"]
            write(d, t)
            for base, status in ((d, 65), (GOOD, 65), (pathlib.Path(name) / "absent", 66)):
                r = tool("--against", base, GOOD)
                self.assertEqual(r.returncode, status, r.stderr)
                self.assertEqual(len(r.stderr.splitlines()), 1, r.stderr)


def main():
    global INSPECT, QUANTIZE, GOOD
    INSPECT, QUANTIZE = sys.argv[1:3]
    print(f"seed: CCQ_SEED={SEED}")
    with tempfile.TemporaryDirectory(prefix="ccq-inspect-good-") as d:
        GOOD = pathlib.Path(d) / "good"
        r = tool("-q", "--effort", "fast", "--w4-end-layer", "1", MICRO, GOOD, binary=QUANTIZE)
        if r.returncode:
            sys.exit(f"ccq-quantize: {r.stderr}")
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])


if __name__ == "__main__":
    main()
