#!/usr/bin/env python3
"""ccq-quantize --transform from outside: bytes, recipe, ccq-inspect, ccq-run, refusals.

usage: test_transform_cli.py CCQ-QUANTIZE CCQ-INSPECT CCQ-RUN TEST_TRANSFORM [unittest arguments]

TEST_TRANSFORM runs models and their transformed tensors in fp32. Standard library only;
small models are written by test_quantize_cli.py.
"""
import collections
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
from test_quantize_cli import MICRO, SHARED, Case, digest, write_model  # noqa: E402
from test_schemes_cli import data_of, recast, tensors_of  # noqa: E402

INSPECT = RUN = LOGITS = ""
BOTH = "rotate,permute"
# 640 = 20 * 32; tied, as released models are; with shared experts
TIED = {"hidden_size": 640, "num_hidden_layers": 3, "moe_num_experts": 3, "moe_k": 2,
        "moe_num_shared_experts": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "tie_word_embeddings": True}


def document(*args):
    p = subprocess.run([*map(str, args)], capture_output=True, text=True)
    if p.returncode:
        raise AssertionError(p.stderr)
    return json.loads(p.stdout)


def by_type(model, against):
    """type -> [least, mean] SQNR in dB; equal tensors are left out."""
    found = collections.defaultdict(list)
    for t in document(INSPECT, "--json", "--against", against, model)["against"]:
        if "sqnr_db" in t:
            found[t["type"]].append(t["sqnr_db"])
    return {k: [min(v), sum(v) / len(v)] for k, v in found.items()}


def count_different(model, against):
    return sum(t.get("rel_l2", 1) != 0
               for t in document(INSPECT, "--json", "--against", against, model)["against"])


class Transform(Case):
    def quantize(self, name, *args, source=MICRO):
        out = self.tmp / name
        self.run_tool("-q", "--effort=fast", *args, source, out)
        return out

    def verify(self, *models):
        for model in models:
            p = subprocess.run([INSPECT, "--verify=deep", str(model)], capture_output=True,
                               text=True)
            self.assertEqual(p.returncode, 0, p.stdout + p.stderr)

    def config(self, out):
        return json.loads((out / "config.json").read_text())

    def recipe(self, out):
        return json.loads((out / "ccq_recipe.json").read_text())

    def tied(self, **more):
        return write_model(self.tmp / "tied", dict(TIED, **more))


class Bytes(Transform):
    def test_threads_and_isa(self):
        for scheme in ("wint2", "wint4", "wint8", "block_wise_fp8", "bf16"):
            seen = set()
            for i, more in enumerate(("-j1", "-j2", "-j7", "--cpu-isa=c", "--cpu-isa=c,avx2")):
                out = self.quantize(f"{scheme}{i}", "--scheme", scheme, f"--transform={BOTH}", more)
                seen.add(digest(out))
            self.assertEqual(len(seen), 1, scheme)
            self.verify(out)

    def test_each_is_another_model(self):
        seen = {str(tensors_of(self.quantize(t, f"--transform={t}"))[0])
                for t in ("none", "rotate", "permute", BOTH)}
        self.assertEqual(len(seen), 4)

    def test_default_is_none(self):
        self.assertEqual(digest(self.quantize("a")), digest(self.quantize("b", "--transform=none")))
        self.assertNotIn("transform", self.recipe(self.tmp / "a"))

    def test_said(self):
        for t, said in (("permute", "first: permute\n"), (BOTH, "first: rotate, permute\n")):
            p = self.run_tool("--dry-run", f"--transform={t}", MICRO, self.out)
            self.assertIn(said, p.stderr)

    def test_order_of_names(self):
        self.assertEqual(digest(self.quantize("a", f"--transform={BOTH}")),
                         digest(self.quantize("b", "--transform", "permute,rotate")))

    def test_memory_limit(self):
        """The least memory that the plan names is enough, and leaves no trace."""
        whole = self.quantize("a", f"--transform={BOTH}")
        args = ["--effort=fast", f"--transform={BOTH}", "-j2"]
        plan = document(base.TOOL, "--json", "--dry-run", *args, MICRO, self.tmp / "x")
        limit = plan["memory_least_bytes"]
        self.assertEqual(digest(whole), digest(self.quantize("b", *args, f"--mem-limit={limit}")))
        self.refuse(64, *args, f"--mem-limit={limit - 1}", MICRO, self.out, says=str(limit))


class Recipe(Transform):
    def test_repeats(self):
        first = self.quantize("a", f"--transform={BOTH}")
        recipe = self.recipe(first)
        self.assertEqual(recipe["transform"], ["rotate", "permute"])
        self.assertEqual(recipe["transform_seed"], 1)
        again = self.quantize("b", "--recipe", first / "ccq_recipe.json")
        self.assertEqual(digest(first), digest(again))

    def test_seed(self):
        first = self.quantize("a", "--transform=rotate")
        path = self.tmp / "recipe.json"
        path.write_text(json.dumps(dict(self.recipe(first), transform_seed=2)))
        other = self.quantize("b", "--recipe", path)
        self.assertNotEqual(tensors_of(first)[0], tensors_of(other)[0])
        self.assertEqual(self.recipe(other)["transform_seed"], 2)
        self.assertLess(abs(by_type(other, MICRO)["wint8"][1] - by_type(first, MICRO)["wint8"][1]),
                        0.3)

    def test_option_wins(self):
        first = self.quantize("a", f"--transform={BOTH}")
        plain = self.quantize("b", "--recipe", first / "ccq_recipe.json", "--transform=none")
        self.assertEqual(tensors_of(plain)[0], tensors_of(self.quantize("c"))[0])

    def test_bad(self):
        good = self.recipe(self.quantize("a", "--transform=rotate"))
        path = self.tmp / "recipe.json"
        for key, value in (("transform", "rotate"), ("transform", ["turn"]), ("transform", [1]),
                           ("transform", ["rotate", "rotate"]), ("transform_seed", -1),
                           ("transform_seed", 2 ** 60), ("transform_seed", "1")):
            path.write_text(json.dumps(dict(good, **{key: value})))
            self.refuse(65, "--recipe", path, MICRO, self.out, says=f'"{key}"')


class Inspect(Transform):
    def test_against(self):
        """The same errors as without, per type; copies are those of one rounding."""
        for scheme in ("wint2", "wint4", "wint8", "block_wise_fp8"):
            plain = by_type(self.quantize(scheme, "--scheme", scheme), MICRO)
            for t in ("rotate", "permute", BOTH):
                turned = by_type(self.quantize(f"{scheme}-{t}", "--scheme", scheme,
                                               f"--transform={t}"), MICRO)
                for kind in set(plain) - {"bf16"}:
                    self.assertLess(abs(plain[kind][1] - turned[kind][1]), 0.5, (scheme, t, kind))
                if "rotate" in t:
                    self.assertGreater(turned["bf16"][0], 50)

    def test_bf16(self):
        """A permuted model is the source's numbers; a turned one, rounded once."""
        self.assertEqual(count_different(self.quantize("a", "--scheme=bf16",
                                                       "--transform=permute"), MICRO), 0)
        least = by_type(self.quantize("b", "--scheme=bf16", f"--transform={BOTH}"), MICRO)["bf16"]
        self.assertGreater(least[0], 50)
        self.assertLess(least[1], 60)

    def test_recipe_decides(self):
        """What --against does comes from the recipe alone."""
        for t in ("rotate", "permute"):
            out = self.quantize(t, f"--transform={t}")
            recipe = self.recipe(out)
            del recipe["transform"]
            (out / "ccq_recipe.json").write_text(json.dumps(recipe))
            self.assertLess(by_type(out, MICRO)["wint4"][1], 3)

    def test_json_sizes(self):
        """A dry run knows the new head, to the byte."""
        model = self.tied()
        args = ["--json", "--w4-end-layer=-1", f"--transform={BOTH}", model, self.out]
        plan = document(base.TOOL, "--dry-run", *args)
        done = document(base.TOOL, "--effort=fast", *args)
        for key in ("bytes_by_kind", "tensor_bytes", "parameters"):
            self.assertEqual(plan[key], done[key])
        self.assertEqual(plan["bytes_by_kind"]["lm_head bf16"], 2 * 640 * 32)
        size = sum(bytes_of for bytes_of in (
            len(data_of(self.out, name)) for name in tensors_of(self.out)[0]))
        self.assertEqual(size, plan["tensor_bytes"])


class Tied(Transform):
    def test_own_head(self):
        model = self.tied()
        out = self.quantize("a", "--w4-end-layer=0", f"--transform={BOTH}", source=model)
        self.verify(out)
        self.assertIs(self.config(out)["tie_word_embeddings"], False)
        self.assertEqual(tensors_of(out)[0]["lm_head.weight"][:2], ("BF16", [640, 32]))
        self.assertGreater(by_type(out, model)["bf16"][0], 50)

    def test_permute_leaves_it_tied(self):
        out = self.quantize("a", "--w4-end-layer=0", "--transform=permute", source=self.tied())
        self.assertIs(self.config(out)["tie_word_embeddings"], True)
        self.assertNotIn("lm_head.weight", tensors_of(out)[0])

    def test_norms_are_one(self):
        out = self.quantize("a", "--scheme=bf16", "--transform=rotate", source=self.tied())
        norms = [n for n in tensors_of(out)[0] if "norm" in n]
        self.assertEqual(len(norms), 7)
        for name in norms:
            self.assertEqual(set(struct.unpack("<640H", data_of(out, name))), {0x3f80}, name)

    def test_quantized_head(self):
        model = self.tied()
        out = self.quantize("a", "--w4-end-layer=0", "--transform=rotate", "--force",
                            "--tensor-type=lm_head=wint8", source=model)
        self.assertGreater(by_type(out, model)["wint8"][0], 38)

    def test_torch_names(self):
        """The torch tensors are the Paddle ones the other way round."""
        model = self.tied()
        out = [self.quantize(names, "--scheme=bf16", f"--names={names}", f"--transform={BOTH}",
                             source=model) for names in ("paddle", "torch")]
        self.assertIs(self.config(out[1])["tie_word_embeddings"], False)
        self.assertEqual(tensors_of(out[1])[0]["lm_head.weight"][:2], ("BF16", [32, 640]))
        back = self.quantize("back", "--scheme=bf16", source=out[1])
        self.assertEqual(tensors_of(back)[0], tensors_of(out[0])[0])

    def test_other_inputs(self):
        """Torch names, fp32 and rank directories are the same model."""
        model = self.tied()
        wanted = tensors_of(self.quantize("a", "--w4-end-layer=0", f"--transform={BOTH}",
                                          source=model))[0]
        inputs = [self.quantize("torch", "--scheme=bf16", "--names=torch", source=model),
                  self.quantize("ranks", "--scheme=bf16", "--tp=2", source=model),
                  recast(model, self.tmp / "f32", "F32")]
        for i, source in enumerate(inputs):
            out = self.quantize(f"out{i}", "--w4-end-layer=0", f"--transform={BOTH}", source=source)
            self.assertEqual(tensors_of(out)[0], wanted, source)


class Ranks(Transform):
    def test_slices(self):
        """Cut after the transform; neurons stay in their rank."""
        model = write_model(self.tmp / "in", {"moe_intermediate_size": 256,
                                              "intermediate_size": 256, "num_attention_heads": 4,
                                              "num_key_value_heads": 2})
        for scheme in ("wint2", "bf16"):
            more = ["--w4-end-layer=0"] if scheme == "wint2" else []
            outs = [self.quantize(f"{scheme}{n}", "--scheme", scheme, f"--transform={BOTH}",
                                  f"--tp={n}", *more, source=model) for n in (1, 2)]
            self.verify(*outs)
            found = [by_type(out, model) for out in outs]
            for kind in found[0]:
                self.assertLess(abs(found[0][kind][1] - found[1][kind][1]), 0.5, kind)
        cut = self.quantize("cut", "--scheme=bf16", "--transform=permute", "--tp=2", source=model)
        self.assertEqual(count_different(cut, model), 0)
        joined = self.quantize("joined", "--scheme=bf16", source=cut)
        whole = self.quantize("whole", "--scheme=bf16", "--transform=permute", source=model)
        self.assertNotEqual(tensors_of(joined)[0], tensors_of(whole)[0])


class Run(Transform):
    def distance(self, model, baseline, *args):
        return document(RUN, "--json", "--baseline", baseline, "--tokens",
                        baseline / "tokens_test.npy", "--window", 64, *args, model)["statistics"]

    def test_stored_as_bf16(self):
        """Close to the original: what is left is one rounding in another basis, which
        may tip a router that was undecided."""
        small = self.tmp / "base"
        shutil.copytree(MICRO, small)
        raw = (MICRO / "tokens_test.npy").read_bytes()
        size = 10 + struct.unpack("<H", raw[8:10])[0]
        header = raw[10:size].decode().split("'shape'")[0] + "'shape': (1024,), }"
        header = header.ljust(size - 11) + "\n"
        (small / "tokens_test.npy").write_bytes(raw[:10] + header.encode() +
                                                raw[size:size + 4096])
        for t, limit in (("permute", 1e-5), ("rotate", 0.003), (BOTH, 0.003)):
            out = self.quantize(t, "--scheme=bf16", f"--transform={t}")
            s = self.distance(out, small, "--numerics", "exact")
            self.assertLess(s["mean_dlogit_over_rms"], limit, t)
            self.assertLess(s["mean_kld"], 2e-4, t)
            self.assertGreater(s["same_top"], 0.99, t)
            self.assertEqual(t == "permute", s["max_dlogit_over_rms"] < 1e-4)

    def test_fp32_logits(self):
        """Before any rounding: a tied model with shared experts, of 20 * 2^k channels."""
        p = subprocess.run([LOGITS, str(self.tied())], capture_output=True, text=True)
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertEqual(p.stdout.count("max |dlogit|/rms"), 3)

    def test_fp32_logits_of_decoded(self):
        """The weights of quantized models, as BF16."""
        for name in ("ernie-micro", "ernie-mini"):
            model = SHARED / "models" / name / "wint2"
            if not model.exists():
                self.skipTest("no shared models")
            out = self.quantize(name, "--scheme=bf16", source=model)
            p = subprocess.run([LOGITS, str(out)], capture_output=True, text=True)
            self.assertEqual(p.returncode, 0, p.stderr)


class Refusals(Transform):
    def test_values(self):
        for value in ("", "none,rotate", "rotate,", ",permute", "rotate permute", "rotate,rotate",
                      "Rotate", "rotat", "hadamard"):
            self.refuse(64, f"--transform={value}", MICRO, self.out, says="--transform")
        self.refuse(64, MICRO, self.out, "--transform")

    def test_hidden_size(self):
        model = write_model(self.tmp / "in", {"hidden_size": 384})
        self.refuse(64, "--transform=rotate", model, self.out,
                    says=["hidden_size 384", "20 * 2^k"])
        self.run_tool("-q", "--w4-end-layer=0", "--transform=permute", model, self.out)

    def test_quantized_input(self):
        model = self.quantize("a")
        for scheme in ("bf16", "wint2"):
            self.refuse(65, "--transform=permute", f"--scheme={scheme}", model, self.out,
                        says="quantized")

    def test_not_finite(self):
        """Weights that are finite, and sums of them that are not."""
        name = "ernie.layers.0.self_attn.o_proj.weight"
        model = write_model(self.tmp / "in", change={name: {i: 3e38 for i in range(128)}})
        self.refuse(65, "--transform=rotate", "--w4-end-layer=0", model, self.out,
                    says=["o_proj", "not finite"])


if __name__ == "__main__":
    base.TOOL = os.path.abspath(sys.argv.pop(1))
    INSPECT = os.path.abspath(sys.argv.pop(1))
    RUN = os.path.abspath(sys.argv.pop(1))
    LOGITS = os.path.abspath(sys.argv.pop(1))
    print(f"seed: CCQ_SEED={base.SEED}")
    unittest.main(verbosity=1)
