#!/usr/bin/env python3
"""ccq-accuracy from outside, and what it says of the bundled model, against accuracy.json.

usage: test_accuracy.py CCQ-ACCURACY [unittest arguments]
       test_accuracy.py CCQ-ACCURACY --write-baseline FILE

The second writes what Regression is held to: after a change that is meant to move the
figures. Standard library only.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

TOP = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(TOP / "data"))
import cut_tokens  # noqa: E402

MICRO = pathlib.Path(os.environ.get("CCQ_DATA", TOP / "data")) / "ernie-micro"
TOOL = pathlib.Path()
FAST = ("--variants", "wint2-fast", "--window", 64)
# What the regression job runs; accuracy.json holds its figures.
JOB = ("--window", 256, "--calibration", MICRO / "tokens_calib.npy", "--calibration-tokens", 8192,
       "--calibration-window", 256)
JOB_TOKENS = 8192
SLEEPER = ("#!/bin/sh\nfor last; do :; done\nmkdir -p \"$last\"\n: > \"$last/started\"\n"
           "exec sleep 60\n")


def tokens(path, count):
    cut_tokens.save(path, cut_tokens.load(MICRO / "tokens_test.npy")[:count])
    return path


class Case(unittest.TestCase):
    def setUp(self):
        tmp = tempfile.TemporaryDirectory()
        self.addCleanup(tmp.cleanup)
        self.dir = pathlib.Path(tmp.name)
        self.tmp = self.dir / "tmp"
        self.tmp.mkdir()
        self.tokens = tokens(self.dir / "tokens.npy", 512)

    def run_tool(self, *args, status=0, tool=None):
        p = subprocess.run([tool or TOOL, *map(str, args)], capture_output=True, timeout=600,
                           env={**os.environ, "TMPDIR": str(self.tmp)}, encoding="utf-8",
                           errors="surrogateescape")
        self.assertEqual(p.returncode, status, p.stderr)
        self.assertNotIn("Traceback", p.stderr)
        self.assertEqual(list(self.tmp.iterdir()), [])
        return p.stdout, p.stderr

    def document(self, *args, status=0):
        return json.loads(self.run_tool("--json", "-", *args, status=status)[0],
                          parse_constant=lambda s: 1 / 0)

    def file(self, name, content):
        path = self.dir / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def fake(self, quantize, run="#!/bin/sh\nexit 70\n"):
        folder = self.dir / "bin"
        folder.mkdir()
        for name, text in ("ccq-quantize", quantize), ("ccq-run", run):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        return folder

    def cases(self, path):
        top = xml.etree.ElementTree.parse(path).getroot()
        cases = top.findall("testsuite/testcase")
        for e in top, top[0]:
            self.assertEqual([int(e.get(n)) for n in ("tests", "failures", "skipped", "errors")],
                             [len(cases), len(top.findall(".//failure")),
                              len(top.findall(".//skipped")), 0])
        return {c.get("classname").removeprefix("ccq-accuracy.") + " " + c.get("name"):
                c.find("failure") is None for c in cases}


class Regression(Case):
    def test_bundled_model(self):
        """Every variant is within three standard errors of what it was."""
        junit = self.dir / "j.xml"
        out, err = self.run_tool(*JOB, "-q", "--gate", TOP / "accuracy.json", "--junit", junit,
                                 MICRO, tokens(self.dir / "t.npy", JOB_TOKENS))
        print(out)
        gate = json.loads((TOP / "accuracy.json").read_text())
        gate.pop("settings")
        self.assertGreaterEqual(len(gate), 11)
        self.assertEqual({v + " " + f for v in gate for f in (*gate[v], "comparison")},
                         set(self.cases(junit)))


class Figures(Case):
    def test_are_those_of_the_tools(self):
        d = self.document(*FAST, "--keep", self.dir / "kept", MICRO, self.tokens)
        self.assertEqual((d["schema"], [v["name"] for v in d["variants"]]),
                         ("ccq.accuracy/1", ["wint2-fast"]))
        row, model = d["variants"][0], self.dir / "kept" / "wint2-fast"
        said = json.loads(subprocess.run(
            [TOOL.parent / "ccq-run", "-q", "--json", "--numerics", "exact", "--window", "64",
             "--baseline", MICRO, "--tokens", self.tokens, model], check=True,
            stdout=subprocess.PIPE).stdout)
        self.assertEqual(row["statistics"], said["statistics"])
        size = sum(p.stat().st_size for p in model.iterdir() if p.suffix == ".safetensors")
        self.assertLess(0, size - row["tensor_bytes"])
        self.assertLess(size - row["tensor_bytes"], 100000)
        self.assertEqual([p.name for p in (self.dir / "kept").iterdir()], ["wint2-fast"])
        self.run_tool(*FAST, "--keep", self.dir / "kept", MICRO, self.tokens, status=73)

    def test_bf16_is_itself(self):
        d = self.document("--variants", "bf16", "--window", 64, MICRO, self.tokens)
        row = d["variants"][0]
        self.assertEqual((row["statistics"]["mean_kld"], row["expert_bits_per_weight"]), (0, 16))
        self.assertNotIn("quantize_s", row)

    def test_own_variant(self):
        d = self.document("--variants", "wint4", "--window", 64, "--variant",
                          "mine=--scheme wint4 --tensor-type 'lay[e]rs.5.mlp.experts=wint2'", MICRO,
                          self.tokens)
        four, mine = d["variants"]
        self.assertLess(mine["tensor_bytes"], four["tensor_bytes"])
        for text in "mine", "a/b=", "=", "wint4=", "x='", "..=", "settings=":
            self.run_tool("--variant", text, MICRO, self.tokens, status=64)

    def test_table(self):
        out, err = self.run_tool(*FAST, MICRO, self.tokens)
        self.assertEqual([l.split()[0] for l in out.splitlines()], ["variant", "wint2-fast"])
        self.assertEqual(len(err.splitlines()), 2)


class Gates(Case):
    def setUp(self):
        super().setUp()
        self.out = self.dir / "b.json"
        self.run_tool(*FAST, "--write-baseline", self.out, MICRO, self.tokens)
        self.baseline = json.loads(self.out.read_text())

    def gated(self, gate, status=0, *more):
        junit = self.dir / "j.xml"
        err = self.run_tool(*FAST, *more, "--gate", self.file("g.json", gate), "--junit", junit,
                            MICRO, self.tokens, status=status)[1]
        return [l for l in err.splitlines() if "gate missed" in l], self.cases(junit)

    def test_three_standard_errors(self):
        self.assertEqual(set(self.baseline["wint2-fast"]),
                         {"bits_per_weight", "mean_kld", "ln_ppl_ratio", "same_top", "rms_dp"})
        self.assertEqual(self.gated(self.baseline)[0], [])
        figure = self.baseline["wint2-fast"]["mean_kld"]
        value, se = figure["value"], figure["se"]
        self.assertGreater(se, 0)
        for away, status in (2.99, 0), (-2.99, 0), (3.01, 1), (-3.01, 1):
            figure["value"] = value + away * se
            missed, cases = self.gated(self.baseline, status)
            self.assertEqual([l.split()[4] for l in missed], ["mean_kld"] * status)
            self.assertEqual([c for c, ok in cases.items() if not ok],
                             ["wint2-fast mean_kld"] * status)

    def test_exact_figures_and_limits(self):
        bits = self.baseline["wint2-fast"]["bits_per_weight"]
        self.assertEqual(bits["se"], 0)
        bits["value"] *= 1.0001
        self.assertEqual(len(self.gated(self.baseline, 1)[0]), 1)
        for limits, status in ({"max": 9}, 0), ({"max": 0}, 1), ({"min": 0}, 0), ({"min": 9}, 1):
            self.gated({"wint2-fast": {"max_kld": limits}}, status)

    def test_refused(self):
        one = {"value": 1, "se": 1}
        for gate, status in (
                ("{", 65), ("[]", 65), ({"wint2-fast": 1}, 65), ({"wint2-fast": {"ppl": 1}}, 65),
                ({"wint2-fast": {"ppl": {"value": 1}}}, 65),
                ({"wint2-fast": {"ppl": {"value": 1, "se": -1}}}, 65),
                ({"wint2-fast": {"ppl": {"max": True}}}, 65),
                ('{"wint2-fast": {"ppl": {"max": NaN}}}', 65),
                ({"wint2-fast": {"ppl": {}}}, 65), ({"wint2-fast": {"ppl": {"most": 1}}}, 65),
                ('{"wint2-fast": {}, "wint2-fast": {}}', 65), ("[" * 100000, 65),
                ({"wint2-fast": {"kld": one}}, 64), ({}, 64), ({"wint2-fast": {}}, 64),
                ({"wint4": {"ppl": one}}, 64),
                ({"settings": {"window": 256}, "wint2-fast": {"ppl": one}}, 64),
                ({"wint2-fast": {"greedy_agreement": one}}, 64)):
            self.run_tool(*FAST, "--gate", self.file("g.json", gate), MICRO, self.tokens,
                          status=status)
        # a variant that runs by default only with --calibration, and is not asked for
        gate = self.file("g.json", {"bf16": {"ppl": {"max": 99}},
                                    "wint2-calibrated": {"ppl": {"max": 99}}})
        self.run_tool("--gate", gate, "--window", 64, MICRO, self.tokens, status=64)
        self.run_tool("--gate", self.dir / "absent", MICRO, self.tokens, status=66)

    def test_other_tokens(self):
        other = tokens(self.dir / "other.npy", 448)
        err = self.run_tool(*FAST, "--gate", self.out, MICRO, other, status=64)[1]
        self.assertIn("tokens_crc32", err)


class Failures(Case):
    def test_usage(self):
        for args in ([], [MICRO], [MICRO, self.tokens, "x"], ["--var", "x", MICRO, self.tokens],
                     ["--window", "x", MICRO, self.tokens], ["--quiet=1", MICRO, self.tokens],
                     ["--variants", "wint3", MICRO, self.tokens], ["--threads"],
                     ["--numerics", "fast", MICRO, self.tokens],
                     ["--window", 1, "--window", 2, MICRO, self.tokens],
                     ["--variants", "wint2-calibrated", MICRO, self.tokens]):
            out, err = self.run_tool(*args, status=64)
            self.assertEqual((out, len(err.splitlines())), ("", 1))
        self.run_tool(self.dir / "absent", self.tokens, status=66)
        self.run_tool(MICRO, self.dir / "absent", status=66)
        self.run_tool("--bin", self.dir, MICRO, self.tokens, status=69)
        self.assertIn("--variants", self.run_tool("--help")[0])
        self.assertIn("ccq:", self.run_tool("--version")[0])

    def test_outputs(self):
        for option in "--json", "--junit", "--write-baseline":
            for path, status in ((self.tokens, 64), (MICRO / "x", 64), (self.dir / "no" / "x", 73),
                                 (self.tmp, 73)):
                self.run_tool(*FAST, option, path, MICRO, self.tokens, status=status)
        model, other, x = self.dir / "in", self.dir / "other", self.dir / "x"
        for path in model, other:
            path.mkdir()
            shutil.copy(MICRO / "config.json", path)
        shutil.copy(MICRO / "model.safetensors", other)
        (model / "model.safetensors").symlink_to(shutil.copy(MICRO / "model.safetensors",
                                                             self.dir / "abc"))
        for path in model / "model.safetensors", self.dir / "abc", other / "model.safetensors":
            before = path.read_bytes()
            self.run_tool(*FAST, "--json", path, model, self.tokens, status=64)
            self.assertEqual(path.read_bytes(), before)
        self.run_tool(*FAST, "--json", x, "--junit", x, MICRO, self.tokens, status=64)
        self.assertFalse(x.exists())
        self.assertFalse((MICRO / "x").exists())
        err = self.run_tool("no\n\x1b[1m", self.tokens, status=66)[1]
        self.assertIn("no\\n\\x1b[1m: no such directory", err)
        self.assertEqual(len(err.splitlines()), 1)

    def test_the_tools_code(self):
        """A tool that fails: its code, its words, nothing written."""
        junit = self.file("j.xml", "old")
        bad = self.dir / "bad"
        bad.mkdir()
        (bad / "config.json").write_text("{")
        _, err = self.run_tool(*FAST, "--junit", junit, bad, self.tokens, status=65)
        self.assertIn("config.json", err.splitlines()[-1])
        self.run_tool("--variants", "bf16", "--window", 100000, "--junit", junit, MICRO,
                      self.tokens, status=64)
        self.run_tool(*FAST, "--bin", self.fake("#!/bin/sh\nkill -9 $$\n"), "--junit", junit,
                      MICRO, self.tokens, status=69)
        self.assertEqual(junit.read_text(), "old")

    def test_what_a_model_is_not_for(self):
        """Left out with a word when nothing was asked of it; an error when it was."""
        text = "#!/bin/sh\ncase $* in *--transform*) echo no >&2; exit 64;; esac\n"
        text += f"exec {TOOL.parent / 'ccq-quantize'} \"$@\"\n"
        folder = self.fake(text, f"#!/bin/sh\nexec {TOOL.parent / 'ccq-run'} \"$@\"\n")
        junit, gate = self.dir / "j.xml", self.file("g.json", {"wint2-rotate": {"ppl": {"max": 9}}})
        out, _ = self.run_tool("--bin", folder, "--window", 64, "--calibration-tokens", 256,
                               "--calibration-window", 64, "--junit", junit, MICRO, self.tokens)
        self.assertEqual(sum("not for this model" in l for l in out.splitlines()), 2)
        self.assertEqual(len(self.cases(junit)), 9)
        self.run_tool("--bin", folder, "--variants", "wint2-rotate", MICRO, self.tokens, status=64)
        self.run_tool("--bin", folder, "--window", 64, "--calibration-tokens", 256,
                      "--calibration-window", 64, "--gate", gate, MICRO, self.tokens, status=64)

    def test_signals(self):
        """Stopped at once, with the tool that ran; nothing stays behind, kept or not."""
        folder, keep = self.fake(SLEEPER), self.dir / "keep"
        keep.mkdir()
        for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
            for where, more in (self.tmp, []), (keep, ["--keep", keep]):
                p = subprocess.Popen([TOOL, *map(str, FAST), "-q", "--bin", folder, *more, MICRO,
                                      self.tokens], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                     env={**os.environ, "TMPDIR": str(self.tmp)})
                end = time.monotonic() + 60
                while not list(where.glob("*/*/started")) and time.monotonic() < end:
                    time.sleep(.01)
                p.send_signal(number)
                _, err = p.communicate(timeout=30)
                self.assertEqual((p.returncode, err), (75, b"ccq-accuracy: interrupted\n"))
                self.assertEqual(list(where.iterdir()), [])

    def test_names_in_xml(self):
        for name in b"a&b<\"c'>]]>", b"\x01\x1b\n\xef\xbf\xbf", b"\xff\xc3(":
            path = os.path.join(os.fsencode(self.dir), name)
            os.link(self.tokens, path)
            junit = self.dir / "j.xml"
            self.run_tool("--variants", "wint2-fast", "--window", 64, "--junit", junit, MICRO,
                          os.fsdecode(path))
            self.assertEqual(self.cases(junit), {"wint2-fast comparison": True})

    def test_full_disk(self):
        if os.path.exists("/dev/full"):
            with open("/dev/full", "w") as full:
                p = subprocess.run([TOOL, *map(str, FAST), MICRO, self.tokens], stdout=full,
                                   stderr=subprocess.PIPE)
            self.assertEqual(p.returncode, 74, p.stderr)


def write_baseline(path):
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run([TOOL, *map(str, JOB), "--write-baseline", path, MICRO,
                        tokens(pathlib.Path(tmp) / "t.npy", JOB_TOKENS)], check=True)


if __name__ == "__main__":
    TOOL = pathlib.Path(sys.argv.pop(1)).resolve()
    if sys.argv[1:2] == ["--write-baseline"]:
        write_baseline(sys.argv[2])
    else:
        unittest.main()
