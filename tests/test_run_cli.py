#!/usr/bin/env python3
"""ccq-run from outside: gates, statistics, stored references, refusals, exit codes.

usage: test_run_cli.py CCQ-RUN [unittest arguments]

The statistics are worked out a second time here, from the formulas. Standard
library only.
"""
import array
import io
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree
import zipfile

TOP = pathlib.Path(__file__).resolve().parent
TOOL = ""
SHARED = pathlib.Path(os.environ.get("CCQ_SHARED", TOP.parent.parent / "shared"))
MICRO = pathlib.Path(os.environ.get("CCQ_DATA", TOP / "data")) / "ernie-micro"
SEED = int(os.environ.get("CCQ_SEED", "10"))
TYPES = {"<f4": "f", "<i4": "i", "|u1": "B"}


def run(*args, status=0):
    """Runs the tool; checks its status and that a failure has one line and no output."""
    p = subprocess.run([TOOL, *map(str, args)], capture_output=True, timeout=300)
    err = p.stderr.decode()
    if p.returncode != status:
        raise AssertionError(f"{args}: status {p.returncode}, not {status}\n{err}")
    if status >= 64 and p.stdout:
        raise AssertionError(f"{args}: failed, and printed {p.stdout[:200]}")
    return p.stdout.decode(), err


def document(*args, status=0):
    return json.loads(run("--json", *args, status=status)[0], parse_constant=lambda s: 1 / 0)


def read_npz(path):
    """{name: (shape, flat list)}"""
    out = {}
    with zipfile.ZipFile(path) as z:
        for name in z.namelist():
            b = z.read(name)
            n = struct.unpack("<H", b[8:10])[0]
            head = eval(b[10:10 + n].decode())  # a dict literal that numpy or this file wrote
            a = array.array(TYPES[head["descr"]])
            a.frombytes(b[10 + n:])
            out[name[:-4]] = (head["shape"], a.tolist())
    return out


def write_npz(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        for name, (descr, shape, values) in members.items():
            z.writestr(name + ".npy", npy(descr, shape, values))


def npy(descr, shape, values):
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    body = array.array(TYPES[descr], values).tobytes()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + body


def members_of(ref):
    """What read_npz gave, ready to be written again."""
    kinds = {"meta": "|u1", "logits": "<f4", "greedy_gap": "<f4", "router_margin": "<f4"}
    return {k: (kinds.get(k, "<i4"), list(s), list(v)) for k, (s, v) in ref.items()}


def tokens_of(path, count):
    b = pathlib.Path(path).read_bytes()
    n = struct.unpack("<H", b[8:10])[0]
    return list(struct.unpack(f"<{count}i", b[10 + n:10 + n + 4 * count]))


# ---- the formulas, once more ------------------------------------------------------------

def softmax_logs(x):
    top = max(x)
    z = top + math.log(math.fsum(math.exp(v - top) for v in x))
    return [v - z for v in x]


def mean(x):
    return math.fsum(x) / len(x)


def error(x):
    m = mean(x)
    return math.sqrt(max(0, mean([v * v for v in x]) - m * m) / (len(x) - 1))


def percentile(x, f):
    x = sorted(x)
    at = f * (len(x) - 1)
    i = int(at)
    return x[i] + (at - i) * (x[min(i + 1, len(x) - 1)] - x[i])


def row_figures(a, b, target):
    la, lb = softmax_logs(a), softmax_logs(b)
    ca, cb = ([v - mean(x) for v in x] for x in (a, b))
    rms = math.sqrt(mean([v * v for v in a]))
    d = [abs(p - q) for p, q in zip(ca, cb)]
    dot = math.fsum(p * q for p, q in zip(ca, cb))
    norm = math.sqrt(math.fsum(p * p for p in ca) * math.fsum(q * q for q in cb))
    return {
        "kld": math.fsum(math.exp(p) * (p - q) for p, q in zip(la, lb)),
        "cut": math.fsum(math.exp(p) * (p - q) for p, q in zip(la, lb) if p > -16),
        "top": a.index(max(a)) == b.index(max(b)), "cos": dot / norm,
        "max": max(d), "mean": mean(d), "max_rms": max(d) / rms, "mean_rms": mean(d) / rms,
        "nll": None if target is None else -lb[target],
        "nll_base": None if target is None else -la[target],
        "dp": None if target is None else math.exp(lb[target]) - math.exp(la[target]),
    }


def statistics(base, ours, targets):
    """Every figure but router and greedy, under its name in the JSON."""
    rows = [row_figures(a, b, t) for a, b, t in zip(base, ours, targets)]
    k = [r["kld"] for r in rows]
    q, p, dp = ([r[n] for r in rows if r[n] is not None] for n in ("nll", "nll_base", "dp"))
    c = (mean([x * y for x, y in zip(q, p)]) - mean(q) * mean(p)) / (len(q) - 1)
    sq, sp, pq, pp = error(q), error(p), math.exp(mean(q)), math.exp(mean(p))
    spread = math.sqrt(max(0, sq * sq + sp * sp - 2 * c))
    square = [v * v for v in dp]
    top = mean([float(r["top"]) for r in rows])
    s = {
        "rows": len(rows), "target_rows": len(q), "nll": mean(q), "nll_se": sq, "ppl": pq,
        "ppl_se": pq * sq, "nll_base": mean(p), "ppl_base": pp, "ppl_base_se": pp * sp,
        "cor_ln_ppl": c / (sq * sp), "ln_ppl_ratio": mean(q) - mean(p), "ln_ppl_ratio_se": spread,
        "ppl_ratio": math.exp(mean(q) - mean(p)),
        "ppl_ratio_se": math.exp(mean(q) - mean(p)) * spread, "ppl_diff": pq - pp,
        "ppl_diff_se": math.sqrt(max(0, (pq * sq) ** 2 + (pp * sp) ** 2 - 2 * pq * pp * c)),
        "mean_kld": mean(k), "mean_kld_se": error(k), "kld_cut16": mean([r["cut"] for r in rows]),
        "mean_dp": mean(dp), "mean_dp_se": error(dp), "rms_dp": math.sqrt(mean(square)),
        "rms_dp_se": error(square) / (2 * math.sqrt(mean(square))),
        "same_top": top, "same_top_se": math.sqrt(top * (1 - top) / (len(rows) - 1)),
        "max_dlogit": max(r["max"] for r in rows), "mean_dlogit": mean([r["mean"] for r in rows]),
        "max_dlogit_over_rms": max(r["max_rms"] for r in rows),
        "mean_dlogit_over_rms": mean([r["mean_rms"] for r in rows]),
        "min_cosine": min(r["cos"] for r in rows), "mean_cosine": mean([r["cos"] for r in rows]),
    }
    for name, f in ("p999", .999), ("p99", .99), ("p95", .95), ("p90", .9), ("p50", .5), \
            ("p10", .1), ("p05", .05), ("p01", .01), ("p001", .001):
        s["kld_" + name], s["dp_" + name] = percentile(k, f), percentile(dp, f)
    s.update(max_kld=max(k), min_kld=min(k), max_dp=max(dp), min_dp=min(dp),
             dp_p75=percentile(dp, .75), dp_p25=percentile(dp, .25))
    return s


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="ccq-run-"))
        self.addCleanup(shutil.rmtree, self.dir)

    def file(self, name, content):
        path = self.dir / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def few_tokens(self, count):
        """Of those of the test: where it is about words, not figures."""
        ids = tokens_of(MICRO / "tokens_test.npy", count)
        return self.file("few.npy", npy("<i4", [count], ids))

    def copy_of_micro(self):
        path = self.dir / "model"
        path.mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copyfile(MICRO / name, path / name)
        return path


class Statistics(Case):
    def setUp(self):
        super().setUp()
        self.ref = read_npz(MICRO / "reference.npz")

    def saved(self, *args):
        out = self.dir / "ours.npz"
        run("--save-reference", out, *args)
        return read_npz(out)

    def rows(self, ref, valid):
        (n, vocab), flat = ref["logits"]
        return [flat[i * vocab:i * vocab + valid] for i in range(n)]

    def targets(self, ref):
        at, starts = 0, []
        for n in ref["lengths"][1]:
            starts.append(at)
            at += n
        out = []
        for s, p in zip(ref["row_seq"][1], ref["row_pos"][1]):
            last = p + 1 == ref["lengths"][1][s]
            out.append(None if last else ref["ids"][1][starts[s] + p + 1])
        return out

    def close(self, got, want):
        for name, v in want.items():
            self.assertIn(name, got)
            self.assertTrue(math.isclose(got[name], v, rel_tol=1e-6, abs_tol=1e-12),
                            f"{name}: {got[name]} here, {v} by the formula")

    def test_every_figure(self):
        """A reference moved by noise, so that no figure is zero."""
        rng = random.Random(SEED)
        moved = members_of(self.ref)
        moved["logits"] = ("<f4", moved["logits"][1],
                           [v + rng.gauss(0, .3) for v in moved["logits"][2]])
        write_npz(self.dir / "moved.npz", moved)
        ours = self.saved("--numerics", "exact", "--prompts", MICRO / "reference.npz", MICRO)
        doc = document("--numerics", "exact", "--reference", self.dir / "moved.npz", MICRO)
        base = read_npz(self.dir / "moved.npz")
        want = statistics(self.rows(base, 500), self.rows(ours, 500), self.targets(self.ref))
        self.close(doc["statistics"], want)
        self.assertEqual(doc["statistics"]["vocab_valid"], 500)

    def test_only_some_rows(self):
        """Rows in the middle of prompts; no greedy part, no routes; more ids valid."""
        keep = [i for i in range(len(self.ref["row_seq"][1])) if i % 3 == 1]
        m = members_of(self.ref)
        vocab = m["logits"][1][1]
        flat = m["logits"][2]
        small = {k: m[k] for k in ("meta", "lengths", "ids")}
        for k in ("row_seq", "row_pos"):
            small[k] = ("<i4", [len(keep)], [m[k][2][i] for i in keep])
        small["logits"] = ("<f4", [len(keep), vocab],
                           [v for i in keep for v in flat[i * vocab:(i + 1) * vocab]])
        write_npz(self.dir / "small.npz", small)
        ours = self.saved("--prompts", MICRO / "reference.npz", MICRO)
        s = document("--reference", self.dir / "small.npz", "--valid-vocab", 300, "--prefill-rows",
                     7, MICRO)["statistics"]
        rows = self.rows(ours, 300)
        targets = [t if t is not None and t < 300 else None for t in self.targets(self.ref)]
        want = statistics([flat[i * vocab:i * vocab + 300] for i in keep],
                          [rows[i] for i in keep], [targets[i] for i in keep])
        self.close(s, want)
        self.assertNotIn("router_agreement", s)
        self.assertNotIn("greedy_agreement", s)

    def test_baseline_and_perplexity(self):
        """A window of N tokens gives N - 1 rows; a shorter rest is dropped."""
        ids = tokens_of(MICRO / "tokens_test.npy", 70)
        tokens = self.file("t.npy", npy("<i4", [70], ids))
        prompts = "".join(json.dumps({"ids": ids[i:i + 16]}) + "\n" for i in (0, 16, 32, 48))
        self.file("p.jsonl", prompts)
        one = self.saved("--numerics", "exact", "--prompts", self.dir / "p.jsonl", MICRO)
        two = self.saved("--prompts", self.dir / "p.jsonl", MICRO)
        doc = document("--perplexity", tokens, "--window", 16, MICRO)
        both = document("--numerics", "exact", "--baseline", MICRO, "--tokens", tokens,
                        "--window", 16, "--prefill-rows", 20, MICRO)
        pick = [i for i in range(64) if i % 16 != 15]
        targets = [ids[i + 1] for i in pick]
        one, two = ([-softmax_logs(rows[i])[t] for i, t in zip(pick, targets)]
                    for rows in (self.rows(one, 512), self.rows(two, 512)))
        self.close(doc["statistics"], {"rows": 60, "nll": mean(two), "nll_se": error(two),
                                       "ppl": math.exp(mean(two)),
                                       "ppl_se": math.exp(mean(two)) * error(two)})
        self.assertNotIn("mean_kld", doc["statistics"])
        for name in "mean_kld", "max_kld", "rms_dp", "ln_ppl_ratio", "max_dlogit":
            self.assertEqual(both["statistics"][name], 0, name)
        for name in "same_top", "router_agreement", "router_agreement_clear":
            self.assertEqual(both["statistics"][name], 1, name)
        self.close(both["statistics"], {"ppl_base": math.exp(mean(one)), "rows": 60})

    def test_text_has_the_labels(self):
        out, err = run("--reference", MICRO / "reference.npz", MICRO)
        for label in ("====== Perplexity statistics ======", "Mean PPL(Q)                   : ",
                      "Cor(ln(PPL(Q)), ln(PPL(base))): ", "Mean ln(PPL(Q)/PPL(base))     : ",
                      "Mean    KLD: ", "Maximum KLD: ", "99.9%   KLD: ", "Median  KLD: ",
                      " 0.1%   KLD: ", "Minimum KLD: ", "Mean    Δp: ", "Median  Δp: ",
                      "RMS Δp    : ", "Same top p: ", "====== ccq statistics ======"):
            self.assertIn("\n" + label, "\n" + out)
        self.assertNotIn("warning", err)
        ids = self.file("t.npy", npy("<i4", [20], range(20)))
        self.assertIn("warning", run("--perplexity", ids, "--window", 10, MICRO)[1])


    def test_one_row(self):
        """No spread, so no error figure: no nan, no ±, and a gate on one is refused."""
        tokens = self.file("t.npy", npy("<i4", [2], [5, 6]))
        args = "--perplexity", tokens, "--window", 2
        out = run(*args, MICRO)[0]
        self.assertIn("Mean PPL(Q)                   : ", out)
        both = run("--baseline", MICRO, "--tokens", tokens, "--window", 2, MICRO)[0]
        self.assertIn("Mean    KLD: ", both)
        self.assertIn("Same top p: 100.000 %", both)
        for text in out, both:
            self.assertNotIn("±", text)
            self.assertNotIn("nan", text)
        s = document(*args, MICRO)["statistics"]
        self.assertEqual({k for k in s if k.endswith("_se")}, set())
        gate = self.file("g.json", '{"max": {"nll_se": 1}}')
        run(*args, "--gate", gate, MICRO, status=64)

    def test_settings_are_said(self):
        """Figures that are not those of the served weights say so wherever they stand."""
        args = "--perplexity", self.few_tokens(200), "--window", 64
        out, err = run(*args, MICRO)
        for word in "rounding", "OpenBLAS", "Set  ":
            self.assertNotIn(word, out + err)
        for rounding in "none", "unzip":
            out, err = run("--wint2-rounding", rounding, *args, MICRO)
            self.assertRegex(out, f"(?m)^Wint2 rounding +: {rounding}, not ")
            self.assertIn("--wint2-rounding " + rounding, err)
        model = self.copy_of_micro()
        config = json.loads((model / "config.json").read_text())
        theta = config.pop("rope_theta")
        (model / "config.json").write_text(json.dumps(config))
        gap = "--set", f"rope_theta={theta}"
        out, err = run(*gap, *args, model)
        self.assertRegex(out, "(?m)^Set +: rope_theta=")
        self.assertIn("--set rope_theta=", err)
        meta = lambda *a: json.loads(bytes(self.saved("--prompt-ids", 1, "--max-tokens", 1, *a)
                                           ["meta"][1]))["generator"]
        self.assertNotIn("rounding", meta(MICRO))
        said = meta("--wint2-rounding", "none", "--fp32-logits", *gap, model)
        for word in "--wint2-rounding none", "--fp32-logits", "--set rope_theta=":
            self.assertIn(word, said)
        if "openblas: built" in run("--version")[0]:
            out, err = run("--blas", *args, MICRO)
            self.assertRegex(out, "(?m)^Products +: OpenBLAS")
            self.assertIn("--blas", err)
            self.assertIn("--blas", meta("--blas", MICRO))


class Gates(Case):
    def models(self):
        yield MICRO
        for name in ("ernie-micro/pt", "ernie-micro/wint2", "ernie-mini", "ernie-mini/wint2"):
            if (SHARED / "models" / name).is_dir():
                yield SHARED / "models" / name

    def reference(self, model, name="reference.npz"):
        path = model / name
        return path if path.exists() or model == MICRO else model.parent / name

    def test_gates_of_the_references(self):
        for model in self.models():
            for args in ["exact", "gates.json"], ["fastdeploy", "gates_fastdeploy_oracle.json"]:
                run("--numerics", args[0], "--gate", TOP / args[1], "--reference",
                    self.reference(model), model)
        for name in "ernie-micro", "ernie-mini":
            model = SHARED / "models" / name
            if model.is_dir():
                run("--gate", TOP / "gates_fastdeploy.json", "--reference",
                    model / "reference_fastdeploy.npz", model)

    def test_blas_meets_them(self):
        if "openblas: built" not in run("--version")[0]:
            run("--blas", "--prompt-ids", 1, MICRO, status=69)
            self.skipTest("no OpenBLAS in this build")
        for model in self.models():
            for args in ["exact", "gates.json"], ["fastdeploy", "gates_fastdeploy.json"]:
                doc = document("--blas", "--numerics", args[0], "--gate", TOP / args[1],
                               "--reference", self.reference(model), model)
                self.assertIs(doc["blas"], True)

    def test_missed(self):
        gate = self.file("g.json", '{"max": {"mean_kld": -1}, "min": {"same_top": 0.5}}')
        out, err = run("--gate", gate, "--reference", MICRO / "reference.npz", MICRO, status=1)
        self.assertIn("mean_kld", [l for l in err.splitlines() if "gate missed" in l][0])
        self.assertNotIn("same_top", err)
        doc = document("--gate", gate, "--reference", MICRO / "reference.npz", MICRO, status=1)
        self.assertEqual([(g["name"], g["ok"]) for g in doc["gates"]],
                         [("mean_kld", False), ("same_top", True)])

    def test_near_misses_can_be_told(self):
        """A cosine of 1 - 1e-9 against a limit of 1 is not printed as 1 against 1."""
        gate = self.file("g.json", '{"min": {"min_cosine": 1}}')
        out, err = run("--numerics", "exact", "--gate", gate, "--reference",
                       MICRO / "reference.npz", MICRO, status=1)
        line = [l for l in out.splitlines() if l.startswith("min_cosine")][0].split()
        self.assertNotEqual(line[1], line[3])
        self.assertIn(f"is {line[1]}, at least 1 wanted", err)

    def test_names_only_once(self):
        for text in '{"max": {"rows": 1, "rows": 1e9}}', '{"max": {}, "max": {}}':
            gate = self.file("g.json", text)
            run("--gate", gate, "--reference", MICRO / "reference.npz", MICRO, status=65)

    def test_man_page_lists_every_name(self):
        source = (TOP.parent / "libccq" / "compare.h").read_text()
        names = set(re.findall(r"X\((\w+)\)", source.split("typedef")[0])) - {"X"}
        self.assertGreater(len(names), 50)
        page = (TOP.parent / "docs" / "ccq-run.1").read_text()
        words = set(re.findall(r"\w+", page.split(".Sh STATISTICS")[1].split(".Sh ")[0]))
        self.assertEqual(names - words, set())

    def test_figures_that_are_not_there(self):
        tokens = self.file("t.npy", npy("<i4", [20], range(20)))
        for text, status in ('{"max": {"mean_klds": 1}}', 64), ('{"max": {"mean_kld": 1}}', 64), \
                ("{", 65):
            gate = self.file("g.json", text)
            run("--gate", gate, "--perplexity", tokens, "--window", 10, MICRO, status=status)


class Junit(Case):
    """--junit: well formed, whole or absent, one test case a gate beside the comparison."""

    def suite(self, *args, status=0):
        out = self.dir / "j.xml"
        run(*args, "--junit", out, status=status)
        top = xml.etree.ElementTree.parse(out).getroot()
        self.assertEqual((top.tag, len(top)), ("testsuites", 1))
        cases, suite = top.findall("testsuite/testcase"), top[0]
        missed = [c for c in cases if c.find("failure") is not None]
        for e in top, suite:
            self.assertEqual((int(e.get("tests")), int(e.get("failures")), e.get("errors")),
                             (len(cases), len(missed), "0"))
        return suite, cases, missed

    def test_gates(self):
        gate = self.file("g.json", '{"max": {"mean_kld": -1, "ppl": 100}, "min": {"same_top": 0}}')
        args = "--gate", gate, "--reference", MICRO / "reference.npz", MICRO
        suite, cases, missed = self.suite(*args, status=1)
        self.assertEqual([c.get("name").split()[0] for c in cases[1:]],
                         ["mean_kld", "ppl", "same_top"])
        self.assertEqual(cases[0].get("classname"), "ccq-run.reference")
        said = document(*args, status=1)
        self.assertEqual([c.get("name") for c in missed], ["mean_kld at most -1"])
        words = missed[0].find("failure").get("message")
        self.assertRegex(words, r"^mean_kld is [0-9.e-]+, at most -1 wanted$")
        self.assertAlmostEqual(float(words.split()[2][:-1]), said["gates"][0]["value"], delta=1e-8)
        figures = dict(l.split(": ") for l in cases[0].find("system-out").text.splitlines())
        for name, value in said["statistics"].items():
            if name != "vocab_valid":
                self.assertAlmostEqual(float(figures[name]), value, delta=1e-8 * abs(value),
                                       msg=name)
        self.assertEqual(len({(c.get("classname"), c.get("name")) for c in cases}), len(cases))

    def test_without_gates(self):
        tokens = self.file("t.npy", npy("<i4", [20], range(20)))
        suite, cases, missed = self.suite("--perplexity", tokens, "--window", 10, MICRO)
        self.assertEqual((len(cases), missed), (1, []))
        properties = {p.get("name"): p.get("value") for p in suite.iter("property")}
        self.assertEqual(properties["tokens"], str(tokens))
        self.assertEqual(properties["numerics"], "fastdeploy")
        run("--prompt-ids", 1, "--junit", self.dir / "x", MICRO, status=64)

    def test_hostile_names(self):
        for name in ("a&b<c>\"d'e]]>", "\x01\x1b[31m\n", "\u00e9\ufffe\uffff\u0085\U0001f600",
                     b"\xff\xc3(\xed\xa0\x80.npy"):
            path = os.path.join(os.fsencode(self.dir), name.encode() if isinstance(name, str)
                                else name)
            with open(path, "wb") as f:
                f.write(npy("<i4", [20], range(20)))
            suite, cases, _ = self.suite("--baseline", MICRO, "--tokens", os.fsdecode(path),
                                         "--window", 10, MICRO)
            said = {p.get("name"): p.get("value") for p in suite.iter("property")}["tokens"]
            if name == "a&b<c>\"d'e]]>":
                self.assertTrue(said.endswith("a&b<c>\\\"d'e]]>"), said)

    def test_whole_or_absent(self):
        out = self.file("j.xml", "old")
        gate = self.file("g.json", '{"max": {"greedy_agreement": 1}}')
        tokens = self.file("t.npy", npy("<i4", [20], range(20)))
        common = "--perplexity", tokens, "--window", 10, "--junit"
        run(*common, out, "--gate", gate, MICRO, status=64)
        run(*common, out, self.dir / "absent", status=66)
        run(*common, tokens, MICRO, status=64)
        run(*common, MICRO / "j.xml", MICRO, status=64)
        run(*common, self.dir / "absent" / "j.xml", MICRO, status=73)
        run(*common, out, "--trace", out, MICRO, status=64)
        self.assertEqual(out.read_text(), "old")
        self.assertEqual(len(list(self.dir.iterdir())), 3)
        run(*common, out, "--trace", self.dir / "trace", MICRO)
        xml.etree.ElementTree.parse(out)
        self.assertEqual(len(list(self.dir.iterdir())), 4)
        if os.path.exists("/dev/full"):
            run(*common, "/dev/full", MICRO, status=73)


class Bits(Case):
    def saved(self, model, *args):
        out = self.dir / "o.npz"
        run("--save-reference", out, *args, model)
        data = read_npz(out)
        data.pop("meta")
        return data

    def test_threads_batch_chunk_isa(self):
        rng = random.Random(SEED)
        lines = "".join(json.dumps({"ids": [rng.randrange(500) for _ in range(n)]}) + "\n"
                        for n in (1, 9, 21))
        prompts = self.file("p.jsonl", lines)
        for numerics in "fastdeploy", "exact":
            args = "--prompts", prompts, "--max-tokens", 5, "--numerics", numerics
            want = self.saved(MICRO, *args, "--threads", 1)
            for more in (["--threads", 7], ["--batch-size", 1, "--prefill-rows", 4],
                         ["--batch-size", 2, "--threads", 3], ["--cpu-isa", "c"]):
                self.assertEqual(want, self.saved(MICRO, *args, *more), f"{numerics} {more}")

    def test_wint2_against_its_copy(self):
        """A quantized model gives the bits of the BF16 copy that oracle.py decoded."""
        for name in "ernie-micro", "ernie-mini":
            model = SHARED / "models" / name / "wint2"
            if not model.is_dir():
                self.skipTest(f"no {model} (set CCQ_SHARED)")
            copy = self.dir / name
            subprocess.run([sys.executable, TOP / "oracle.py", "decode", model, copy], check=True)
            for numerics in "fastdeploy", "exact":
                args = "--prompts", model / "reference.npz", "--numerics", numerics
                self.assertEqual(self.saved(model, *args), self.saved(copy, *args), name)

    def test_roundings_differ(self):
        model = SHARED / "models" / "ernie-micro" / "wint2"
        if not model.is_dir():
            self.skipTest(f"no {model} (set CCQ_SHARED)")
        args = "--prompt-ids", "5,6,7,8", "--numerics", "exact"
        seen = [self.saved(model, *args, "--wint2-rounding", r)["logits"]
                for r in ("fused", "unzip", "none")]
        self.assertEqual(len({tuple(x[1]) for x in seen}), 3)

    def test_saved_reference_is_its_own(self):
        out = self.dir / "o.npz"
        gate = self.file("g.json", '{"max": {"max_kld": 0, "max_dlogit": 0}, "min": {"same_top": 1,'
                                   '"router_agreement": 1, "greedy_agreement": 1}}')
        first = run("--prompt-ids", "1,2,3", "--prompt-ids", "9", "--save-reference", out, MICRO)[0]
        run("--reference", out, "--gate", gate, MICRO)
        data = read_npz(out)
        self.assertEqual(data["lengths"], ((2,), [3, 1]))
        self.assertEqual(data["logits"][0], (4, 512))
        self.assertEqual(data["router_ids"][0], (4, 5, 2))
        self.assertEqual(sum((json.loads(l)["ids"] for l in first.splitlines()), []),
                         data["greedy_ids"][1])
        meta = json.loads(bytes(data["meta"][1]))
        self.assertEqual((meta["schema"], meta["vocab_valid"]), ("ccq.ref/1", 500))
        again = self.dir / "again.npz"
        run("--prompts", out, "--save-reference", again, MICRO)
        self.assertEqual(out.read_bytes(), again.read_bytes())


class Generation(Case):
    def sequences(self, *args):
        return [json.loads(l) for l in run(*args, MICRO)[0].splitlines()]

    def test_lines_of_a_file(self):
        text = ('{"ids": [5, 6], "id": "a", "max_tokens": 3, "temperature": 0}\n\n'
                '{"ids": [7], "top_k": 1}\n{"ids": [5, 6], "seed": 4, "top_p": 0.9}\r\n')
        prompts = self.file("p.jsonl", text)
        out = self.sequences("--prompts", prompts, "--max-tokens", 6, "--seed", 2)
        self.assertEqual([(s["id"], s["prompt_tokens"], len(s["ids"])) for s in out],
                         [("a", 2, 3), (1, 1, 6), (2, 2, 6)])
        alone = self.sequences("--prompt-ids", "5,6", "--max-tokens", 6, "--seed", 4, "--top-p",
                               0.9)
        self.assertEqual(alone[0]["ids"], out[2]["ids"])

    def test_bad_lines_are_named(self):
        for line, word in [('{"ids": []}', "empty"), ('{"ids": [500]}', "500"),
                           ('{"ids": [1], "n": 2}', "n"), ('{"ids": [1], "ids": [2]}', "twice"),
                           ('{"ids": [1], "prompt": "x"}', "one of"),
                           ('{"max_tokens": 1}', "one of"),
                           ('{"ids": [1], "top_p": 1.5}', "top_p"), ('{"ids": [1.5]}', "ids"),
                           ('{"ids": [-1]}', "ids"), ('{"ids": [1], "seed": -1}', "seed"),
                           ('{"ids": [1], "max_tokens": 0}', "max_tokens"), ("[1]", "object"),
                           ('{"ids": [1], "max_tokens": 1024}', "1024"), ('{"ids": [1]', "line"),
                           ('{"ids": [1], "stop_token_ids": 3}', "stop_token_ids")]:
            path = self.file("p.jsonl", '{"ids": [1]}\n' + line + "\n")
            err = run("--prompts", path, MICRO, status=65)[1]
            self.assertIn("line 2", err, line)
            self.assertIn(word, err, line)
            self.assertEqual(len(err.splitlines()), 1, err)

    def test_stop_ids_and_end_ids(self):
        free = self.sequences("--prompt-ids", "5,6", "--max-tokens", 12, "--temperature", 0)[0]
        cut = self.file("p.jsonl", json.dumps({"ids": [5, 6], "temperature": 0,
                                               "stop_token_ids": [free["ids"][3]]}))
        out = self.sequences("--prompts", cut)[0]
        first = free["ids"].index(free["ids"][3])
        self.assertEqual((out["ids"], out["finish_reason"]), (free["ids"][:first + 1], "stop"))
        limit = self.sequences("--prompts", cut, "--max-tokens", first + 1)[0]
        self.assertEqual(limit["finish_reason"], "stop")  # the end id stands at the limit
        self.assertEqual(free["finish_reason"], "length")

    def test_text(self):
        if "sentencepiece: built" not in run("--version")[0]:
            run("--prompt", "x", MICRO, status=69)
            self.skipTest("no SentencePiece in this build")
        args = "--prompt", "ROMEO:", "--temperature", 0, "--max-tokens", 24
        free = self.sequences(*args)[0]
        self.assertTrue(free["text"])
        words = free["text"]
        at = len(words) // 2
        stop = words[at - 2:at + 2]  # likely to span tokens
        out = self.sequences(*args, "--stop", stop)[0]
        self.assertEqual(out["text"], words[:words.index(stop)])
        self.assertEqual(out["finish_reason"], "stop")
        self.assertEqual(out["ids"], free["ids"][:len(out["ids"])])
        text = self.file("t.txt", (MICRO / "test.txt").read_bytes()[:3000])
        a = document("--perplexity", text, "--window", 64, MICRO)["statistics"]
        self.assertGreater(a["rows"], 300)
        self.assertLess(a["ppl"], 60)

    def test_chat_and_added_tokens(self):
        if "sentencepiece: built" not in run("--version")[0]:
            self.skipTest("no SentencePiece in this build")
        model = self.copy_of_micro()
        shutil.copyfile(MICRO / "tokenizer.model", model / "tokenizer.model")
        (model / "added_tokens.json").write_text(
            '{"<|x|>": 400, "<|xy|>": 401, "<|end_of_sentence|>": 402}')
        count = lambda *a: json.loads(run("--max-tokens", 1, *a, model)[0])["prompt_tokens"]
        self.assertEqual(count("--prompt", "<|x|><|xy|>"), 2)
        plain, chat = count("--prompt", "User: Hi\nAssistant: "), count("--chat", "--prompt", "Hi")
        self.assertEqual(chat, plain + 1)  # the id that begins the sentence
        (model / "added_tokens.json").write_text('{"<|x|>": "400"}')
        err = run("--prompt", "x", model, status=65)[1]
        self.assertIn(str(model / "added_tokens.json"), err)

    def test_added_tokens_above_the_pieces(self):
        """They may stand in prompts, and the one that ends a sentence may be drawn."""
        model = self.copy_of_micro()
        shutil.copyfile(MICRO / "tokenizer.model", model / "tokenizer.model")
        added = {"<|begin_of_sentence|>": 505, "<|x|>": 507, "<|far|>": 600}
        (model / "added_tokens.json").write_text(json.dumps(added))
        ids = "--max-tokens", 1, "--prompt-ids"
        valid = lambda *a: document(*a, model)["valid_vocab"]
        self.assertEqual(valid(*ids, "507,505"), 500)
        for bad in 503, 512, 600:
            run(*ids, bad, model, status=64)
        (model / "added_tokens.json").write_text(
            json.dumps({**added, "<|end_of_sentence|>": 506}))
        self.assertEqual(valid(*ids, "507,506"), 507)
        self.assertEqual(valid("--ignore-eos", *ids, "507"), 500)
        self.assertEqual(valid("--valid-vocab", 400, *ids, "507"), 400)
        for bad in 500, 503, 600:  # as before: no piece and no added token
            run(*ids, bad, model, status=64)
        best = document("--prompt-ids", 5, "--max-tokens", 40, "--temperature", 50, model)
        self.assertTrue(max(best["sequences"][0]["ids"]) < 507)
        if "sentencepiece: built" in run("--version")[0]:
            s = document("--chat", "--prompt", "hello<|x|>", "--max-tokens", 2, model)
            self.assertGreater(s["sequences"][0]["prompt_tokens"], 3)

    def test_logprobs_and_trace(self):
        trace = self.dir / "t.jsonl"
        doc = document("--prompt-ids", "5,6,7", "--max-tokens", 3, "--temperature", 0, "--logprobs",
                       3, "--trace", trace, MICRO)
        s = doc["sequences"][0]
        self.assertEqual([t[0]["id"] for t in s["logprobs"]], s["ids"])
        for t in s["logprobs"]:
            self.assertEqual(len(t), 3)
            self.assertTrue(0 > t[0]["logprob"] >= t[1]["logprob"] >= t[2]["logprob"])
        lines = [json.loads(l) for l in trace.read_text().splitlines()]
        self.assertEqual(len(lines), 5 * 5)  # 3 prompt rows and 2 decoded, 5 MoE layers
        self.assertEqual([l["id"] for l in lines[::5]], [5, 6, 7] + s["ids"][:2])
        for l in lines:
            self.assertEqual((len(l["experts"]), len(l["weights"])), (2, 2))
            self.assertGreaterEqual(l["margin"], 0)
        for key in "prefill_tokens_per_s", "decode_tokens_per_s", "load_s":
            self.assertGreater(doc["timing"][key], 0)
        self.assertEqual((doc["schema"], doc["device"], doc["numerics"], doc["wint2_rounding"]),
                         ("ccq.run/1", "cpu", "fastdeploy", "fused"))


class Bench(Case):
    def test_figures_fit_together(self):
        d = document("--bench", "--bench-batch", "1,3", "--bench-context", 40, MICRO)
        b, parts = d["bench"], {"attention", "dense", "router", "experts", "head"}
        self.assertEqual((b["context"], b["prefill"]["batch"]), (40, 1))
        self.assertEqual([x["batch"] for x in b["decode"]], [1, 3])
        self.assertGreater(b["read_bytes_per_s"], 0)
        self.assertEqual(b["prefill"]["tokens"], 40 * b["prefill"]["steps"])
        for x in (b["prefill"], *b["decode"]):
            self.assertEqual(set(x["parts"]), parts)
            spent = sum(p["step_s"] for p in x["parts"].values())
            self.assertTrue(0.5 * x["step_s"] < spent <= 1.001 * x["step_s"], x)
            self.assertAlmostEqual(x["tokens_per_s"] * x["step_s"] * x["steps"], x["tokens"], 3)
            read = sum(p["bytes_per_step"] for p in x["parts"].values())
            self.assertLess(abs(read - x["bytes_per_step"]), len(parts))
        # one token of ernie-micro: attention, head and router whole, 2 experts of 4
        one = {k: v["bytes_per_step"] for k, v in b["decode"][0]["parts"].items()}
        mlp = 128 * 256 * 2 + 128 * 128 * 2
        self.assertEqual(one, {"attention": 6 * 2 * (128 * 256 + 128 * 128),
                               "dense": 2 * mlp + 5 * mlp, "router": 5 * 128 * 4 * 4,
                               "experts": 5 * 2 * mlp, "head": 128 * 512 * 2})
        self.assertIn("tokens/s", run("--bench", "--bench-batch", 1, MICRO)[0])

    def test_refused(self):
        for args in (["--bench-batch", "1"], ["--bench-context", "5"],
                     ["--bench", "--perplexity", MICRO / "tokens_test.npy"],
                     ["--bench", "--bench-context", 1024], ["--bench", "--bench-context", 0],
                     *(["--bench", "--bench-batch", x] for x in
                       ("", "0", "1,", ",1", "1;2", "4097", "-1", " 1", "1," * 16 + "1"))):
            err = run(*args, MICRO, status=64)[1]
            self.assertEqual(len(err.splitlines()), 1, err)


class Files(Case):
    """What a run may write over, and what it leaves when it does not end well."""
    IDS = "--prompt-ids", "1,2", "--max-tokens", "2"

    def test_outputs_that_would_hurt_an_input(self):
        model, other = self.copy_of_micro(), self.dir / "other"
        shutil.copytree(model, other)
        before = (model / "model.safetensors").read_bytes()
        ref = self.dir / "ref.npz"
        shutil.copyfile(MICRO / "reference.npz", ref)
        tokens = self.file("t.npy", npy("<i4", [20], range(20)))
        lines = self.file("p.jsonl", '{"ids": [1]}\n')
        gate = self.file("g.json", "{}")
        (self.dir / "link").symlink_to(model / "config.json")
        (self.dir / "hop").symlink_to(model)
        kept = {p: p.read_bytes() for p in (ref, tokens, lines, gate)}
        for out in "--trace", "--save-reference":
            for args in ([*self.IDS, out, model / "model.safetensors"],
                         [*self.IDS, out, model / "x"],
                         [*self.IDS, out, self.dir / "hop" / "new"],
                         [*self.IDS, out, self.dir / "link"],
                         [*self.IDS, out, other / "x", "--baseline", other, "--tokens", tokens],
                         [*self.IDS, out, other / "model.safetensors"],
                         [*self.IDS, out, tokens, "--baseline", other, "--tokens", tokens],
                         [*self.IDS, out, tokens, "--perplexity", tokens],
                         ["--prompts", lines, out, lines],
                         [*self.IDS, out, ref, "--reference", ref],
                         [*self.IDS, out, gate, "--reference", ref, "--gate", gate]):
                err = run(*args, model, status=64)[1]
                self.assertEqual(len(err.splitlines()), 1, err)
        same = "--trace", self.dir / "o", "--save-reference", self.dir / "." / "x" / ".." / "o"
        (self.dir / "x").mkdir()
        run(*self.IDS, *same, model, status=64)
        self.assertEqual((model / "model.safetensors").read_bytes(), before)
        self.assertEqual(sorted(p.name for p in model.iterdir()),
                         ["config.json", "model.safetensors"])
        for p, content in kept.items():
            self.assertEqual(p.read_bytes(), content)

    def test_a_failed_run_leaves_an_old_trace(self):
        trace = self.file("t.jsonl", "old")
        gate = self.file("g.json", '{"max": {"greedy_agreement": 1}}')
        tokens = self.file("t.npy", npy("<i4", [20], range(20)))
        run("--perplexity", tokens, "--window", 10, "--gate", gate, "--trace", trace, MICRO,
            status=64)
        self.assertEqual(trace.read_text(), "old")
        run(*self.IDS, "--trace", trace, self.dir / "absent", status=66)
        self.assertEqual(trace.read_text(), "old")
        run(*self.IDS, "--trace", trace, MICRO)
        self.assertEqual(len(trace.read_text().splitlines()), 3 * 5)
        self.assertEqual(len(list(self.dir.iterdir())), 3)

    def test_signals(self):
        """Stopped at the next step: 75, one line, nothing written, an old trace untouched."""
        trace = self.file("t.jsonl", "old")
        lines = "".join(json.dumps({"ids": [i % 500]}) + "\n" for i in range(64))
        prompts = self.file("p.jsonl", lines)
        for number in signal.SIGINT, signal.SIGTERM:
            p = subprocess.Popen([TOOL, "-q", "--prompts", prompts, "--max-tokens", "1000",
                                  "--ignore-eos", "--trace", trace, "--save-reference",
                                  self.dir / "o.npz", MICRO], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE)
            end = time.monotonic() + 60
            while len(list(self.dir.iterdir())) < 3 and time.monotonic() < end:
                time.sleep(.01)  # until the new trace is there
            p.send_signal(number)
            out, err = p.communicate(timeout=60)
            self.assertEqual((p.returncode, out), (75, b""), err)
            self.assertEqual(len(err.splitlines()), 1, err)
            self.assertEqual(sorted(f.name for f in self.dir.iterdir()), ["p.jsonl", "t.jsonl"])
            self.assertEqual(trace.read_text(), "old")

    def test_what_is_no_file(self):
        here = self.dir / "d"
        here.mkdir()
        for args in (["--tokens", here, "--baseline", MICRO], ["--reference", here],
                     ["--prompts", here], ["--perplexity", here],
                     ["--reference", MICRO / "reference.npz", "--gate", here]):
            self.assertIn("directory", run(*args, MICRO, status=66)[1])
        fifo = self.dir / "fifo"
        os.mkfifo(fifo)
        self.assertIn("regular file", run("--prompts", fifo, MICRO, status=66)[1])
        self.assertIn("regular file", run("--prompts", "/dev/null", MICRO, status=66)[1])
        run("--perplexity", self.file("e.npy", npy("<i4", [0], [])), MICRO, status=65)
        built = "sentencepiece: built" in run("--version")[0]
        run("--perplexity", self.file("e.txt", ""), MICRO, status=65 if built else 69)


class Memory(Case):
    def test_limit(self):
        """Weights, cache and work space together; one model or two."""
        d = document("--prompt-ids", "1", "--max-tokens", 2, "--temperature", 0, MICRO)
        need = d["weight_bytes"] + d["cache_bytes"] + d["work_bytes"]
        args = "--prompt-ids", "1", "--max-tokens", 2, "--temperature", 0
        same = document(*args, "--mem-limit", need, MICRO)
        self.assertEqual(same["sequences"], d["sequences"])
        err = run(*args, "--mem-limit", need - 1, MICRO, status=69)[1]
        self.assertIn(f"limit is {need - 1}", err)
        err = run(*args, "--mem-limit", 4096, MICRO, status=69)[1]
        self.assertIn(f"weights of {d['weight_bytes']} bytes", err)
        two = "--baseline", MICRO, "--tokens", self.few_tokens(1000), "--window", 32
        for limit, layered in (2 * d["weight_bytes"] - 1, True), ("200M", False):
            got = document("-j2", *two, "--mem-limit", limit, MICRO)
            self.assertEqual(got["layered"], layered)
        for bad in ("0", "-1", "1X", "", "5 GB"):
            run(*args, "--mem-limit", bad, MICRO, status=64)


class Refusals(Case):
    def test_command_line(self):
        ids = "--prompt-ids", "1"
        for args in ([], [MICRO], [MICRO, MICRO, *ids], [*ids], ["--no-such", MICRO],
                     ["--prompt-ids", "1,,2", MICRO], ["--prompt-ids", "", MICRO],
                     ["--prompt-ids", "1,x", MICRO], ["--prompt-ids", "500", MICRO],
                     ["--prompt-ids", "512", "--valid-vocab", 512, MICRO],
                     [*ids, "--valid-vocab", 513, MICRO], [*ids, "--max-tokens", 0, MICRO],
                     [*ids, "--max-tokens", 1024, MICRO], [*ids, "--temperature", -1, MICRO],
                     [*ids, "--temperature", "nan", MICRO], [*ids, "--top-p", 1.1, MICRO],
                     [*ids, "--top-k", -2, MICRO], [*ids, "--seed", -1, MICRO],
                     [*ids, "--logprobs", 21, MICRO], [*ids, "--numerics", "bf16", MICRO],
                     [*ids, "--wint2-rounding", "up", MICRO], [*ids, "--stop", "", MICRO],
                     ["--baseline", MICRO, MICRO], ["--tokens", "x.npy", MICRO],
                     ["--gate", TOP / "gates.json", *ids, MICRO],
                     ["--save-reference", "x.npz", MICRO], [*ids, "--window", 9, MICRO],
                     [*ids, "--set", "hidden_size=128", MICRO], [*ids, "--bench", MICRO],
                     ["--perplexity", MICRO / "tokens_test.npy", "--window", 4096, MICRO],
                     ["--perplexity", MICRO / "tokens_test.npy", "--reference",
                      MICRO / "reference.npz", MICRO]):
            err = run(*args, status=64)[1]
            self.assertEqual(len(err.splitlines()), 1, err)

    def test_what_is_not_there(self):
        ids = "--prompt-ids", "1"
        run(*ids, self.dir / "absent", status=66)
        run("--reference", self.dir / "absent.npz", MICRO, status=66)
        run("--prompts", self.dir / "absent.jsonl", MICRO, status=66)
        run("--perplexity", self.dir / "absent.npy", MICRO, status=66)
        run("--perplexity", self.dir / "absent.txt", MICRO, status=66)
        run("--reference", MICRO / "reference.npz", "--gate", self.dir / "absent", MICRO, status=66)
        run("--baseline", self.dir / "absent", "--tokens", MICRO / "tokens_test.npy", MICRO,
            status=66)
        run(*ids, "--device", "cuda", MICRO, status=69)
        run(*ids, "--trace", self.dir / "no" / "t", MICRO, status=73)
        run(*ids, "--save-reference", self.dir / "no" / "o.npz", MICRO, status=73)
        self.assertEqual(list(self.dir.iterdir()), [])
        bare = self.dir / "bare"
        bare.mkdir()
        run(*ids, bare, status=65)

    def test_bias(self):
        """A model that says it has biases is refused, whether any is stored or not."""
        model = self.copy_of_micro()
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, "use_bias": True}))
        self.assertIn("bias", run("--prompt-ids", 1, model, status=65)[1])

    def test_without_a_tokenizer(self):
        model = self.copy_of_micro()
        run("--prompt", "x", model, status=64)
        out = run("--prompt-ids", "505", "--max-tokens", 1, model)[0]  # all 512 ids are valid now
        self.assertNotIn("text", json.loads(out))

    def test_references_that_do_not_fit(self):
        good = members_of(read_npz(MICRO / "reference.npz"))
        rows, vocab = good["logits"][1]
        meta = lambda **k: ("|u1", [len(json.dumps(k))], json.dumps(k).encode())
        nan = list(good["logits"][2])
        nan[5] = math.nan
        changes = {
            "schema": dict(meta=meta(schema="ccq.ref/2", vocab_valid=500)),
            "valid": dict(meta=meta(schema="ccq.ref/1", vocab_valid=513)),
            "no valid": dict(meta=meta(schema="ccq.ref/1")),
            "lengths": dict(lengths=("<i4", [4], [1, 9, 33, 65])),
            "zero length": dict(lengths=("<i4", [4], [0, 10, 33, 64])),
            "negative": dict(lengths=("<i4", [4], [-1, 11, 33, 64])),
            "type": dict(ids=("<f4", good["ids"][1], good["ids"][2])),
            "id": dict(ids=("<i4", good["ids"][1], [512] + good["ids"][2][1:])),
            "row order": dict(row_pos=("<i4", [rows], good["row_pos"][2][::-1])),
            "row range": dict(row_seq=("<i4", [rows], good["row_seq"][2][:-1] + [4])),
            "row count": dict(row_seq=("<i4", [rows - 1], good["row_seq"][2][:-1])),
            "logits": dict(logits=("<f4", [rows, vocab - 1],
                                   good["logits"][2][:rows * (vocab - 1)])),
            "axes": dict(logits=("<f4", [rows * vocab], good["logits"][2])),
            "NaN": dict(logits=("<f4", [rows, vocab], nan)),
            "greedy": dict(greedy_lengths=("<i4", [4], [1, 1, 1, 1])),
            "layers": dict(router_layers=("<i4", [5], [0, 1, 2, 3, 4])),
        }
        for name, change in changes.items():
            with self.subTest(name):
                write_npz(self.dir / "r.npz", {**good, **change})
                err = run("--reference", self.dir / "r.npz", MICRO, status=65)[1]
                self.assertEqual(len(err.splitlines()), 1, err)
        for name in "meta", "lengths", "ids", "row_seq", "row_pos", "logits":
            with self.subTest("without " + name):
                write_npz(self.dir / "r.npz", {k: v for k, v in good.items() if k != name})
                run("--reference", self.dir / "r.npz", MICRO, status=65)
        write_npz(self.dir / "r.npz", {**good, "more": ("<i4", [1], [1])})
        self.assertIn("more", run("--reference", self.dir / "r.npz", MICRO)[1])

    def test_tokens_that_do_not_fit(self):
        for body in npy("<i4", [20], [512] + [1] * 19), npy("<i4", [4, 5], [1] * 20), b"", \
                npy("<f4", [20], [1] * 20):
            run("--perplexity", self.file("t.npy", body), "--window", 10, MICRO, status=65)
        short = self.file("t.npy", npy("<i4", [9], [1] * 9))
        self.assertIn("window", run("--perplexity", short, "--window", 10, MICRO, status=64)[1])

    def test_nan_is_named(self):
        """Values near the largest bf16 of both signs: attention gives NaN, the router sees it."""
        model = self.copy_of_micro()
        path = model / "model.safetensors"
        data = bytearray(path.read_bytes())
        n = struct.unpack("<Q", data[:8])[0]
        head = json.loads(data[8:8 + n])
        a, b = head["ernie.layers.1.self_attn.qkv_proj.weight"]["data_offsets"]
        data[8 + n + a:8 + n + b] = struct.pack("<HH", 0x7f7f, 0xff7f) * ((b - a) // 4)
        path.write_bytes(data)
        err = run("--prompt-ids", "1,2", model, status=65)[1]
        self.assertIn("layer 1", err)
        self.assertIn("sequence 0", err)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    TOOL = sys.argv.pop(1)
    print(f"seed: CCQ_SEED={SEED}")
    unittest.main()
