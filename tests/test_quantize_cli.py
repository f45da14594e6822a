#!/usr/bin/env python3
"""ccq-quantize from outside: bytes, sizes, refusals, exit codes.

usage: test_quantize_cli.py CCQ-QUANTIZE [unittest arguments]

Small checkpoints are written here, so that every bad one differs from the good
one in the line that its test shows. Standard library only.
"""
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(TOP / "data"))
import make_header  # noqa: E402

TOOL = ""
SHARED = pathlib.Path(os.environ.get("CCQ_SHARED", TOP.parent.parent / "shared"))
MICRO = pathlib.Path(os.environ.get("CCQ_DATA", TOP / "data")) / "ernie-micro"
SEED = int(os.environ.get("CCQ_SEED", "20"))
BITS = {"U8": 8, "I8": 8, "BF16": 16, "F16": 16, "F32": 32}

CONFIG = {
    "architectures": ["Ernie4_5_MoeForCausalLM"], "hidden_size": 128, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64,
    "rms_norm_eps": 1e-05, "vocab_size": 32, "max_position_embeddings": 64, "moe_num_experts": 2,
    "moe_intermediate_size": 128, "moe_k": 1, "moe_num_shared_experts": 0,
    "moe_layer_start_index": 1, "use_bias": False, "tie_word_embeddings": True,
    "hidden_act": "silu", "rope_theta": 500000.0, "dtype": "bfloat16",
}


def shapes(c):
    """Paddle names and shapes of a model; routers are F32."""
    hidden, heads, kv = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    head = c.get("head_dim", hidden // heads)
    experts, shared = c.get("moe_num_experts", 0), c.get("moe_num_shared_experts", 0)
    yield "ernie.embed_tokens.weight", "BF16", [c["vocab_size"], hidden]
    for layer in range(c["num_hidden_layers"]):
        at = f"ernie.layers.{layer}."
        yield at + "input_layernorm.weight", "BF16", [hidden]
        yield at + "self_attn.qkv_proj.weight", "BF16", [hidden, (heads + 2 * kv) * head]
        yield at + "self_attn.o_proj.weight", "BF16", [heads * head, hidden]
        yield at + "post_attention_layernorm.weight", "BF16", [hidden]
        blocks = [("mlp", c["intermediate_size"])]
        if experts and layer >= c["moe_layer_start_index"]:
            yield at + "mlp.gate.weight", "F32", [hidden, experts]
            yield at + "mlp.moe_statics.e_score_correction_bias", "F32", [1, experts]
            width = c["moe_intermediate_size"]
            blocks = [(f"mlp.experts.{e}", width) for e in range(experts)]
            if shared:
                blocks.append(("mlp.shared_experts", shared * width))
        for name, width in blocks:
            yield f"{at}{name}.up_gate_proj.weight", "BF16", [hidden, 2 * width]
            yield f"{at}{name}.down_proj.weight", "BF16", [width, hidden]
    yield "ernie.norm.weight", "BF16", [hidden]
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", "BF16", [hidden, c["vocab_size"]]


def bytes_of(dtype, shape):
    n = BITS[dtype] // 8
    for d in shape:
        n *= d
    return n


def header(tensors):
    table, at = {}, 0
    for name, dtype, shape in tensors:
        size = bytes_of(dtype, shape)
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text, at


def bf16(x):
    return struct.pack("<f", x)[2:]


def random_values(rng, dtype, count):
    """Values of 2^-7..2^-6 with both signs, quick to make."""
    if dtype == "F32":
        return struct.pack(f"<{count}f", *(rng.uniform(-1, 1) for _ in range(count)))
    low, high = rng.randbytes(count), rng.randbytes(count)
    high = high.translate(bytes(0x3C | (b & 0x80) for b in range(256)))
    return bytes(b for pair in zip(low, high) for b in pair)


def write_model(path, config=None, change=None, drop=(), edit=None, dtype="BF16"):
    """change: {tensor: {element: value}}; drop: tensors left out; edit(config); dtype: of
    all that is not F32 anyway."""
    c = dict(CONFIG, **(config or {}))
    rng = random.Random(SEED)
    tensors = [(n, dtype if d == "BF16" else d, s) for n, d, s in shapes(c) if n not in drop]
    path.mkdir()
    head, _ = header(tensors)
    with open(path / "model.safetensors", "wb") as f:
        f.write(head)
        for name, kind, shape in tensors:
            data = bytearray(random_values(rng, kind, bytes_of(kind, shape) * 8 // BITS[kind]))
            for element, value in (change or {}).get(name, {}).items():
                raw = value if isinstance(value, bytes) else bf16(value)
                data[element * len(raw):(element + 1) * len(raw)] = raw
            f.write(data)
    if edit:
        edit(c)
    (path / "config.json").write_text(json.dumps(c, indent=2))
    return path


def read_header(path):
    with open(path, "rb") as f:
        size = struct.unpack("<Q", f.read(8))[0]
        table = json.loads(f.read(size))
        data = f.read()
    assert table.pop("__metadata__") == {"format": "np"}
    return table, data


def digest(path):
    h = hashlib.sha256()
    for name in sorted(os.listdir(path)):
        h.update(name.encode() + b"\0" + (path / name).read_bytes())
    return h.hexdigest()


def write_tokens(path, ids):
    """A .npy of token ids."""
    head = f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({len(ids)},), }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() +
                     struct.pack(f"<{len(ids)}i", *ids))
    return path


class Case(unittest.TestCase):
    def setUp(self):
        self.tmp = pathlib.Path(tempfile.mkdtemp(prefix="ccq-"))
        self.out = self.tmp / "out"

    def tearDown(self):
        shutil.rmtree(self.tmp)

    def run_tool(self, *args, code=0, **more):
        p = subprocess.run([TOOL, *map(str, args)], capture_output=True, text=True,
                           stdin=subprocess.DEVNULL, **more)
        self.assertEqual(p.returncode, code, p.stderr + p.stdout)
        return p

    def refuse(self, code, *args, says=(), **more):
        """One clear line, the exit code, and nothing left behind."""
        p = self.run_tool(*args, code=code, **more)
        self.assertEqual(p.stdout, "")
        self.assertFalse(self.out.exists(), "something is left behind")
        for text in [says] if isinstance(says, str) else says:
            self.assertIn(text, p.stderr)
        return p.stderr

    def model(self, **more):
        return write_model(self.tmp / "in", **more)


class Bytes(Case):
    def test_threads_and_isa(self):
        """One hash, whatever the threads and the instruction set."""
        model = self.model()
        hashes = set()
        for i, more in enumerate(["-j1", "-j2", "-j3", "-j7", "--cpu-isa=c"]):
            out = self.tmp / f"out{i}"
            self.run_tool("-q", "--w4-end-layer=0", more, model, out)
            hashes.add(digest(out))
        self.assertEqual(len(hashes), 1)

    def test_relative_path(self):
        """Nor does the way the paths are spelled leave a trace."""
        model = self.model()
        self.run_tool("-q", model, self.out)
        self.run_tool("-q", "in/", "./out2/", cwd=self.tmp)
        self.assertEqual(digest(self.out), digest(self.tmp / "out2"))

    def test_surroundings(self):
        """Nor do language, time zone, file mode mask, directory and file system."""
        model = self.model()
        self.run_tool("-q", "--w4-end-layer=0", model, self.out)
        want = digest(self.out)
        places = [self.tmp] + [pathlib.Path("/dev/shm")] * os.access("/dev/shm", os.W_OK)
        subprocess.run(["sh", "-c", "localedef --no-archive -i de_DE -f UTF-8 ./de_DE.UTF-8"],
                       cwd=self.tmp, capture_output=True)  # where there are sources of locales
        for place in places:
            with tempfile.TemporaryDirectory(prefix="ccq-", dir=place) as made:
                for language, zone, mask in ("C", "UTC", 0o22), ("de_DE.UTF-8", "Asia/Tokyo", 0o77):
                    env = dict(os.environ, LC_ALL=language, LANG=language, LOCPATH=str(self.tmp),
                               TZ=zone, HOME=made)
                    out = pathlib.Path(made) / f"{language} {mask}"
                    self.run_tool("-q", "--w4-end-layer=0", model, out.name, cwd=made, env=env,
                                  preexec_fn=lambda m=mask: os.umask(m))
                    self.assertEqual(digest(out), want, (place, language, zone, mask))

    def test_input_untouched(self):
        model = self.model()
        before = digest(model), os.stat(model / "model.safetensors").st_mtime_ns
        self.run_tool("-q", model, self.out)
        self.assertEqual(before, (digest(model), os.stat(model / "model.safetensors").st_mtime_ns))

    def test_options_change_bytes(self):
        model, hashes = self.model(), set()
        variants = [[], ["--gain=0"], ["--effort=fast"], ["--k-order=plain"],
                    ["--weight-only-rule=cpu"], ["--w4-end-layer=1"], ["--scheme=wint8"]]
        for i, more in enumerate(variants):
            out = self.tmp / f"out{i}"
            if not any("end" in m or "scheme" in m for m in more):
                more = more + ["--w4-end-layer=0"]
            self.run_tool("-q", *more, model, out)
            hashes.add(hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest())
        self.assertEqual(len(hashes), len(variants))

    def test_copied_tensors(self):
        """Norms, embedding, head, router and bias are the input's own bytes."""
        model = self.model(config={"tie_word_embeddings": False})
        self.run_tool("-q", model, self.out)
        with open(model / "model.safetensors", "rb") as f:
            size = struct.unpack("<Q", f.read(8))[0]
            table, data = json.loads(f.read(size)), f.read()
        made, made_data = read_header(self.out / "model.safetensors")
        seen = 0
        for name, t in made.items():
            if name not in table:
                continue
            a, b = t["data_offsets"]
            i, j = table[name]["data_offsets"]
            for key in "dtype", "shape":
                self.assertEqual(t[key], table[name][key])
            self.assertEqual(made_data[a:b], data[i:j], name)
            seen += 1
        self.assertEqual(seen, 9)


class Sizes(Case):
    def real_kinds(self, out):
        """bytes_by_kind from the written header, by names alone."""
        kinds = {}
        table, _ = read_header(out / "model.safetensors")
        for name, t in table.items():
            kind = self.kind(name, t, table)
            kinds[kind] = kinds.get(kind, 0) + t["data_offsets"][1] - t["data_offsets"][0]
        return kinds

    def kind(self, name, t, table):
        stem, _, suffix = name.rpartition(".")
        if suffix in ("quant_weight", "weight_scale", "super_scales", "code_scale", "code_zp"):
            if stem + ".super_scales" in table:
                return "wint2 " + suffix
            rows = table[stem + ".quant_weight"]["shape"][0]
            bits = 8 if rows == table[stem + ".weight_scale"]["shape"][0] else 4
            return f"wint{bits} {suffix}"
        for part, kind in [("embed_tokens", "embed_tokens bf16"), ("lm_head", "lm_head bf16"),
                           ("norm", "norms bf16"), ("mlp.gate.", "router gate fp32"),
                           ("e_score", "e_score_correction_bias fp32")]:
            if part in name:
                return kind
        raise AssertionError(name)

    def test_dry_run_is_exact(self):
        for more in ["--w4-end-layer=1"], ["--w4-end-layer=-1"], ["--scheme=wint8"]:
            with self.subTest(options=more):
                out = self.tmp / ("out" + more[0])
                plan = json.loads(self.run_tool("--dry-run", "--json", *more, MICRO, out).stdout)
                self.assertFalse(out.exists())
                real = json.loads(self.run_tool("-q", "--json", "--effort=fast", *more, MICRO,
                                                out).stdout)
                kinds = self.real_kinds(out)
                self.assertEqual(plan["bytes_by_kind"], kinds)
                self.assertEqual(real["bytes_by_kind"], kinds)
                self.assertEqual(plan["tensor_bytes"], sum(kinds.values()))
                files = sum((out / f).stat().st_size for f in os.listdir(out))
                self.assertEqual(real["total_bytes"], files)
                index = json.loads((out / "model.safetensors.index.json").read_text())
                self.assertEqual(index["metadata"]["total_size"], plan["tensor_bytes"])
                for a, b in zip(plan["tensors"], real["tensors"]):
                    self.assertEqual(a, {k: b[k] for k in a})

    def test_json_keys(self):
        out = json.loads(self.run_tool("--json", "--effort=fast", "--w4-end-layer=0", self.model(),
                                       self.out).stdout)
        for key in ("schema input output dry_run recipe tensors bytes_by_kind tensor_bytes "
                    "parameters bits_per_weight fits free_bytes skipped sqnr_db_by_type wall_s "
                    "encode_s encode_weights peak_rss_bytes "
                    "experts_without_statistics").split():
            self.assertIn(key, out)
        self.assertEqual(out["schema"], "ccq.quantize/1")
        self.assertEqual(out["encode_weights"], 2 * 3 * 128 * 128)
        self.assertEqual(set(out["sqnr_db_by_type"]), {"wint2", "wint8"})
        self.assertEqual(out["experts_without_statistics"], [])
        recipe = (self.out / "ccq_recipe.json").read_text()
        self.assertTrue(recipe.endswith("}\n"))
        self.assertEqual(json.loads(recipe), out["recipe"])

    def test_reference_sizes(self):
        """Header-only sparse models of 300B, 21B and 0.3B against the table."""
        path = SHARED / "golden" / "sizes.json"
        if not path.exists():
            self.skipTest(f"no {path}")
        for row in json.loads(path.read_text()):
            model = row["model"].split("-")[0]
            options = ["--scheme=wint8"] if model == "0.3B" else [
                f"--w4-end-layer={row['w4_end_layer']}"]
            options.append(f"--tensor-parallel={row['tensor_parallel']}")
            sparse = self.tmp / f"{model}-{row['tied']}"
            try:
                make_header.write_model(sparse, model, row["tied"])
            except OSError:
                self.skipTest("no sparse file of that size here")
            plan = json.loads(self.run_tool("--dry-run", "--json", *options, sparse,
                                            self.out).stdout)
            with self.subTest(**{k: row[k] for k in ("model", "w4_end_layer", "tied",
                                                     "tensor_parallel")}):
                self.assertEqual(plan["bytes_by_kind"], row["bytes"])
                self.assertEqual(plan["tensor_bytes"], row["total_bytes"])
                self.assertEqual(plan["parameters"], row["parameters"])
                self.assertEqual(plan["quantized_parameters"], row["quantized_parameters"])
                self.assertEqual(f"{plan['bits_per_weight']:.4f}", row["bits_per_weight_all"])
                self.assertIn("fits", plan)

    def test_no_space_is_a_warning_of_the_dry_run(self):
        sparse = self.tmp / "big"
        sparse.mkdir()
        c = dict(CONFIG, hidden_size=1 << 17, intermediate_size=1 << 20, num_hidden_layers=10,
                 moe_layer_start_index=9)
        head, size = header(shapes(c))
        with open(sparse / "model.safetensors", "wb") as f:
            f.write(head)
            try:
                f.truncate(len(head) + size)  # 8 TiB
            except OSError:
                self.skipTest("no sparse file of that size here")
        (sparse / "config.json").write_text(json.dumps(c))
        p = self.run_tool("--dry-run", "--json", sparse, self.out)
        self.assertIs(json.loads(p.stdout)["fits"], False)
        self.assertIn("are free", p.stderr)
        self.refuse(74, "-q", sparse, self.out, says="are free")


class DryRun(Case):
    """Its exit codes are the job's own, but for too little space."""

    def both(self, code, *args, says=()):
        for more in ["--dry-run"], []:
            with self.subTest(args=args, more=more):
                self.refuse(code, "-q", "--effort=fast", *more, *args, says=says)

    def test_codes(self):
        model = self.model()
        rank = ["--rank=0", "--world=2"]
        self.both(64, *rank, "--calibration=random", model, self.out, says="one process")
        self.both(64, "--finalize", "--world=2", "--calibration=random", model, self.out,
                  says="one process")
        self.both(64, "--mem-limit=1K", model, self.out, says="--mem-limit: 1000 bytes")
        self.both(66, "--check-tensor=ernie.norm.weight", model, self.out, says="out")
        self.both(64, "--check-tensor=ernie.none", model, self.out, says="ernie.none")
        self.both(73, "--resume", model, self.out)
        self.both(75, "--finalize", model, self.out)

    def test_statistics_alone(self):
        """One process, at once, and for real: what else is asked for would be ignored."""
        model, stats = self.model(), self.tmp / "stats"
        few = ["--calibration=random:128", "--calibration-window=64", "--save-stats", stats]
        for more in (["--rank=0", "--world=2"], ["--world=2", "--finalize"], ["--finalize"],
                     ["--resume"], ["--overwrite"], ["--dry-run"],
                     ["--check-tensor=ernie.norm.weight"]):
            with self.subTest(more=more):
                self.refuse(64, *few, *more, model, says="no OUTPUT")
                self.assertFalse(stats.exists())
        self.run_tool("-q", *few, "--rank=0", "--world=1", model)

    def test_check_tensor(self):
        model = self.model()
        self.run_tool("-q", "--effort=fast", model, self.out)
        before = digest(self.out)
        for more in ["--dry-run"], []:
            p = self.run_tool("--check-tensor=ernie.norm.weight", *more, model, self.out)
            self.assertEqual("the same" in p.stdout, not more)
        os.unlink(self.out / "model.safetensors")
        for more in ["--dry-run"], []:
            self.run_tool("--check-tensor=ernie.norm.weight", *more, model, self.out, code=65)
        self.assertNotEqual(digest(self.out), before)


class Refusals(Case):
    def test_options(self):
        model = self.model()
        for more, says in [
            (["--scheme=wint3"], "one of wint2|wint4|wint8|block_wise_fp8|bf16"),
            (["--w4-end-layer=2"], "w4-end-layer 2 is outside -1..1"),
            (["--w4-end-layer=-2"], "w4-end-layer -2 is outside -1..1"),
            (["--w4-end-layer=x"], "w4-end-layer"),
            (["--scheme=wint8", "--w4-end-layer=0"], "w4-end-layer"),
            (["--scheme=wint4", "--w4-end-layer=0"], "w4-end-layer"),
            (["--names=torch"], "only with scheme bf16"),
            (["--scheme=bf16", "--names=jax"], "paddle|torch"),
            (["--shard-size=1Q"], "a size in bytes"),
            (["--gain=9"], "0 to 8"),
            (["--effort=bext"], "fast|normal|best"),
            (["--k-order=torch"], "fastdeploy|plain"),
            (["--weight-only-rule=tpu"], "gpu|cpu"),
            (["--dryrun"], "--dry-run"),
            (["--rank=1"], "without --world"),
            (["-j0"], "threads"),
            (["third"], "too many"),
        ]:
            with self.subTest(options=more):
                self.refuse(64, *more, model, self.out, says=says)
        self.refuse(64, model, says="OUTPUT")
        self.refuse(64, says="INPUT")

    def test_paths(self):
        model = self.model()
        self.refuse(66, self.tmp / "none", self.out, says="none")
        self.refuse(64, model, model, says="input")
        self.refuse(64, model, model / "inside", says="inside")
        self.refuse(64, model, self.tmp, says="inside")
        (self.tmp / "link").symlink_to(model)
        self.refuse(64, model, self.tmp / "link", says="input")
        self.refuse(73, model, self.out / "deep", says="no such directory")
        file = self.tmp / "file"
        file.write_text("x")
        self.run_tool(model, file, code=73)
        self.assertEqual(file.read_text(), "x")
        self.assertEqual(sorted(os.listdir(model)), ["config.json", "model.safetensors"])

    def test_missing_parts(self):
        model = self.model()
        os.rename(model / "config.json", self.tmp / "config.json")
        self.refuse(65, model, self.out, says="config.json")
        os.rename(self.tmp / "config.json", model / "config.json")
        os.rename(model / "model.safetensors", self.tmp / "kept")
        self.refuse(65, model, self.out, says="model.safetensors")
        name = "ernie.layers.1.mlp.experts.1.down_proj.weight"
        other = write_model(self.tmp / "in2", drop=[name])
        self.refuse(65, other, self.out, says="ernie.layers.1.mlp.experts.1.down_proj")

    def test_shape_against_config(self):
        model = self.model(edit=lambda c: c.update(hidden_size=256))
        self.refuse(65, model, self.out, says="config.json asks for [32, 256]")

    def test_sizes_that_divide_by_zero(self):
        """An up_gate of one column, and no width in config.json to hold it against."""
        model = write_model(self.tmp / "in3", CONFIG | {"moe_num_shared_experts": 1})
        config = json.loads((model / "config.json").read_text())
        del config["moe_intermediate_size"]
        (model / "config.json").write_text(json.dumps(config))
        raw = (model / "model.safetensors").read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        head = json.loads(raw[8:8 + size])
        at, data = 0, b""
        for name, t in sorted(head.items()):
            if name == "__metadata__":
                continue
            begin, end = t["data_offsets"]
            if "experts.0.up_gate" in name:
                t["shape"], end = [128, 1], begin + 256
            data += raw[8 + size + begin:8 + size + end]
            t["data_offsets"] = [at, at + end - begin]
            at += end - begin
        text = json.dumps(head).encode()
        (model / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
        self.refuse(65, model, self.out, says="even number")

    def test_keys_that_fastdeploy_needs(self):
        for key in "intermediate_size", "moe_num_experts", "moe_intermediate_size":
            model = write_model(self.tmp / key, edit=lambda c: c.pop(key))
            self.refuse(65, model, self.out, says=f'"{key}" is missing')

    def test_explicit_zero_is_no_gap(self):
        model = self.model(edit=lambda c: c.update(moe_num_experts=0))
        self.refuse(65, model, self.out, says='"moe_num_experts" is 0')

    def test_input_is_a_file(self):
        model = self.model()
        self.refuse(66, model / "config.json", self.out, says="not a directory")

    def test_shard_that_links_into_the_output(self):
        """--overwrite would remove the weights it is about to read."""
        self.run_tool("-q", "--effort=fast", self.model(), self.out)
        before = digest(self.out)
        model = write_model(self.tmp / "in4")
        (model / "model.safetensors").unlink()
        os.rename(self.tmp / "in" / "model.safetensors", self.out / "bf16.safetensors")
        os.symlink(self.out / "bf16.safetensors", model / "model.safetensors")
        self.run_tool("-q", "--effort=fast", "--overwrite", model, self.out, code=64)
        os.unlink(self.out / "bf16.safetensors")
        self.assertEqual(digest(self.out), before)

    def test_any_file_that_links_into_the_output(self):
        """So would the rest of it go: what is carried, the index, config.json itself."""
        first = self.model()
        (first / "merges.txt").write_text("a b")
        self.run_tool("-q", "--effort=fast", first, self.out)
        names = {name: "model.safetensors" for name, _, _ in shapes(CONFIG)}
        (self.out / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
        before = digest(self.out)
        for i, name in enumerate(["config.json", "merges.txt", "model.safetensors.index.json",
                                  "ccq_recipe.json"]):
            model = write_model(self.tmp / f"links{i}")
            (model / name).unlink(missing_ok=True)
            (model / name).symlink_to(pathlib.Path("..") / "hop" / name)
            if not (self.tmp / "hop").exists():
                (self.tmp / "hop").symlink_to(self.out)
            with self.subTest(name=name):
                p = self.run_tool("-q", "--effort=fast", "--overwrite", model, self.out, code=64)
                self.assertIn(name + ": is a link into the output", p.stderr)
                self.assertEqual(digest(self.out), before)

    def test_two_rope_thetas(self):
        """Readers differ in which one they take."""
        nested = {"rope_theta": 10000.0, "rope_type": "default"}
        model = self.model(edit=lambda c: c.update(rope_parameters=nested))
        self.refuse(65, model, self.out, says=["rope_theta", "500000", "10000"])

    def test_number_as_text(self):
        model = self.model(edit=lambda c: c.update(rope_theta="500000"))
        self.refuse(65, model, self.out, says='"rope_theta" is not a number')

    def test_unknown_matrix_is_named(self):
        model = self.model()
        raw = (model / "model.safetensors").read_bytes()
        size = struct.unpack("<Q", raw[:8])[0]
        head = json.loads(raw[8:8 + size])
        head["ernie.strange"] = {"dtype": "I64", "shape": [1],
                                 "data_offsets": [len(raw) - 8 - size, len(raw) - size]}
        text = json.dumps(head).encode()
        (model / "model.safetensors").write_bytes(
            struct.pack("<Q", len(text)) + text + raw[8 + size:] + bytes(8))
        self.refuse(65, model, self.out, says=["ernie.strange", "I64"])

    def test_no_rope_theta(self):
        self.refuse(65, self.model(edit=lambda c: c.pop("rope_theta")), self.out, says="rope_theta")

    def test_model_without_experts(self):
        dense = {k: v for k, v in CONFIG.items() if not k.startswith("moe_")}
        model = self.model(config={"moe_num_experts": 0},
                           edit=lambda c: [c.pop(k) for k in list(c) if k not in dense])
        self.refuse(64, model, self.out, says="--scheme wint8")
        self.run_tool("-q", "--scheme=wint8", model, self.out)
        made = json.loads((self.out / "config.json").read_text())
        self.assertEqual(made["quantization_config"], {
            "quantization": "wint8", "dense_quant_type": "wint8", "is_quantized": True})
        self.assertEqual(made["architectures"], ["Ernie4_5_ForCausalLM"])

    def test_quantized_input(self):
        self.run_tool("-q", "--effort=fast", self.model(), self.tmp / "first")
        self.refuse(65, self.tmp / "first", self.out, says="quantized already")

    def test_alignment_lists_all(self):
        """Every broken rule has its line, before anything is written."""
        model = self.model(config={"moe_intermediate_size": 72, "intermediate_size": 96})
        text = self.refuse(65, "--w4-end-layer=0", model, self.out)
        for name, message in [
            ("layers.0.mlp.down_proj", "K=96 is not a multiple of 64: the interleaved layout"),
            ("layers.1.mlp.experts.0.down_proj", "K=72 is not a multiple of 128: wint2 packs"),
            ("layers.1.mlp.experts.1.down_proj", "K=72 is not a multiple of 128: wint2 packs"),
        ]:
            self.assertIn(f"ernie.{name}: {message}", text)
        text = self.refuse(65, "--dry-run", "--w4-end-layer=1", model, self.out)
        self.assertEqual(text.count("K=72 is not a multiple of 64"), 2)

    def test_narrow(self):
        model = self.model(config={"moe_intermediate_size": 128, "head_dim": 2})
        text = self.refuse(65, model, self.out)
        self.assertIn("qkv_proj: N=8 is not a multiple of 16", text)
        self.assertIn("o_proj: K=4 is not a multiple of 64", text)

    def nonfinite(self, model, dtype, name, index, element):
        """Infinities, quiet and signalling NaN, each with both signs."""
        size, form = BITS[dtype] // 8, "<I" if dtype == "F32" else "<H"
        top = {"BF16": 0x7F80, "F16": 0x7C00, "F32": 0x7F800000}[dtype]
        quiet = {"BF16": 0x40, "F16": 0x200, "F32": 0x400000}[dtype]
        with open(model / "model.safetensors", "r+b") as f:
            head = struct.unpack("<Q", f.read(8))[0]
            at = 8 + head + json.loads(f.read(head))[name + ".weight"]["data_offsets"][0]
            f.seek(at + element * size)
            good = f.read(size)
            for bits in (p | sign << 8 * size - 1 for p in (top, top | quiet, top | 1)
                         for sign in (0, 1)):
                f.seek(at + element * size)
                f.write(struct.pack(form, bits))
                f.flush()
                with self.subTest(name=name, dtype=dtype, bits=hex(bits)):
                    says = [name, "1 non-finite values", "first at " + index]
                    self.refuse(65, "-q", "--effort=fast", model, self.out, says=says)
            f.seek(at + element * size)
            f.write(good)

    def test_nonfinite(self):
        cases = [("ernie.layers.1.mlp.experts.1.up_gate_proj", "[5,7]", 5 * 256 + 7),
                 ("ernie.layers.0.self_attn.o_proj", "[127,0]", 127 * 128),
                 ("ernie.embed_tokens", "[31,127]", 32 * 128 - 1), ("ernie.norm", "[0,3]", 3)]
        for dtype in "BF16", "F16", "F32":
            model = write_model(self.tmp / dtype, dtype=dtype)
            for name, index, element in cases:
                self.nonfinite(model, dtype, name, index, element)
            self.run_tool("-q", "--effort=fast", model, self.tmp / ("of" + dtype))  # good again
        bias = "ernie.layers.1.mlp.moe_statics.e_score_correction_bias"
        model = write_model(self.tmp / "bias", change={bias: {1: struct.pack("<f", float("nan"))}})
        self.refuse(65, "--effort=fast", model, self.out, says=[bias, "[0,1]"])

    def test_truncated_while_away(self):
        model = self.model()
        with open(model / "model.safetensors", "r+b") as f:
            f.truncate((model / "model.safetensors").stat().st_size - 2)
        self.refuse(65, model, self.out, says="model.safetensors")

    def test_file_size_limit(self):
        """A write that really fails: 74, and with more room the job goes on."""
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))
        model = self.model()
        p = self.run_tool(model, self.out, code=74, preexec_fn=limit)
        self.assertIn(" --resume ", p.stderr)
        self.assertEqual(os.listdir(self.out), [".ccq"])
        self.run_tool("--resume", model, self.out)
        self.assertIn("config.json", os.listdir(self.out))

    def test_answer_cannot_be_written(self):
        with open("/dev/full", "w") as full:
            p = subprocess.run([TOOL, "--json", "-q", "--effort=fast", str(self.model()),
                                str(self.out)], stdout=full, stderr=subprocess.PIPE, text=True)
        self.assertEqual(p.returncode, 74)
        self.assertIn("standard output", p.stderr)
        self.assertTrue((self.out / "config.json").exists())  # the work itself is done

    def test_signal(self):
        """SIGINT and SIGTERM: 75, and the job goes on with --resume."""
        for number in signal.SIGINT, signal.SIGTERM:
            p = subprocess.Popen([TOOL, "-j1", "--w4-end-layer=-1", str(MICRO), str(self.out)],
                                 stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for line in p.stderr:
                if "-> wint2" in line:
                    p.send_signal(number)
                    break
            _, text = p.communicate()
            self.assertEqual(p.returncode, 75, text)
            self.assertIn("interrupted", text)
            self.assertIn(" --resume ", text)
            self.assertEqual(os.listdir(self.out), [".ccq"])
            shutil.rmtree(self.out)


class Extremes(Case):
    NAMES = ["ernie.layers.1.mlp.experts.0.up_gate_proj", "ernie.layers.0.mlp.up_gate_proj",
             "ernie.layers.1.mlp.experts.1.down_proj"]

    def column(self, name, value):
        n = 128 if "down" in name else 256
        return {name + ".weight": {k * n + 3: value * (1 + k % 5) for k in range(128)}}

    def test_tiny_and_huge(self):
        """Encoded or refused with the column, never a crash or a NaN."""
        for value in 1e-30, 1e-38, 1e-41, 1e20, 1e30, 1e37, 3e37, 6e37:
            for name in self.NAMES:
                for end in ("0", "1"):
                    with self.subTest(value=value, name=name, w4_end=end):
                        shutil.rmtree(self.out, ignore_errors=True)
                        shutil.rmtree(self.tmp / "in", ignore_errors=True)
                        self.one(value, name, end)

    def one(self, value, name, end):
        model = self.model(change=self.column(name, value))
        p = subprocess.run([TOOL, "-q", "--effort=fast", "--w4-end-layer=" + end, str(model),
                            str(self.out)], capture_output=True, text=True)
        if value <= 1e30:
            self.assertEqual(p.returncode, 0, p.stderr)
        if p.returncode == 0:
            self.finite_scales()
            return
        self.assertEqual(p.returncode, 65, p.stderr)
        self.assertIn(f"{name}: column 3: ", p.stderr)
        self.assertFalse(self.out.exists())

    def finite_scales(self):
        table, data = read_header(self.out / "model.safetensors")
        for name, t in table.items():
            a, b = t["data_offsets"]
            if t["dtype"] == "BF16" and not name.endswith(".weight"):
                top = 15 * 32 if name.endswith("super_scales") else 1
                for raw in struct.iter_unpack("<H", data[a:b]):
                    x = struct.unpack("<f", struct.pack("<I", raw[0] << 16))[0]
                    self.assertLess(abs(x) * top, 3.4e38, name)

    def test_largest_bf16(self):
        model = self.model(change=self.column(self.NAMES[0], 6.8e37))  # times 5: near the top
        says = [self.NAMES[0] + ": column 3", "finite"]
        self.refuse(65, "-q", "--effort=fast", "--w4-end-layer=0", model, self.out, says=says)

    def test_zero_columns(self):
        name = self.NAMES[0]
        model = self.model(change=self.column(name, 0.0))
        out = json.loads(self.run_tool("--json", "--effort=fast", "--w4-end-layer=0", model,
                                       self.out).stdout)
        self.assertEqual(out["zero_columns"], 1)

    def test_all_zero(self):
        name = self.NAMES[0]
        model = self.model(change={name + ".weight": {k: 0.0 for k in range(128 * 256)}})
        out = json.loads(self.run_tool("--json", "--effort=fast", "--w4-end-layer=0", model,
                                       self.out).stdout)
        entry = [t for t in out["tensors"] if t["name"] == name][0]
        self.assertNotIn("sqnr_db", entry)
        self.assertEqual(entry["zero_columns"], 256)


class Output(Case):
    def test_overwrite(self):
        model = self.model()
        self.out.mkdir()
        self.run_tool("-q", "--effort=fast", model, self.out)  # an empty one is taken
        self.run_tool("-q", "--effort=fast", model, self.out, code=73)
        first = digest(self.out)
        for name in "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors":
            (self.out / name).write_bytes(b"old")
        self.run_tool("-q", "--effort=fast", "--overwrite", model, self.out)
        self.assertEqual(digest(self.out), first)

    def test_overwrite_takes_the_old_side_files_along(self):
        """A tokenizer file of the old model would change what the new one says."""
        model = self.model()
        (model / "added_tokens.json").write_text("{}")
        self.run_tool("-q", "--effort=fast", model, self.out)
        (self.out / "notes-of-mine.log").write_text("stays")
        (model / "added_tokens.json").unlink()
        self.run_tool("-q", "--effort=fast", "--overwrite", model, self.out)
        self.assertFalse((self.out / "added_tokens.json").exists())
        self.assertTrue((self.out / "notes-of-mine.log").exists())

    def test_nothing_is_followed_out_of_the_output(self):
        """A work directory that leads elsewhere is none."""
        model, precious = self.model(), self.tmp / "precious"
        for kept in precious / "thesis.txt", precious / "stage" / "config.json":
            kept.parent.mkdir(exist_ok=True)
            kept.write_text("years of work")
        for name in ".ccq", ".ccq/stage", ".ccq/stage/":
            self.out.mkdir()
            place = self.out / name
            place.parent.mkdir(exist_ok=True)
            place.write_text("x") if name.endswith("/") else place.symlink_to("../" * (
                1 + name.count("/")) + "precious")
            for more in ([], ["--overwrite"], ["--resume"], ["--rank=0", "--world=2"],
                         ["--finalize"]):
                with self.subTest(name=name, more=more):
                    p = self.run_tool("-q", "--effort=fast", *more, model, self.out, code=73)
                    self.assertIn("where a directory is to be", p.stderr)
            self.assertEqual(sorted(p.name for p in precious.rglob("*")),
                             ["config.json", "stage", "thesis.txt"])
            shutil.rmtree(self.out)

    def test_overwrite_needs_a_checkpoint(self):
        self.out.mkdir()
        (self.out / "thesis.txt").write_text("years of work")
        self.run_tool("-q", "--overwrite", self.model(), self.out, code=73)
        self.assertEqual(os.listdir(self.out), ["thesis.txt"])

    def test_failed_overwrite_keeps_the_old(self):
        self.run_tool("-q", "--effort=fast", self.model(), self.out)
        before = digest(self.out)
        bad = write_model(self.tmp / "bad", change={"ernie.norm.weight": {0: b"\xc0\x7f"}})
        self.run_tool("-q", "--effort=fast", "--overwrite", bad, self.out, code=65)
        self.assertEqual(digest(self.out), before)

    def test_carried_files(self):
        model = self.model()
        carried = ["tokenizer.model", "tokenizer_config.json", "merges.txt", "README.md",
                   "chat_template.jinja", "modeling.py"]
        left = ["model.safetensors.index.json.bak", "weights.bin", "x.pdparams", ".hidden.json",
                "pytorch_model.bin.index.json", "ccq_manifest.json", "old.safetensors"]
        for name in carried + left:
            (model / name).write_text("content of " + name)
        (model / "folder.txt").mkdir()
        self.run_tool("-q", "--effort=fast", model, self.out)
        made = set(os.listdir(self.out))
        self.assertEqual(made, set(carried) | {"config.json", "model.safetensors",
                                               "model.safetensors.index.json", "ccq_recipe.json",
                                               "ccq_manifest.json"})
        for name in carried:
            self.assertEqual((self.out / name).read_text(), "content of " + name)

    def test_config(self):
        def edit(c):
            c["rope_parameters"] = {"rope_theta": 500000.0, "rope_type": "default"}
            del c["rope_theta"], c["dtype"], c["hidden_act"], c["moe_num_shared_experts"]
            c.update(torch_dtype="bfloat16", transformers_version="5.0.0", extra=[1, {"a": 0.1}],
                     tie_word_embeddings=False, quantization_config=None, remove_tail_layer=True)
        model = self.model(edit=edit)
        p = self.run_tool("--json", "--effort=fast", "--w4-end-layer=0", model, self.out)
        text = (self.out / "config.json").read_text()
        made, changes = json.loads(text), json.loads(p.stdout)["config_changes"]
        self.assertNotIn("torch_dtype", made)
        self.assertNotIn("transformers_version", made)
        for key, value in [("dtype", "bfloat16"), ("rope_theta", 500000.0), ("hidden_act", "silu"),
                           ("moe_num_shared_experts", 0), ("tie_word_embeddings", True),
                           ("moe_use_aux_free", True), ("remove_tail_layer", True),
                           ("extra", [1, {"a": 0.1}]), ("moe_layer_start_index", 1)]:
            self.assertEqual(made[key], value, key)
        for key in ("torch_dtype", "transformers_version", "dtype", "rope_theta", "hidden_act",
                    "moe_num_shared_experts", "tie_word_embeddings", "moe_use_aux_free",
                    "quantization_config"):
            self.assertTrue(any(c.startswith(key + " ") for c in changes), key)
        self.assertFalse(any(c.startswith("moe_layer_start_index") for c in changes))
        self.assertIn("remove_tail_layer", p.stderr)
        block = made["quantization_config"]
        self.assertEqual(block["moe_quant_type"], block["moe_quant_config"]["quant_type"])
        self.assertEqual(block["moe_quant_config"], {
            "quant_type": "w4w2",
            "moe_w4_quant_config": {"quant_type": "wint4", "quant_granularity": "per_channel",
                                    "quant_start_layer": 0, "quant_end_layer": 0},
            "moe_w2_quant_config": {"quant_type": "wint2", "quant_granularity": "pp_acc",
                                    "quant_group_size": 64, "quant_start_layer": 1,
                                    "quant_end_layer": 1}})

    def test_explicit_aux_free(self):
        model = self.model(edit=lambda c: c.update(moe_use_aux_free=False))
        p = self.run_tool("--effort=fast", model, self.out)
        self.assertIn("moe_use_aux_free is false", p.stderr)
        self.assertIs(json.loads((self.out / "config.json").read_text())["moe_use_aux_free"], False)

    def test_line_of_a_tensor(self):
        p = self.run_tool("--effort=fast", "--w4-end-layer=0", self.model(), self.out)
        line = re.compile(r"^\[ +\d+/\d+\] \S+  \[\d+(x\d+)?\] (bf16|f32) -> \w+  "
                          r"\d+\.\d -> \d+\.\d [KMG]iB(  SQNR \d+\.\d\d dB)?$")
        lines = [x for x in p.stderr.splitlines() if x.startswith("[")]
        self.assertEqual(len(lines), 18)
        for x in lines:
            self.assertRegex(x, line)
        self.assertIn("FD_USE_MACHETE=0", p.stdout)
        self.assertNotIn("\033", p.stderr)

    def test_names_of_places(self):
        """A newline, an escape, a byte that is no text: one line each, nothing for a terminal."""
        odd = 'a\n\x1b[1m"\\'
        shown = 'a\\n\\x1b[1m\\"\\\\'
        model, out = self.tmp / odd, self.tmp / ("to" + odd)
        self.model().rename(model)

        def look(p, count=None):
            for text in p.stderr, p.stdout:
                self.assertNotIn("\x1b", text)
            self.assertNotIn(odd[:2], p.stderr + p.stdout)
            if count:
                self.assertEqual(len(p.stderr.splitlines()), count, p.stderr)
            return p
        p = look(self.run_tool("--effort=fast", model, out))
        self.assertIn(f"{self.tmp}/{shown} -> {self.tmp}/to{shown}", p.stderr)
        self.assertIn(f"{self.tmp}/to{shown}: ", p.stdout)
        self.assertIn(f"{self.tmp}/to{shown}",
                      look(self.run_tool("-q", model, out, code=73), 1).stderr)
        for more, code in [([model, model / "x"], 64), ([self.tmp / ("no" + odd), self.out], 66),
                           ([out, self.out], 65), ([model, self.out, odd], 64),
                           (["--recipe", odd, model, self.out], 66),
                           (["--stats", odd, model, self.out], 66),
                           (["--calibration", odd, model, self.out], 66),
                           (["--tensor-type", odd + "=wint8", model, self.out], 64)]:
            with self.subTest(more=more):
                look(self.run_tool(*more, code=code), 1)
        (model / "config.json").write_text("{}")
        look(self.run_tool(model, self.out, code=65), 1)

    def test_quiet(self):
        p = self.run_tool("-q", "--effort=fast", self.model(), self.out)
        self.assertEqual((p.stdout, p.stderr), ("", ""))


if __name__ == "__main__":
    TOOL = os.path.abspath(sys.argv.pop(1))
    print(f"seed: CCQ_SEED={SEED}")
    unittest.main(verbosity=1)
