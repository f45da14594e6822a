#!/usr/bin/env python3
"""The command line that the tools share: options, values, help, version, exit codes.

usage: test_cli.py TOOL... [-- unittest arguments]

Standard library only.
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parent
MICRO = pathlib.Path(os.environ.get("CCQ_DATA", TOP / "data")) / "ernie-micro"
TOOLS = []

# How many arguments each tool wants, and what else to do anything; its options that
# take a value from a list or a range, with bad ones; options of other versions.
FACTS = {
    "ccq-quantize": {
        "arguments": 2,
        "bad": [("--scheme", "wint3"), ("--scheme", "WINT2"), ("--w4-end-layer", "x"),
                ("--w4-end-layer", "1.5"), ("--w4-end-layer", ""), ("--k-order", "fast"),
                ("--weight-only-rule", "tpu"), ("--effort", "slow"), ("--gain", "9"),
                ("--gain", "-1"), ("--gain", "0x4"), ("--names", "jax"),
                ("--shard-size", "5 GB"), ("--shard-size", "-1"), ("--tp", "0"),
                ("--tensor-parallel", "two"), ("--tensor-parallel", "1025"),
                ("--mem-limit", "0"), ("--mem-limit", "1.5.1G"), ("--rank", "-1"),
                ("--rank", "x"), ("--world", "0"), ("--world", "all"), ("--sync-mib", "0")],
        "later": ["report", "json-lines"],
    },
    "ccq-inspect": {
        "arguments": 1,
        "bad": [("--verify=", "deeper"), ("--verify=", ""), ("--verify=", "quickly"),
                ("--tensor", "("), ("--tensor", "[a"), ("--k-order", "both"),
                ("--tp-rank", "-1"), ("--tp-rank", "x")],
        "later": ["html", "mem-limit", "deep"],
    },
    "ccq-run": {
        "arguments": 1,
        "job": ["--prompt-ids", "1"],
        "bad": [("--max-tokens", "x"), ("--temperature", "-1"), ("--temperature", "nan"),
                ("--top-p", "1.5"), ("--top-p", "one"), ("--numerics", "fast"),
                ("--wint2-rounding", "up"), ("--k-order", "both"), ("--window", "0"),
                ("--prompt-ids", "1,x"), ("--prompt-ids", ""), ("--batch-size", "0")],
        "later": ["tensor-parallel", "html"],
    },
}


def run(tool, *args, **more):
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    environment.update(more.pop("env", {}))
    return subprocess.run([tool, *map(str, args)], capture_output=True, encoding="utf-8",
                          timeout=60, env=environment, **more)


class Cli(unittest.TestCase):
    def each(self):
        for tool in TOOLS:
            name = pathlib.Path(tool).name
            yield tool, name, FACTS[name]

    def refused(self, tool, *args, status=64, words=()):
        """One line on stderr that begins with the tool's name, nothing on stdout."""
        r = run(tool, *args)
        name = pathlib.Path(tool).name
        self.assertEqual((name, args, r.returncode, r.stdout), (name, args, status, ""), r.stderr)
        self.assertRegex(r.stderr, rf"\A{name}: [^\n]+\n\Z")
        for word in words:
            self.assertIn(word, r.stderr)
        return r.stderr

    def test_help(self):
        for tool, name, facts in self.each():
            r = run(tool, "--help")
            self.assertEqual((r.returncode, r.stderr), (0, ""))
            self.assertEqual(run(tool, "-h").stdout, r.stdout)
            lines = r.stdout.splitlines()
            self.assertTrue(lines[0].startswith(f"Usage: {name} "), lines[0])
            self.assertIn("Common", lines)
            for line in lines:
                self.assertLessEqual(len(line), 100, line)
                self.assertEqual(line, line.rstrip())
                m = re.match(r"(  (?:-\w, |    )--[a-z0-9-]+\S*(?: \S+)*?)(  +)(\S.*)$", line)
                if m and len(m[1]) < 29:
                    self.assertEqual(len(m[1]) + len(m[2]), 30, line)  # one column of texts
            for later in facts["later"]:
                self.assertNotRegex(r.stdout, rf"--{later}\b")

    def test_version(self):
        for tool, _, _ in self.each():
            r = run(tool, "--version")
            self.assertEqual((r.returncode, r.stderr), (0, ""))
            facts = [re.fullmatch(r"([a-z]+): (\S.*)", line) for line in r.stdout.splitlines()]
            self.assertNotIn(None, facts, r.stdout)
            keys = [f[1] for f in facts]
            self.assertEqual(keys[:6], ["ccq", "cuda", "openblas", "sentencepiece", "isa",
                                        "device"])
            value = {f[1]: f[2] for f in facts}
            self.assertRegex(value["ccq"], r"^\d+\.\d+\.\d+$")
            for key in ("cuda", "openblas", "sentencepiece"):
                self.assertRegex(value[key], r"^(not )?built\b")
            self.assertIn(value["isa"], ("c", "c avx2", "c avx2 avx512"))

    def test_unknown_options(self):
        for tool, _, facts in self.each():
            self.refused(tool, "--hlep", words=["--hlep", "did you mean --help?"])
            self.refused(tool, "--thread", words=["--threads"])
            self.refused(tool, "--verbos=2", words=["--verbose"])
            self.refused(tool, "-z", words=["-z"])
            self.refused(tool, "-qz", words=["-z"])
            self.refused(tool, "--", "--help", *["x"] * facts["arguments"])
            self.refused(tool, "--n\x1b[31m\n", words=["\\x1b[31m\\n"])
            for name in facts["later"]:
                self.refused(tool, "--" + name, words=["unknown option"])

    def test_abbreviations(self):
        for tool, _, _ in self.each():
            for short in ("--js", "--verb", "--ver", "--he", "--col=never"):
                self.refused(tool, short, words=["unknown option"])

    def test_values(self):
        common = [("--threads", "0"), ("--threads", "-1"), ("--threads", "two"),
                  ("--threads", "1e3"), ("--threads", "99999999999999999999"), ("--threads", ""),
                  ("--color", "sometimes"), ("--device", "gpu"), ("--device", "cuda:x"),
                  ("--cpu-isa", "sse"), ("--cpu-isa", ""), ("--cpu-isa", "c,,avx2")]
        for tool, name, facts in self.each():
            arguments = [MICRO if name == "ccq-run" else "absent"] * facts["arguments"]
            for option, value in common + facts["bad"]:
                text = option.rstrip("=")
                if not option.endswith("="):
                    self.refused(tool, option, value, *arguments, words=[text[2:]])
                self.refused(tool, f"{text}={value}", *arguments, words=[text[2:]])
            self.refused(tool, "-j0", words=["--threads"])
            self.refused(tool, "--json=1", words=["takes no value"])
            self.refused(tool, *arguments, "--threads", words=["--threads needs a value"])
            self.refused(tool, *arguments, "-j", words=["--threads needs a value"])

    def test_arguments(self):
        for tool, _, facts in self.each():
            self.refused(tool)
            self.refused(tool, *["x"] * (facts["arguments"] + 1))
            self.refused(tool, "--json", "--quiet")

    def test_device(self):
        for tool, _, facts in self.each():
            if "device: none" not in run(tool, "--version").stdout:
                continue
            for device in ("cuda", "cuda:0"):
                self.refused(tool, "--device", device, *["x"] * facts["arguments"], status=69,
                             words=["--device", device])

    def test_isa_note(self):
        for tool, name, facts in self.each():
            isa = run(tool, "--version").stdout
            if "avx512" in isa:
                continue
            arguments = [self.absent()] * facts["arguments"] + facts.get("job", [])
            r = run(tool, "--cpu-isa", "c,avx512", *arguments)
            self.assertEqual(r.returncode, 66)
            self.assertRegex(r.stderr, rf"\A{name}: --cpu-isa: this processor has no avx512")
            r = run(tool, "--cpu-isa", "c,avx512", "-q", *arguments)
            self.assertNotIn("no avx512", r.stderr)

    def absent(self):
        d = tempfile.mkdtemp(prefix="ccq-cli-")
        self.addCleanup(shutil.rmtree, d, True)
        return pathlib.Path(d) / "absent"

    def test_input(self):
        """Directory absent: 66; what should be inside it: 65. Nothing is left behind."""
        for tool, name, facts in self.each():
            absent = self.absent()
            out = [absent.with_name("out")] * (facts["arguments"] - 1) + facts.get("job", [])
            self.refused(tool, absent, *out, status=66, words=["absent"])
            absent.mkdir()
            self.refused(tool, absent, *out, status=65, words=["config.json"])
            for given in ("config.json",):
                shutil.copy(MICRO / given, absent)
            self.refused(tool, absent, *out, status=65, words=["safetensors"])
            self.assertEqual(sorted(p.name for p in absent.parent.iterdir()), ["absent"])

    def test_output_that_cannot_be_written(self):
        for tool, _, _ in self.each():
            with open("/dev/full", "w") as full:
                r = subprocess.run([tool, "--version"], stdout=full, stderr=subprocess.PIPE,
                                   encoding="utf-8", timeout=60)
            self.assertEqual(r.returncode, 74)
            self.assertIn("standard output", r.stderr)
            reader, writer = os.pipe()
            os.close(reader)
            r = subprocess.run([tool, "--help"], stdout=writer, stderr=subprocess.PIPE,
                               encoding="utf-8", timeout=60)
            os.close(writer)
            self.assertEqual((r.returncode, r.stderr), (0, ""))

    def test_options_anywhere(self):
        tool = next((t for t in TOOLS if t.endswith("ccq-inspect")), None)
        if not tool:
            self.skipTest("no ccq-inspect")
        wanted = run(tool, "--verify", "--json", MICRO)
        self.assertEqual(wanted.returncode, 0, wanted.stderr)
        for args in ((MICRO, "--json", "--verify=quick"), ("--json", "--verify", "--", MICRO),
                     ("-j", "2", MICRO, "--verify", "--json"), ("-qvj2", "--json", "--verify",
                                                                MICRO)):
            self.assertEqual(run(tool, *args).stdout, wanted.stdout)
        self.refused(tool, "--", "--verify", status=66)

    def test_color(self):
        tool = next((t for t in TOOLS if t.endswith("ccq-inspect")), None)
        if not tool:
            self.skipTest("no ccq-inspect")
        for args, env, colored in (((), {}, False), (("--color=always",), {}, True),
                                   (("--color", "always"), {"NO_COLOR": "1"}, True),
                                   (("--color=always", "--color=never"), {}, False)):
            r = run(tool, *args, MICRO, env=env)
            self.assertEqual("\x1b[" in r.stdout, colored, (args, env))
        # On a terminal: colour, unless NO_COLOR says something or TERM is dumb.
        for env, colored in (({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False),
                             ({"TERM": "xterm", "NO_COLOR": "1"}, False),
                             ({"TERM": "xterm", "NO_COLOR": ""}, True)):
            self.assertEqual(b"\x1b[" in self.on_terminal(tool, env), colored, env)

    def on_terminal(self, tool, env):
        try:
            terminal, end = os.openpty()
        except OSError:
            self.skipTest("no terminal can be opened here")
        environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
        p = subprocess.Popen([tool, "-q", MICRO], stdout=end, env={**environment, **env})
        os.close(end)
        text = b""
        try:
            while part := os.read(terminal, 4096):
                text += part
        except OSError:  # the other end is closed
            pass
        os.close(terminal)
        self.assertEqual(p.wait(60), 0)
        return text


def main():
    global TOOLS
    args = sys.argv[1:]
    cut = args.index("--") if "--" in args else len(args)
    TOOLS = args[:cut]
    unittest.main(argv=[sys.argv[0], *args[cut + 1:]])


if __name__ == "__main__":
    main()
