#!/usr/bin/env python3
"""ccq-quantize --calibration and --stats: bytes, resume, memory, refusals.

usage: test_calibration_cli.py CCQ-QUANTIZE QUANTIZE-FAULTS CCQ-INSPECT [unittest arguments]

Standard library only.
"""
import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import subprocess
import sys
import time
import unittest

import test_quantize_cli as base
from test_quantize_cli import MICRO, Case, write_tokens

FAULTS = INSPECT = ""
SANITIZED = "ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ  # shadow memory counts
FEW = ["--calibration-tokens", "512", "--calibration-window", "128"]
RANDOM = ["--calibration", "random", *FEW]


def digest(path):
    """Every file of an output; the recipe's own bytes too."""
    sums = {p.name: hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(path.iterdir()) if p.is_file()}
    return sums


class Calibration(Case):
    def quantize(self, *args, out=None, **more):
        out = out or self.out
        shutil.rmtree(out, ignore_errors=True)
        p = self.run_tool("-q", "--json", *args, MICRO, out, **more)
        return json.loads(p.stdout), digest(out)

    def tokens(self, count=3000, top=2000, seed=3):
        rng = random.Random(seed)
        return write_tokens(self.tmp / f"t{seed}.npy", [rng.randrange(top) for _ in range(count)])

    def vocab(self):
        return json.loads((MICRO / "config.json").read_text())["vocab_size"]


class Bytes(Calibration):
    def test_threads_and_isa(self):
        """wint4 and wint2, everything left in: the C kernels only at effort fast, where
        they are slow enough."""
        tokens = self.tokens(top=self.vocab())
        args = ["--calibration", tokens, *FEW, "--w4-end-layer", "3"]
        _, want = self.quantize(*args, "-j1")
        for more in (["-j2"], ["-j7", "--cpu-isa", "c,avx2"], ["-j7"]):
            self.assertEqual(self.quantize(*args, *more)[1], want, more)
        if SANITIZED:  # kernels in C are looked at by test_feedback
            return
        args += ["--effort", "fast", "--w4-end-layer", "4"]
        _, want = self.quantize(*args, "-j7")
        self.assertEqual(self.quantize(*args, "-j2", "--cpu-isa", "c")[1], want, "c")

    def test_recipe_repeats_it(self):
        _, want = self.quantize(*RANDOM, "--calibration-seed", "5", "--calibration-h", "layer")
        recipe = self.tmp / "recipe.json"
        shutil.copy(self.out / "ccq_recipe.json", recipe)
        self.assertEqual(self.quantize("--recipe", recipe)[1], want)

    def test_best_is_random(self):
        data = ["--w4-end-layer", "-1", *FEW]
        _, best = self.quantize("--effort", "best", *data)
        _, rand = self.quantize("--calibration", "random", *data)
        self.assertEqual(best["model.safetensors"], rand["model.safetensors"])

    def test_spread_and_seed_matter(self):
        _, one = self.quantize(*RANDOM)
        _, two = self.quantize(*RANDOM, "--calibration-seed", "1")
        self.assertNotEqual(one["model.safetensors"], two["model.safetensors"])

    def test_verify(self):
        self.quantize(*RANDOM)
        subprocess.run([INSPECT, "--verify=deep", "-q", self.out], check=True,
                       stdout=subprocess.DEVNULL)

    def test_few_tokens_are_listed(self):
        report, _ = self.quantize("--calibration", "random:40", "--calibration-window", "40")
        names = report["experts_without_statistics"]
        self.assertTrue(names)
        self.assertEqual(len(names), sum(r["without_statistics"]
                                         for r in report["calibration_layers"]))
        for name in names:
            self.assertIn(".experts.", name)

    def test_context_of_text(self):
        """Text goes through the tokenizer; without one it is refused."""
        text = self.tmp / "text.txt"
        text.write_text("A text of a few words, over and over again. " * 200)
        p = subprocess.run([base.TOOL, "--version"], capture_output=True, text=True, check=True)
        if "sentencepiece: not built" in p.stdout:
            self.refuse(69, "--calibration", text, MICRO, self.out)
            return
        report, _ = self.quantize("--calibration", text, *FEW)
        self.assertEqual(report["recipe"]["calibration"], "tokens")


class Statistics(Calibration):
    def gather(self, name, *args):
        path = self.tmp / name
        path.unlink(missing_ok=True)
        self.run_tool("-q", *RANDOM, "--save-stats", path, *args, MICRO)
        return path

    def test_same_file_and_bytes(self):
        one, two = self.gather("one", "-j1"), self.gather("two", "-j3", "--cpu-isa", "c,avx2")
        self.assertEqual(one.read_bytes(), two.read_bytes())
        with_output = self.tmp / "three"
        self.quantize(*RANDOM, "--save-stats", with_output)
        self.assertEqual(one.read_bytes(), with_output.read_bytes())
        _, want = self.quantize("--stats", one, "-j1")
        self.assertEqual(self.quantize("--stats", one, "-j3", "--cpu-isa", "c,avx2")[1], want)
        for rank in (1, 0):
            shutil.rmtree(self.out) if rank == 1 else None
            self.run_tool("-q", "--stats", one, "--shard-size", "300K", "--world", "2", "--rank",
                          str(rank), MICRO, self.out)
        self.run_tool("-q", "--stats", one, "--shard-size", "300K", "--world", "2", "--finalize",
                      MICRO, self.out)
        got = digest(self.out)
        _, want = self.quantize("--stats", one, "--shard-size", "300K", out=self.tmp / "whole")
        self.assertEqual(got, want)

    def test_damaged(self):
        path = self.gather("s")
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 4
        path.write_bytes(raw)
        self.refuse(65, "--stats", path, MICRO, self.out, says="CRC-32")
        path.write_bytes(raw[:len(raw) // 2])
        self.refuse(65, "--stats", path, MICRO, self.out, says="TRUNCATED")

    def test_other_model(self):
        path = self.gather("s")
        self.refuse(65, "--stats", path, "--w4-end-layer", "-1", self.model(), self.out,
                    says="other sizes")

    def test_other_statistics_than_the_recipe(self):
        path = self.gather("s")
        self.quantize("--stats", path)
        recipe = self.tmp / "recipe.json"
        shutil.copy(self.out / "ccq_recipe.json", recipe)
        shutil.rmtree(self.out)
        other = self.gather("o", "--calibration-seed", "9")
        self.refuse(65, "--recipe", recipe, "--stats", other, MICRO, self.out, says="recipe")


    def test_options_that_the_file_decides(self):
        """Taken where they say the same, refused where they would do nothing."""
        for held, other in ("expert", "layer"), ("layer", "expert"):
            path = self.gather(held, "--calibration-h", held)
            for more in [], ["--dry-run"]:
                self.refuse(64, *more, "--stats", path, "--calibration-h", other, MICRO, self.out,
                            says=[f"--calibration-h {other}", f"by {held}"])
            self.run_tool("-q", "--dry-run", "--stats", path, "--calibration-h", held, MICRO,
                          self.out)
        for more in "--calibration-tokens=64", "--calibration-window=64", "--calibration-seed=1":
            self.refuse(64, "--stats", path, more, MICRO, self.out, says="not for --stats")

    def test_no_input_is_written_over(self):
        """Nor anything in a model, by whatever path: refused before a token runs."""
        few = ["-q", "--calibration-tokens", "128", "--calibration-window", "64"]
        model, other, linked = self.model(), self.tmp / "other", self.tmp / "linked"
        tokens = write_tokens(self.tmp / "t.npy", [i % 32 for i in range(200)])
        shutil.copytree(model, other)
        linked.mkdir()
        (self.tmp / "blobs").mkdir()
        blob = shutil.copy(model / "model.safetensors", self.tmp / "blobs" / "abc")
        shutil.copy(model / "config.json", linked)
        (linked / "model.safetensors").symlink_to(blob)
        (self.tmp / "hop").symlink_to(model)
        (self.tmp / "away").symlink_to(model / "config.json")
        (other / "rank0").mkdir()
        recipe = self.tmp / "recipe.json"
        recipe.write_text('{"recipe": 1}')

        def state():
            return {p: (p.is_symlink(), p.is_file() and (p.read_bytes(), p.stat().st_mtime_ns))
                    for p in self.tmp.rglob("*")}
        before = state()
        given = ["--calibration", tokens]
        for args, where in [
            (given, model / "model.safetensors"), (given, model / "new"),
            (given, model / "sub" / ".." / "new"), (given, self.tmp / "hop" / "new"),
            (given, self.tmp / "away"), (given, tokens), (given, self.tmp / "hop" / ".." / "t.npy"),
            (given, other / "model.safetensors"), (given, other / "new"),
            (given, other / "rank0" / "new"),
            (["--calibration", "random", "--recipe", recipe], recipe),
        ]:
            for out in [], [self.out], ["--dry-run", self.out]:
                with self.subTest(where=where, out=out):
                    text = self.refuse(64, *few, *args, "--save-stats", where, model, *out,
                                       says="name another")
                    self.assertEqual(len(text.splitlines()), 1, text)
        for where in blob, linked / "model.safetensors", linked / "new":
            with self.subTest(where=where):
                self.refuse(64, *few, *given, "--save-stats", where, linked, says="inside a model")
        self.assertEqual(state(), before)
        stats = self.tmp / "stats"
        for out in [], [self.out]:  # what is no input may be written, and written over
            self.run_tool(*few, *given, "--save-stats", stats, model, *out)
        self.run_tool(*few, *given, "--save-stats", self.out / "s", "--overwrite", model, self.out,
                      code=64)


class Job(Calibration):
    def test_resume(self):
        """Asked to stop somewhere: what is finished is read back, and the bytes are the
        same."""
        args = ["-q", "-j2", *RANDOM, "--w4-end-layer", "-1", MICRO, self.out]
        begin = time.monotonic()
        self.run_tool(*args)
        length, want = time.monotonic() - begin, digest(self.out)
        rng, codes = random.Random(base.SEED), []
        for _ in range(4):
            shutil.rmtree(self.out, ignore_errors=True)
            p = subprocess.Popen([base.TOOL, *map(str, args)], stderr=subprocess.DEVNULL)
            time.sleep(length * rng.uniform(0.2, 0.8))
            p.terminate()
            codes.append(p.wait())
            self.assertIn(codes[-1], (0, 75))
            if codes[-1]:
                self.run_tool("--resume", *args)
            self.assertEqual(digest(self.out), want)
        print(f"seed {base.SEED}: ended with {codes}")

    def test_killed(self):
        """No time to write anything down."""
        args = ["-q", "-j2", *RANDOM, "--w4-end-layer", "-1", "--sync-mib", "1", MICRO, self.out]
        self.run_tool(*args)
        want, count = digest(self.out), self.tmp / "count"
        env = dict(CCQ_FAULT_CLASS="io", CCQ_FAULT_COUNT=str(count))
        shutil.rmtree(self.out)
        subprocess.run([FAULTS, *map(str, args)], env=dict(env, CCQ_FAULT="none:0"), check=True,
                       timeout=240)
        calls = int(count.read_text())
        shutil.rmtree(self.out)
        k = random.Random(base.SEED).randrange(calls // 2, calls)
        subprocess.run([FAULTS, *map(str, args)], env=dict(env, CCQ_FAULT=f"kill:{k}"),
                       timeout=240)
        if (self.out / ".ccq").exists():
            self.run_tool("--resume", *args)
        elif not (self.out / "config.json").exists():
            self.run_tool(*args)
        self.assertEqual(digest(self.out), want, f"killed at call {k} of {calls}")

    def test_memory_limit(self):
        _, want = self.quantize(*RANDOM, "-j2")
        plan = json.loads(self.run_tool("--json", "--dry-run", "-j2", *RANDOM, MICRO,
                                        self.tmp / "no").stdout)
        least = plan["memory_least_bytes"]
        report, got = self.quantize(*RANDOM, "-j2", "--mem-limit", str(least))
        self.assertEqual(got, want)
        if not SANITIZED:
            self.assertLessEqual(report["peak_rss_bytes"], least)
        shutil.rmtree(self.out)
        self.refuse(64, *RANDOM, "-j2", "--mem-limit", str(least - 1), MICRO, self.out,
                    says=str(least))


class Refusals(Calibration):
    def test_options(self):
        tokens = self.tokens(top=self.vocab())
        for code, args, says in [
                (64, ["--scheme", "wint8", *RANDOM], "wint2 and wint4"),
                (64, ["--tensor-parallel", "2", *RANDOM], "tensor-parallel"),
                (64, ["--calibration-tokens", "100"], "--calibration"),
                (64, ["--stats", tokens, "--calibration", tokens], "one or the other"),
                (64, ["--calibration", "random:1"], "integer"),
                (64, ["--calibration-window", "1", "--calibration", tokens], "window"),
                (64, ["--world", "2", "--rank", "0", *RANDOM], "--stats"),
                (66, ["--calibration", self.tmp / "none.npy"], "none.npy"),
                (66, ["--stats", self.tmp / "none"], "none"),
                (65, ["--stats", tokens], "")]:
            with self.subTest(args=args):
                self.refuse(code, *args, MICRO, self.out, says=says)

    def test_tokens(self):
        for ids, code, says in [([1, 2, self.vocab()], 65, "token 2"), ([], 64, "too few"),
                                ([5], 64, "too few")]:
            with self.subTest(ids=ids):
                path = write_tokens(self.tmp / "bad.npy", ids)
                self.refuse(code, "--calibration", path, MICRO, self.out, says=says)

    def test_recipe_wants_its_tokens(self):
        one, two = self.tokens(top=self.vocab()), self.tokens(top=self.vocab(), seed=4)
        self.quantize("--calibration", one, *FEW)
        recipe = self.tmp / "recipe.json"
        shutil.copy(self.out / "ccq_recipe.json", recipe)
        want = digest(self.out)
        shutil.rmtree(self.out)
        self.refuse(64, "--recipe", recipe, MICRO, self.out, says="--calibration")
        self.refuse(65, "--recipe", recipe, "--calibration", two, MICRO, self.out, says="recipe")
        self.assertEqual(self.quantize("--recipe", recipe, "--calibration", one)[1], want)


if __name__ == "__main__":
    base.TOOL, FAULTS, INSPECT = (str(pathlib.Path(a).resolve()) for a in sys.argv[1:4])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
