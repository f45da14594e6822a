#!/usr/bin/env python3
"""ccq-quantize: every scheme, both namings, tensor types, recipes, forms of input.

usage: test_schemes_cli.py CCQ-QUANTIZE CCQ-INSPECT [unittest arguments]

Standard library only; small models are written by test_quantize_cli.py.
"""
import hashlib
import json
import os
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import unittest

import test_quantize_cli as base
from test_quantize_cli import CONFIG, MICRO, SHARED, Case, write_model

TOP = pathlib.Path(__file__).resolve().parent
INSPECT = ""
SCHEMES = ["wint2", "wint4", "wint8", "block_wise_fp8", "bf16"]
DENSE = {"moe_num_experts": 0, "architectures": ["Ernie4_5_ForCausalLM"]}


def tensors_of(path):
    """name -> (dtype, shape, SHA-256 of the data), over all shards; and the formats."""
    found, formats = {}, set()
    for file in sorted(path.glob("*.safetensors")):
        raw = file.read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        table = json.loads(raw[8:8 + size])
        formats.add(table.pop("__metadata__", {}).get("format"))
        for name, t in table.items():
            a, b = t["data_offsets"]
            data = raw[8 + size + a:8 + size + b]
            found[name] = (t["dtype"], t["shape"], hashlib.sha256(data).hexdigest())
    return found, formats


def data_of(path, name):
    raw = (path / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    t = json.loads(raw[8:8 + size])[name]
    return raw[8 + size + t["data_offsets"][0]:8 + size + t["data_offsets"][1]]


def append(model, extra):
    """Adds tensors: name -> (dtype, shape, bytes)."""
    path = model / "model.safetensors"
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    table, at = json.loads(raw[8:8 + size]), len(raw) - 8 - size
    for name, (dtype, shape, data) in extra.items():
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size:] +
                     b"".join(t[2] for t in extra.values()))


def recast(source, target, dtype):
    """The same model with its BF16 tensors as F16, F32 or U16."""
    shutil.copytree(source, target)
    raw = (source / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    table, out, at = json.loads(raw[8:8 + size]), [], 0
    for t in table.values():
        a, b = t["data_offsets"]
        data = raw[8 + size + a:8 + size + b]
        if t["dtype"] == "BF16":
            t["dtype"] = dtype
            values = struct.unpack(f"<{len(data) // 2}H", data)
            if dtype != "U16":
                floats = struct.unpack(f"<{len(values)}f", b"".join(
                    v.to_bytes(4, "little") for v in (x << 16 for x in values)))
                data = struct.pack(f"<{len(values)}{'e' if dtype == 'F16' else 'f'}", *floats)
        t["data_offsets"] = [at, at + len(data)]
        at += len(data)
        out.append(data)
    text = json.dumps(table).encode()
    (target / "model.safetensors").write_bytes(
        struct.pack("<Q", len(text)) + text + b"".join(out))
    return target


class Schemes(Case):
    def quantize(self, model, name, *more):
        out = self.tmp / name
        self.run_tool("-q", "--effort=fast", *more, model, out)
        return out

    def config(self, out):
        return json.loads((out / "config.json").read_text())


class Outputs(Schemes):
    def block(self, *more, **model):
        out = self.quantize(write_model(self.tmp / "in", **model), "out", *more)
        return self.config(out).get("quantization_config"), tensors_of(out)[0]

    def test_wint4(self):
        block, tensors = self.block("--scheme=wint4")
        self.assertEqual(block["quantization"], "wint2")
        self.assertEqual(block["moe_quant_type"], "w4w2")
        experts = block["moe_quant_config"]
        self.assertEqual(experts["quant_type"], "w4w2")
        self.assertEqual(experts["moe_w4_quant_config"]["quant_end_layer"], 1)
        self.assertFalse([n for n in tensors if n.endswith("super_scales")])
        dtype, shape, _ = tensors["ernie.layers.1.mlp.experts.0.up_gate_proj.quant_weight"]
        self.assertEqual((dtype, shape), ("I8", [128, 128]))

    def test_fp8_with_experts(self):
        block, tensors = self.block("--scheme=block_wise_fp8")
        self.assertEqual(block, {
            "quantization": "mix_quant", "dense_quant_type": "block_wise_fp8",
            "moe_quant_type": "block_wise_fp8", "weight_block_size": [128, 128],
            "is_quantized": True})
        for name in "layers.1.mlp.experts.1.up_gate_proj", "layers.0.self_attn.qkv_proj":
            self.assertEqual(tensors[f"ernie.{name}.quant_weight"][:2], ("I8", [128, 256]))
            self.assertEqual(tensors[f"ernie.{name}.weight_scale"][:2], ("F32", [1, 2]))
        for name in "ernie.layers.1.mlp.gate.weight", "ernie.embed_tokens.weight":
            self.assertIn(name, tensors)

    def test_fp8_without_experts(self):
        block, _ = self.block("--scheme=block_wise_fp8", config=DENSE)
        self.assertEqual(block, {"quantization": "block_wise_fp8",
                                 "weight_block_size": [128, 128], "is_quantized": True})

    def test_fp8_bytes(self):
        """One weight by the formula: 448 over the block's largest, to the nearest code."""
        name = "ernie.layers.0.mlp.down_proj.weight"
        change = {name: {i: 0.0 for i in range(128 * 128)}}
        change[name].update({0: 7.0, 1: -3.5, 2: 1.0, 129: 0.001, 130: -0.0})
        out = self.quantize(write_model(self.tmp / "in", change=change), "out",
                            "--scheme=block_wise_fp8")
        q = data_of(out, name.replace(".weight", ".quant_weight"))
        # s = 64: 448, -224, 64, 0.064 (bf16 of 0.001 is 0.00099945), -0
        self.assertEqual((q[0], q[1], q[2], q[129], q[130]), (0x7e, 0xf6, 0x68, 0x18, 0x80))
        scale = struct.unpack("<f", data_of(out, name.replace(".weight", ".weight_scale")))
        self.assertEqual(scale, (1 / 64,))

    def test_fp8_boundary(self):
        """A6: a block must not hold gate and up columns."""
        model = write_model(self.tmp / "in", config={"moe_intermediate_size": 192})
        text = self.refuse(65, "--scheme=block_wise_fp8", model, self.out)
        for e in 0, 1:
            self.assertIn(f"ernie.layers.1.mlp.experts.{e}.up_gate_proj: gate/up boundary 192 is "
                          "not a multiple of 128: a block would span both", text)
        self.assertNotIn("down_proj", text)

    def test_without_experts(self):
        model = write_model(self.tmp / "in", config=DENSE)
        for scheme in "wint2", "wint4":
            self.refuse(64, f"--scheme={scheme}", model, self.out, says="--scheme wint8")

    def test_bf16_drops_the_block(self):
        def edit(c):
            c["quantization_config"] = {"quantization": "wint8"}
        out = self.quantize(write_model(self.tmp / "in", edit=edit), "out", "--scheme=bf16")
        self.assertNotIn("quantization_config", self.config(out))
        self.assertEqual(self.config(out)["dtype"], "bfloat16")
        first, second = tensors_of(self.tmp / "in")[0], tensors_of(out)[0]
        self.assertEqual(first, second)

    def test_alignment(self):
        """A1 to A4 by name, whatever the scheme that meets them."""
        model = write_model(self.tmp / "in", config={"moe_intermediate_size": 72})
        for more, rule in [(["--w4-end-layer=0"], "K=72 is not a multiple of 128: wint2 packs"),
                           (["--scheme=wint4"], "K=72 is not a multiple of 64: the interleaved"),
                           (["--scheme=wint8"], "K=72 is not a multiple of 64: the interleaved")]:
            self.refuse(65, *more, model, self.out, says=rule)
        model = write_model(self.tmp / "in2", config={"moe_intermediate_size": 68})
        self.refuse(65, "--w4-end-layer=0", model, self.out,
                    says="up_gate_proj: N=136 is not a multiple of 16: the fused kernel copies")
        self.refuse(65, "--scheme=wint4", model, self.out,
                    says="up_gate_proj: N=136 is not a multiple of 16")

    def test_all_verify(self):
        for scheme in SCHEMES:
            with self.subTest(scheme=scheme):
                out = self.quantize(MICRO, scheme, f"--scheme={scheme}")
                p = subprocess.run([INSPECT, "--verify", "--json", str(out)], capture_output=True)
                self.assertEqual(p.returncode, 0, p.stdout)
                p = subprocess.run([INSPECT, "--against", str(MICRO), "--json", str(out)],
                                   capture_output=True, text=True)
                rows = [r for r in json.loads(p.stdout)["against"] if r["type"] == scheme]
                floor = {"wint2": 6, "wint4": 14, "wint8": 36, "block_wise_fp8": 28}
                for r in rows:
                    self.assertGreater(r.get("sqnr_db", 1e9), floor.get(scheme, 1e8), r)
                self.assertTrue(rows)

    def test_wrong_fp8_is_found(self):
        """verify: a scale of another shape, a NaN scale, the form for dense models."""
        out = self.quantize(self.model(), "out", "--scheme=block_wise_fp8")
        (out / "ccq_manifest.json").unlink()
        raw = (out / "model.safetensors").read_bytes()
        config = (out / "config.json").read_text()

        def findings():
            p = subprocess.run([INSPECT, "--verify", "--json", str(out)], capture_output=True)
            return p.returncode, " ".join(
                f["message"] for f in json.loads(p.stdout).get("findings", []))
        self.assertEqual(findings(), (0, ""))
        (out / "config.json").write_text(config.replace("mix_quant", "block_wise_fp8"))
        self.assertIn("mix_quant", findings()[1])
        (out / "config.json").write_text(config.replace("128,\n      128", "128, 64"))
        self.assertIn("weight_block_size", findings()[1])
        (out / "config.json").write_text(config)
        (out / "model.safetensors").write_bytes(raw.replace(b'"shape":[1,2]', b'"shape":[2,1]', 1))
        self.assertEqual(findings()[0], 1)


class Names(Schemes):
    def test_both_namings_give_the_same(self):
        """Paddle and torch spellings of one model: the same tensors in every scheme."""
        pt = SHARED / "models" / "ernie-micro" / "pt"
        torch = pt if pt.exists() else self.quantize(MICRO, "pt", "--scheme=bf16",
                                                     "--names=torch")
        for scheme in SCHEMES:
            with self.subTest(scheme=scheme):
                a = self.quantize(MICRO, scheme + "-a", f"--scheme={scheme}")
                b = self.quantize(torch, scheme + "-b", f"--scheme={scheme}")
                self.assertEqual(tensors_of(a), tensors_of(b))
                one, two = self.config(a), self.config(b)
                self.assertEqual(one, two)

    def test_torch_is_what_convert_makes(self):
        """Names, shapes, dtypes, data and header of the torch copy that transformers took."""
        pt = SHARED / "models" / "ernie-micro" / "pt"
        if not pt.exists():
            self.skipTest(f"no {pt}")
        out = self.quantize(SHARED / "models" / "ernie-micro", "out", "--scheme=bf16",
                            "--names=torch")
        self.assertEqual(tensors_of(out), tensors_of(pt))
        made, known = self.config(out), self.config(pt)
        self.assertEqual({k: made[k] for k in known}, known)
        self.assertNotIn("dtype", made)

    def test_round_trip(self):
        for config in {}, DENSE, {"tie_word_embeddings": False, "moe_num_shared_experts": 2}:
            shutil.rmtree(self.tmp)
            self.tmp.mkdir()
            model = write_model(self.tmp / "in", config=config)
            torch = self.quantize(model, "torch", "--scheme=bf16", "--names=torch")
            paddle = self.quantize(torch, "paddle", "--scheme=bf16")
            again = self.quantize(paddle, "again", "--scheme=bf16", "--names=torch")
            self.assertEqual(tensors_of(model)[0], tensors_of(paddle)[0])
            self.assertEqual(tensors_of(torch), tensors_of(again))
            self.assertEqual(tensors_of(torch)[1], {"pt"})
            self.assertEqual(tensors_of(paddle)[1], {"np"})

    def test_torch_config(self):
        def edit(c):
            del c["dtype"]
            c.update(torch_dtype="bfloat16", transformers_version="4.55.0")
        for config, name, kind in [
                ({}, "Ernie4_5_MoeForCausalLM", "ernie4_5_moe"),
                (DENSE, "Ernie4_5ForCausalLM", "ernie4_5")]:
            shutil.rmtree(self.tmp)
            self.tmp.mkdir()
            model = write_model(self.tmp / "in", config=config, edit=edit)
            made = self.config(self.quantize(model, "out", "--scheme=bf16", "--names=torch"))
            self.assertEqual(made["architectures"], [name])
            self.assertEqual(made["model_type"], kind)
            self.assertEqual(made["torch_dtype"], "bfloat16")
            self.assertEqual(made["transformers_version"], "4.55.0")
            self.assertNotIn("dtype", made)
            self.assertNotIn("quantization_config", made)
            back = self.config(self.quantize(self.tmp / "out", "back", "--scheme=bf16"))
            self.assertEqual(back["architectures"], [name.replace("5For", "5_For")])
            for key in "torch_dtype", "transformers_version":
                self.assertNotIn(key, back)

    def test_torch_only_with_bf16(self):
        model = self.model()
        for scheme in SCHEMES[:-1]:
            self.refuse(64, f"--scheme={scheme}", "--names=torch", model, self.out,
                        says="only with scheme bf16")

    def test_unknown_vectors_and_mtp(self):
        """A vector that nobody knows goes along, under the prefix of the naming."""
        model = self.model()
        append(model, {"ernie.layers.1.extra": ("BF16", [4], bytes(range(8))),
                       "ernie.mtp_block.0.norm.weight": ("BF16", [4], bytes(8))})
        torch = self.quantize(model, "torch", "--scheme=bf16", "--names=torch")
        self.assertIn("model.layers.1.extra", tensors_of(torch)[0])
        paddle = self.quantize(torch, "paddle", "--scheme=bf16")
        self.assertEqual(tensors_of(paddle)[0]["ernie.layers.1.extra"],
                         tensors_of(model)[0]["ernie.layers.1.extra"])
        plan = json.loads(self.run_tool("--dry-run", "--json", model, self.out).stdout)
        self.assertEqual(plan["skipped"], ["ernie.mtp_block.0.norm.weight"])
        self.assertFalse([n for n in tensors_of(torch)[0] if "mtp" in n])


class Inputs(Schemes):
    def test_dtypes(self):
        """BF16 values as F16, F32 and U16 give the bytes of BF16, in every scheme."""
        model = write_model(self.tmp / "in", config={"tie_word_embeddings": False})
        for scheme in SCHEMES:
            want = tensors_of(self.quantize(model, scheme, f"--scheme={scheme}"))
            for dtype in "F16", "F32", "U16":
                with self.subTest(scheme=scheme, dtype=dtype):
                    other = self.tmp / dtype
                    if not other.exists():
                        recast(model, other, dtype)
                    out = self.quantize(other, scheme + dtype, f"--scheme={scheme}")
                    self.assertEqual(tensors_of(out), want)

    def test_router_is_not_rounded(self):
        """Router and correction bias are fp32: F16 is widened, and so is BF16."""
        names = ["ernie.layers.1.mlp.gate.weight",
                 "ernie.layers.1.mlp.moe_statics.e_score_correction_bias"]
        rng = random.Random(base.SEED)
        for dtype, code in ("F16", "e"), ("BF16", None), ("F32", "f"):
            shutil.rmtree(self.tmp)
            self.tmp.mkdir()
            made = {}
            for name, shape in (names[0], [128, 2]), (names[1], [1, 2]):
                count = shape[0] * shape[1]
                values = [rng.uniform(-1, 1) for _ in range(count)]
                raw = struct.pack(f"<{count}{code}", *values) if code else b"".join(
                    base.bf16(v) for v in values)
                wide = struct.unpack(f"<{count}{code}", raw) if code else struct.unpack(
                    f"<{count}f", b"".join(b"\0\0" + raw[2 * i:2 * i + 2] for i in range(count)))
                made[name] = (dtype, shape, raw, struct.pack(f"<{count}f", *wide))
            model = write_model(self.tmp / "in", drop=names)
            append(model, {n: t[:3] for n, t in made.items()})
            out = self.quantize(model, "out")
            torch = self.quantize(model, "torch", "--scheme=bf16", "--names=torch")
            back = self.quantize(torch, "back", "--scheme=bf16")
            for name in names:
                self.assertEqual(data_of(out, name), made[name][3], dtype)
                self.assertEqual(data_of(back, name), made[name][3], dtype)

    def test_biases(self):
        """A bias is cut and joined as its weight is."""
        def edit(c):
            c["use_bias"] = True
        model = write_model(self.tmp / "in", edit=edit)
        extra, rng = {}, random.Random(base.SEED)
        for name, dtype, shape in list(base.shapes(CONFIG)):
            if "proj" in name:
                raw = base.random_values(rng, "BF16", shape[1])
                extra[name.replace(".weight", ".bias")] = ("BF16", [shape[1]], raw)
        append(model, extra)
        torch = self.quantize(model, "torch", "--scheme=bf16", "--names=torch")
        found = tensors_of(torch)[0]
        self.assertEqual(found["model.layers.0.self_attn.k_proj.bias"][:2], ("BF16", [64]))
        qkv = extra["ernie.layers.0.self_attn.qkv_proj.bias"][2]
        self.assertEqual(data_of(torch, "model.layers.0.self_attn.k_proj.bias"), qkv[256:384])
        self.assertEqual(data_of(torch, "model.layers.1.mlp.experts.1.up_proj.bias"),
                         extra["ernie.layers.1.mlp.experts.1.up_gate_proj.bias"][2][256:])
        back = self.quantize(torch, "back", "--scheme=bf16")
        self.assertEqual(tensors_of(back)[0], tensors_of(model)[0])
        quantized = self.quantize(torch, "quantized")
        for name, (_, _, raw) in extra.items():
            self.assertEqual(data_of(quantized, name), raw)

    def test_f32_rounds_once(self):
        name = "ernie.norm.weight"
        model = recast(self.model(), self.tmp / "f32", "F32")
        raw = bytearray((model / "model.safetensors").read_bytes())
        size = struct.unpack("<Q", raw[:8])[0]
        at = 8 + size + json.loads(raw[8:8 + size])[name]["data_offsets"][0]
        # a tie goes to even both ways, a hair above it goes up
        raw[at:at + 12] = struct.pack("<3I", 0x3f808000, 0x3f818000, 0x3f808001)
        (model / "model.safetensors").write_bytes(raw)
        out = self.quantize(model, "out", "--scheme=bf16")
        self.assertEqual(struct.unpack("<3H", data_of(out, name)[:6]), (0x3f80, 0x3f82, 0x3f81))

    def test_nonfinite_patterns(self):
        """Every class of bits that is no number, each sign; the largest numbers pass."""
        name = "ernie.layers.1.mlp.experts.1.down_proj"
        for dtype, size, bad, good in [
                # infinity, NaN: quiet, signalling, all ones
                ("BF16", 2, [0x7f80, 0x7fc0, 0x7f81, 0x7fff], 0x7f7f),
                ("F16", 2, [0x7c00, 0x7e00, 0x7c01, 0x7fff], 0x7bff),
                # 0x7f800001: an infinity when the lower half is dropped
                ("F32", 4, [0x7f800000, 0x7fc00000, 0x7f800001, 0x7f810000, 0x7fffffff],
                 0x7f7f0000)]:
            source = self.tmp / f"in-{dtype}"
            write_model(source)
            model = recast(source, self.tmp / dtype, dtype) if dtype != "BF16" else source
            path = model / "model.safetensors"
            raw = bytearray(path.read_bytes())
            header = struct.unpack("<Q", raw[:8])[0]
            at = 8 + header + 5 * size + json.loads(raw[8:8 + header])[
                name + ".weight"]["data_offsets"][0]
            sign = 1 << 8 * size - 1
            for bits in [x | s for x in bad for s in (0, sign)]:
                raw[at:at + size] = bits.to_bytes(size, "little")
                path.write_bytes(raw)
                for more in (["--w4-end-layer=0"], ["--scheme=bf16", "-j1", "--cpu-isa=c"]):
                    with self.subTest(dtype=dtype, bits=hex(bits), more=more):
                        self.refuse(65, *more, model, self.out, says=[
                            name, "1 non-finite values, first at [0,5]"])
            raw[at:at + size] = good.to_bytes(size, "little")
            path.write_bytes(raw)
            self.quantize(model, f"good-{dtype}", "--scheme=bf16")

    def test_tied_dense(self):
        """A model of the 0.3B shape: no experts, no head of its own."""
        config = dict(DENSE, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
                      tie_word_embeddings=False)
        model = write_model(self.tmp / "in", config=config, drop=["lm_head.weight"])
        out = self.quantize(model, "out", "--scheme=wint8")
        made = self.config(out)
        self.assertIs(made["tie_word_embeddings"], True)
        self.assertNotIn("lm_head.weight", tensors_of(out)[0])
        self.assertEqual(made["architectures"], ["Ernie4_5_ForCausalLM"])
        torch = self.quantize(out, "torch", "--scheme=bf16", "--names=torch")
        self.assertIs(self.config(torch)["tie_word_embeddings"], True)
        self.assertNotIn("lm_head.weight", tensors_of(torch)[0])

    def test_config_variants(self):
        """One meaning in three spellings: what FastDeploy must find is always there."""
        def paddle(c):
            c["moe_use_aux_free"] = True

        def torch4(c):
            del c["dtype"], c["moe_num_shared_experts"]
            c.update(torch_dtype="bfloat16", transformers_version="4.55.0",
                     model_type="ernie4_5_moe", rope_scaling=None)

        def torch5(c):
            for key in "rope_theta", "hidden_act", "moe_layer_start_index", "tie_word_embeddings":
                del c[key]
            c.update(rope_parameters={"rope_theta": 500000.0, "rope_type": "default"},
                     transformers_version="5.2.0", model_type="ernie4_5_moe",
                     moe_num_shared_experts=None, quantization_config=None)
        wanted = {
            "architectures": ["Ernie4_5_MoeForCausalLM"], "dtype": "bfloat16",
            "rope_theta": 500000.0, "moe_use_aux_free": True, "moe_num_shared_experts": 0,
            "moe_layer_start_index": 1, "num_key_value_heads": 1, "vocab_size": 32,
            "max_position_embeddings": 64, "rms_norm_eps": 1e-05, "tie_word_embeddings": True,
            "hidden_act": "silu", "intermediate_size": 128, "moe_k": 1,
            "moe_intermediate_size": 128, "moe_num_experts": 2, "hidden_size": 128,
            "num_attention_heads": 2, "num_hidden_layers": 2}
        for scheme in SCHEMES:
            made = []
            for edit in paddle, torch4, torch5:
                with self.subTest(scheme=scheme, config=edit.__name__):
                    shutil.rmtree(self.tmp)
                    self.tmp.mkdir()
                    model = write_model(self.tmp / "in", edit=edit)
                    out = self.quantize(model, "out", f"--scheme={scheme}")
                    found = self.config(out)
                    self.assertEqual({k: found.get(k) for k in wanted}, wanted)
                    for key in "torch_dtype", "transformers_version":
                        self.assertNotIn(key, found)
                    made.append((tensors_of(out), found.get("quantization_config")))
            self.assertEqual(made[0], made[1])
            self.assertEqual(made[0], made[2])


class Decoding(Schemes):
    def oracle(self, model, name, *more):
        out = self.tmp / name
        subprocess.run([sys.executable, str(TOP / "oracle.py"), "decode", str(model), str(out),
                        *more], check=True)
        return tensors_of(out)[0]

    def test_foreign_wint2(self):
        """A WINT2 checkpoint that ccq did not make, against an independent decoder."""
        model = SHARED / "models" / "ernie-micro" / "wint2"
        if not model.exists():
            self.skipTest(f"no {model}")
        for order in "fastdeploy", "plain":
            out = self.quantize(model, order, "--scheme=bf16", f"--k-order={order}")
            want = self.oracle(model, "oracle-" + order, "--k-order", order)
            self.assertEqual(tensors_of(out)[0], want)
            self.assertNotIn("quantization_config", self.config(out))
            recipe = json.loads((out / "ccq_recipe.json").read_text())
            self.assertEqual(recipe["k_order"], order)
        assumed = self.quantize(model, "assumed", "--scheme=bf16")
        self.assertEqual(tensors_of(assumed), tensors_of(self.tmp / "fastdeploy"))

    def test_own_outputs(self):
        model = self.model()
        for i, more in enumerate([["--w4-end-layer=0"], ["--w4-end-layer=-1", "--k-order=plain"],
                                  ["--scheme=wint4"], ["--scheme=wint8"]]):
            packed = self.quantize(model, f"packed{i}", *more)
            out = self.quantize(packed, f"out{i}", "--scheme=bf16")
            self.assertEqual(tensors_of(out)[0], self.oracle(packed, f"oracle{i}"))

    def test_fp8(self):
        """Decoded fp8: the code's value times its block's scale, rounded once."""
        packed = self.quantize(self.model(), "packed", "--scheme=block_wise_fp8")
        out = self.quantize(packed, "out", "--scheme=bf16")
        name = "ernie.layers.1.mlp.experts.1.up_gate_proj"
        q, s = data_of(packed, name + ".quant_weight"), data_of(packed, name + ".weight_scale")
        scales = struct.unpack("<2f", s)
        made = struct.unpack("<32768H", data_of(out, name + ".weight"))
        for i, code in enumerate(q):
            e, m = code >> 3 & 15, code & 7
            x = (8 + m) * 2.0 ** (e - 10) if e else m * 2.0 ** -9
            x = -x if code & 0x80 else x
            bits = struct.unpack("<I", struct.pack("<f", x * scales[i % 256 // 128]))[0]
            self.assertEqual(made[i], (bits + 0x7fff + (bits >> 16 & 1)) >> 16, i)

    def test_only_bf16_takes_quantized(self):
        packed = self.quantize(self.model(), "packed")
        for scheme in SCHEMES[:-1]:
            self.refuse(65, f"--scheme={scheme}", packed, self.out, says="quantized already")

    def test_order_against_the_record(self):
        packed = self.quantize(self.model(), "packed", "--w4-end-layer=0")
        self.refuse(64, "--scheme=bf16", "--k-order=plain", packed, self.out,
                    says="records K order fastdeploy")

    def test_nan_code(self):
        """E4M3 has two codes that are no number, and no infinity."""
        packed = self.quantize(self.model(), "packed", "--scheme=block_wise_fp8")
        path = packed / "model.safetensors"
        raw = bytearray(path.read_bytes())
        size = struct.unpack("<Q", raw[:8])[0]
        name = "ernie.layers.0.mlp.down_proj"
        t = json.loads(raw[8:8 + size])[name + ".quant_weight"]
        at = 8 + size + t["data_offsets"][0] + 130
        for code in 0x7f, 0xff:
            raw[at] = code
            path.write_bytes(raw)
            self.refuse(65, "--scheme=bf16", packed, self.out,
                        says=[name, "1 non-finite values, first at [1,2]"])
        for code in 0x7e, 0xfe:
            raw[at] = code
            path.write_bytes(raw)
            self.quantize(packed, f"good-{code}", "--scheme=bf16")


class TensorTypes(Schemes):
    def types(self, *more, **model):
        """name -> type, from the plan."""
        path = self.tmp / "in"
        if not path.exists():
            write_model(path, **model)
        plan = json.loads(self.run_tool("--dry-run", "--json", *more, path, self.out).stdout)
        return {t["name"]: (t["to"], t["why"]) for t in plan["tensors"]}

    def test_last_match_wins(self):
        found = self.types("--w4-end-layer=-1", "--tensor-type=experts=wint4",
                           "--tensor-type=ernie.layers.[12].mlp.experts=wint2",
                           "--tensor-type=^ernie\\.layers\\.2\\..*experts\\.[0-9]+\\.(up_gate|down)"
                           "_proj\\.weight$=wint4", "--tensor-type=layers\\.3\\.mlp\\.ex=wint2",
                           "--tensor-type=layers\\.1\\.mlp\\.experts\\.=wint4",
                           config={"num_hidden_layers": 4})
        for layer, kind in (1, "wint4"), (2, "wint4"), (3, "wint2"):
            for e in 0, 1:
                for part in "up_gate_proj", "down_proj":
                    name = f"ernie.layers.{layer}.mlp.experts.{e}.{part}"
                    self.assertEqual(found[name][0], kind, name)
        self.assertIn("layers\\.1\\.mlp", found["ernie.layers.1.mlp.experts.0.down_proj"][1])
        self.assertEqual(found["ernie.layers.3.self_attn.o_proj"], ("wint8", "attention"))

    def test_served_as_written(self):
        """The loader's one number follows the types."""
        model = write_model(self.tmp / "in", config={"num_hidden_layers": 4})
        out = self.quantize(model, "out", "--w4-end-layer=-1",
                            "--tensor-type=layers\\.[12]\\.mlp\\.experts=wint4")
        experts = self.config(out)["quantization_config"]["moe_quant_config"]
        self.assertEqual(experts["moe_w4_quant_config"]["quant_end_layer"], 2)
        self.assertEqual(experts["moe_w2_quant_config"]["quant_start_layer"], 3)
        want = self.quantize(model, "want", "--w4-end-layer=2")
        self.assertEqual(tensors_of(out), tensors_of(want))
        self.assertEqual(self.config(out), self.config(want))
        p = subprocess.run([INSPECT, "--verify", str(out)], capture_output=True)
        self.assertEqual(p.returncode, 0, p.stdout)

    def test_refused_mixes(self):
        model = write_model(self.tmp / "in", config={"num_hidden_layers": 4,
                                                     "tie_word_embeddings": False})
        mixes = "mixes types: FastDeploy selects by layer and quant_end_layer only"
        a8 = "wint2 is served for MoE experts only"
        for more, says in [
            (["--tensor-type=self_attn.o_proj=wint2"], "self_attn.o_proj: " + a8),  # A8
            (["--scheme=wint8", "--tensor-type=mlp.down_proj=wint2"], a8),
            (["--scheme=bf16", "--tensor-type=qkv=wint2"], a8),
            (["--w4-end-layer=1", "--tensor-type=layers.3.mlp.experts.1=wint4"],  # A9
             "layer 3 " + mixes),
            (["--w4-end-layer=1", "--tensor-type=layers.2.*down_proj=wint4"], "layer 2 " + mixes),
            (["--w4-end-layer=-1", "--tensor-type=layers.3.mlp.experts=wint4"], "layer 3 " + mixes),
            (["--tensor-type=experts=wint8"], "FastDeploy reads its experts as wint4 or wint2"),
            (["--tensor-type=experts=bf16"], "FastDeploy reads its experts as wint4 or wint2"),
            (["--tensor-type=layers.0.mlp=wint4"], "linears outside the experts as wint8"),
            (["--tensor-type=qkv=bf16"], "linears outside the experts as wint8"),
            (["--tensor-type=qkv=block_wise_fp8"], "linears outside the experts as wint8"),
            (["--scheme=wint8", "--tensor-type=qkv=wint4"], "one type for all linears"),
            (["--scheme=block_wise_fp8", "--tensor-type=qkv=wint8"], "one type for all linears"),
            (["--scheme=bf16", "--tensor-type=qkv=wint8"], "one type for all linears"),
            (["--tensor-type=norm=wint8"], "ernie.norm.weight: is never quantized"),
            (["--tensor-type=embed=wint8"], "ernie.embed_tokens.weight: is never quantized"),
            (["--tensor-type=mlp.gate.weight=wint8"], "mlp.gate.weight: is never quantized"),
            (["--force", "--tensor-type=mlp.gate.weight=wint8"], "is never quantized"),
            (["--force", "--tensor-type=embed=wint8"], "is never quantized"),
            (["--tensor-type=lm_head=wint8"], "--force"),
            (["--force", "--tensor-type=lm_head=wint2"], a8),
        ]:
            with self.subTest(options=more):
                self.refuse(64, *more, model, self.out, says=says)

    def test_refused_expressions(self):
        model = self.model()
        for rule, says in [
            ("layers\\.\\d+=wint2", "\\d is no POSIX extended expression"),
            ("[\\d]=wint2", "\\d is no POSIX extended expression"),
            ("a\\b=wint2", "\\b is no POSIX"),
            ("(=wint2", "tensor-type (=wint2: "),
            ("[a=wint2", "tensor-type [a=wint2: "),
            ("experts=wint3", "one of wint2, wint4, wint8, block_wise_fp8, bf16"),
            ("experts=WINT2", "one of wint2"),
            ("experts", "wanted REGEX=TYPE"),
            ("=wint2", "wanted REGEX=TYPE"),
            ("x" * 1000 + "=wint2", "longer than 999 bytes"),
        ]:
            with self.subTest(rule=rule):
                self.refuse(64, "--tensor-type", rule, model, self.out, says=says)

    def test_no_match_names_near_ones(self):
        text = self.refuse(64, "--tensor-type=layers\\.1\\.mlp\\.expert\\.1\\.up_gate=wint4",
                           self.model(), self.out, says="matches no tensor; near: ")
        self.assertIn("ernie.layers.1.mlp.experts.1.up_gate_proj", text)

    def test_equals_in_the_expression(self):
        self.refuse(64, "--tensor-type=a=b=wint2", self.model(), self.out,
                    says="matches no tensor")

    def test_forced_head(self):
        """Read back by ccq's own tools, with a warning."""
        model = write_model(self.tmp / "in", config={"tie_word_embeddings": False})
        for kind in "wint8", "wint4", "block_wise_fp8":
            with self.subTest(type=kind):
                out = self.tmp / kind
                p = self.run_tool("--effort=fast", "--force", f"--tensor-type=lm_head={kind}",
                                  model, out)
                self.assertIn("FastDeploy does not load it", p.stderr)
                self.assertIn("lm_head.quant_weight", tensors_of(out)[0])
                back = self.quantize(out, kind + "-back", "--scheme=bf16")
                self.assertEqual(tensors_of(back)[0]["lm_head.weight"][:2], ("BF16", [128, 32]))
                p = subprocess.run([INSPECT, "--against", str(model), "--json", str(out)],
                                   capture_output=True, text=True)
                row = [r for r in json.loads(p.stdout)["against"]
                       if r["name"] == "lm_head.weight"]
                self.assertGreater(row[0]["sqnr_db"], 14)


class Recipes(Schemes):
    def recipe(self, **keys):
        path = self.tmp / "r.json"
        path.write_text(json.dumps({"schema": "ccq.recipe/1", **keys}))
        return path

    def test_round_trip(self):
        """A recipe repeats every byte, its own included."""
        model = self.model()
        variants = [
            ["--w4-end-layer=0", "--gain=2", "--effort=fast", "--k-order=plain"],
            ["--w4-end-layer=1", "--weight-only-rule=cpu", "--shard-size=100K"],
            ["--w4-end-layer=-1", "--effort=fast", "--tensor-type=experts=wint4",
             "--tensor-type=experts=wint2"],
            ["--scheme=wint4"], ["--scheme=wint8"], ["--scheme=block_wise_fp8"],
            ["--scheme=bf16", "--names=torch"],
        ]
        for i, more in enumerate(variants):
            with self.subTest(options=more):
                first, second = self.tmp / f"a{i}", self.tmp / f"b{i}"
                self.run_tool("-q", *more, model, first)
                self.run_tool("-q", "--recipe", first / "ccq_recipe.json", model, second)
                self.assertEqual(base.digest(first), base.digest(second))

    def test_decoding_recipe(self):
        packed = self.quantize(self.model(), "packed", "--w4-end-layer=0", "--k-order=plain")
        (packed / "ccq_recipe.json").unlink()
        out = self.quantize(packed, "out", "--scheme=bf16", "--k-order=plain")
        self.run_tool("-q", "--recipe", out / "ccq_recipe.json", packed, self.tmp / "again")
        self.assertEqual(base.digest(out), base.digest(self.tmp / "again"))

    def test_command_line_wins(self):
        model = self.model()
        r = self.recipe(scheme="wint2", w4_end_layer=1, gain=0, effort="fast", k_order="plain",
                        tensor_types=["experts=wint4"])
        plan = json.loads(self.run_tool("--dry-run", "--json", "--recipe", r, "--gain=4", model,
                                        self.out).stdout)["recipe"]
        self.assertEqual((plan["gain"], plan["k_order"], plan["w4_end_layer"]), (4, "plain", 1))
        plan = json.loads(self.run_tool(
            "--dry-run", "--json", "--w4-end-layer=-1", "--recipe", r,
            "--tensor-type=experts=wint2", model, self.out).stdout)
        self.assertEqual(plan["recipe"]["tensor_types"], ["experts=wint4", "experts=wint2"])
        self.assertIn("wint2", [t["to"] for t in plan["tensors"]])
        # the layer belongs to the recipe's own scheme
        r = self.recipe(scheme="wint2", w4_end_layer=1)
        self.run_tool("-q", "--recipe", r, "--scheme=wint8", model, self.out)

    def test_bad_recipes(self):
        model = self.model()
        for keys, says in [
            ({"speed": "fast"}, '"speed" is no key of a recipe'),
            ({"scheme": "wint3"}, '"scheme" has a value that is not known'),
            ({"scheme": 2}, '"scheme" has a value that is not known'),
            ({"gain": 9}, '"gain" is no integer in its range'),
            ({"gain": "4"}, '"gain" is no integer in its range'),
            ({"k_order": "both"}, '"k_order" has a value'),
            ({"effort": "bext"}, '"effort" has a value'),
            ({"names": "jax"}, '"names" has a value'),
            ({"shard_bytes": -1}, '"shard_bytes" is no integer'),
            ({"tensor_types": "a=wint2"}, '"tensor_types" is no list'),
            ({"tensor_types": [1]}, '"tensor_types" is no list'),
            ({"force": 1}, '"force" is not true or false'),
            ({"output_version": 1000}, '"output_version" is that of a newer ccq'),
            ({"schema": "ccq.recipe/2"}, '"schema" is not "ccq.recipe/1"'),
            ({"note": {}}, '"note" is no text'),
        ]:
            with self.subTest(keys=keys):
                self.refuse(65, "--recipe", self.recipe(**keys), model, self.out, says=says)
        (self.tmp / "r.json").write_text("{}")
        self.refuse(65, "--recipe", self.tmp / "r.json", model, self.out, says="is missing")
        (self.tmp / "r.json").write_text('{"schema": "ccq.recipe/1", "gain": 1, "gain": 2}')
        self.refuse(65, "--recipe", self.tmp / "r.json", model, self.out, says="gain")
        (self.tmp / "r.json").write_text("scheme: wint2")
        self.refuse(65, "--recipe", self.tmp / "r.json", model, self.out, says="r.json")
        self.refuse(66, "--recipe", self.tmp / "none.json", model, self.out, says="none.json")
        self.refuse(64, "--recipe", self.recipe(w4_end_layer=7), model, self.out,
                    says="outside -1..1")
        self.refuse(64, "--recipe", self.recipe(tensor_types=["nothing=wint2"]), model, self.out,
                    says="matches no tensor")


class Shards(Schemes):
    def test_sizes(self):
        model = self.model()
        whole = self.quantize(model, "whole", "--w4-end-layer=0")
        one = self.quantize(model, "one", "--w4-end-layer=0", "--shard-size=0")
        self.assertEqual(sorted(p.name for p in one.glob("*.safetensors")), ["model.safetensors"])
        for size, limit in ("100K", 100000), ("64KiB", 65536), ("1", 1):
            with self.subTest(size=size):
                out = self.quantize(model, size, "--w4-end-layer=0", f"--shard-size={size}")
                files = sorted(p.name for p in out.glob("*.safetensors"))
                self.assertEqual(files, [f"model-{i + 1:05}-of-{len(files):05}.safetensors"
                                         for i in range(len(files))])
                self.assertGreater(len(files), 2)
                self.assertEqual(tensors_of(out)[0], tensors_of(whole)[0])
                index = json.loads((out / "model.safetensors.index.json").read_text())
                self.assertEqual(set(index["weight_map"]), set(tensors_of(out)[0]))
                self.assertEqual(set(index["weight_map"].values()), set(files))
                for file in files:
                    table, data = base.read_header(out / file)
                    self.assertEqual({k for k, v in index["weight_map"].items() if v == file},
                                     set(table))
                    self.assertTrue(len(data) <= limit or len(table) == 1)
                p = subprocess.run([INSPECT, "--verify", str(out)], capture_output=True)
                self.assertEqual(p.returncode, 0, p.stdout)
                self.run_tool("-q", "--scheme=bf16", out, self.tmp / ("back" + size))
                self.assertEqual(
                    tensors_of(self.tmp / ("back" + size))[0],
                    tensors_of(self.quantize(whole, "plain" + size, "--scheme=bf16"))[0])


if __name__ == "__main__":
    base.TOOL = os.path.abspath(sys.argv.pop(1))
    INSPECT = os.path.abspath(sys.argv.pop(1))
    print(f"seed: CCQ_SEED={base.SEED}")
    unittest.main(verbosity=1)
