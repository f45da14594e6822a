#!/usr/bin/env python3
"""A job that is broken off, wherever, ends in the bytes of one that was not; one that is cut
up among processes too; and what is not the same job is refused.

usage: test_resume.py CCQ-QUANTIZE QUANTIZE-FAULTS MAKE-CHECKPOINT CCQ-INSPECT [unittest arguments]

CCQ_ROUNDS: kills at random times, 10 unless given; with 200 or more every call is broken
off, not only some of them. Standard library only.
"""
import fcntl
import hashlib
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

TOOL = FAULTS = MAKE = INSPECT = ""
SEED = int(os.environ.get("CCQ_SEED", str(random.SystemRandom().randrange(1 << 30))))
ROUNDS = int(os.environ.get("CCQ_ROUNDS", "10"))
FULL = ROUNDS >= 200
SANITIZED = "ASAN_OPTIONS" in os.environ or "TSAN_OPTIONS" in os.environ
OPTIONS = ["--effort=fast", "--shard-size=40K", "--w4-end-layer=-1"]
LAUNCHERS = ("SLURM_", "OMPI_", "PMI_", "RANK", "WORLD_SIZE", "JOB_COMPLETION_INDEX")


def digest(path):
    h = hashlib.sha256()
    for p in sorted(pathlib.Path(path).rglob("*")):
        if p.is_file():
            h.update(str(p.relative_to(path)).encode() + b"\0" + p.read_bytes())
    return h.hexdigest()


def plain_environment(**more):
    e = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHERS)}
    return dict(e, **more)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = pathlib.Path(tempfile.mkdtemp(prefix="ccq-"))
        cls.model = cls.make("small", 5)
        cls.whole = cls.tmp / "whole"
        subprocess.run([TOOL, "-q", *OPTIONS, cls.model, cls.whole], check=True)
        cls.want = digest(cls.whole)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.tmp)

    @classmethod
    def make(cls, name, seed, hidden=128):
        subprocess.run([MAKE, "--layers", "2", "--hidden", str(hidden), "--inter", str(hidden),
                        "--experts", "2", "--vocab", "200", "--shard", "300000", "--seed",
                        str(seed), cls.tmp / name], check=True, stdout=subprocess.DEVNULL)
        return cls.tmp / name

    def setUp(self):
        self.out = self.tmp / "out"
        self.rng = random.Random(SEED)

    def tearDown(self):
        shutil.rmtree(self.out, ignore_errors=True)

    def run_tool(self, *args, code=0, tool=None, model=None, options=OPTIONS, **more):
        more.setdefault("env", plain_environment())
        p = subprocess.run([tool or TOOL, "-q", *options, *map(str, args), model or self.model,
                            self.out], capture_output=True, text=True, timeout=240,
                           stdin=subprocess.DEVNULL, **more)
        self.assertEqual(p.returncode, code, p.stderr + p.stdout)
        return p

    def same(self, note=None):
        self.assertEqual(digest(self.out), self.want, note)

    def go_on(self, *args, **more):
        """As a script would: whatever was left ends in the bytes of a whole run."""
        if (self.out / ".ccq").exists():
            self.run_tool("--resume", *args, **more)
        elif not (self.out / "config.json").exists():
            self.run_tool(*args, **more)

    def visible_is_whole(self):
        """What a loader could open now is complete."""
        if not (self.out / "config.json").exists():
            return
        p = subprocess.run([INSPECT, "--verify=deep", "--json", self.out], capture_output=True,
                           text=True)
        found = [f for f in json.loads(p.stdout)["findings"] if f["file"] != ".ccq"]
        self.assertEqual(found, [], p.stderr)

    def break_off(self, kind, k, *args, kind_of="io", tool_args=()):
        count = self.tmp / "count"
        count.unlink(missing_ok=True)
        p = subprocess.run([FAULTS, "-q", "-j2", *OPTIONS, *map(str, args), self.model, self.out],
                           capture_output=True, text=True, timeout=240,
                           env=plain_environment(CCQ_FAULT=f"{kind}:{k}", CCQ_FAULT_CLASS=kind_of,
                                                 CCQ_FAULT_COUNT=str(count)))
        calls = int(count.read_text()) if count.exists() else 0
        return p, calls

    def window(self, *args, before=None):
        """The calls of the commit: (the first behind its marker, the first behind it all).
        before() makes what a run of it begins with."""
        def kill(k):
            shutil.rmtree(self.out, ignore_errors=True)
            before() if before else None
            return self.break_off("kill" if k else "none", k, *args)[1]

        def first(is_so, low, high):  # kills in the place of low: not yet, of high: it is
            while high - low > 1:
                middle = (low + high) // 2
                kill(middle)
                low, high = (low, middle) if is_so() else (middle, high)
            return high

        work, calls = self.out / ".ccq", kill(0)
        gone = first(lambda: (self.out / "config.json").exists() and not work.exists()
                     and digest(self.out) == self.want, 1, calls + 1)
        begin = first(lambda: (work / "commit").exists() or not work.exists(), 1, gone)
        shutil.rmtree(self.out, ignore_errors=True)
        return begin, gone

    def stop_half_way(self, *args):
        """A job whose journal holds some tensors and not all."""
        _, calls = self.break_off("none", 0, *args)
        shutil.rmtree(self.out)
        for part in (0.5, 0.55, 0.45, 0.6, 0.4):
            self.break_off("kill", int(calls * part), *args)
            lines = self.journal().read_bytes().count(b"\n")
            if lines > 3 and not (self.out / ".ccq" / "commit").exists():
                return lines
            shutil.rmtree(self.out)
        raise AssertionError("no place to stop at")

    def journal(self, name="journal.0-of-1"):
        return self.out / ".ccq" / name


class Kills(Case):
    def test_random(self):
        begin = time.monotonic()
        self.run_tool()
        length = time.monotonic() - begin
        shutil.rmtree(self.out)
        visible = resumed = 0
        for i in range(ROUNDS):
            p = subprocess.Popen([TOOL, "-q", *OPTIONS, "--sync-mib=1", self.model, self.out],
                                 stderr=subprocess.DEVNULL)
            time.sleep(1.1 * length * self.rng.random())
            p.kill()
            p.wait()
            visible += (self.out / "config.json").exists()
            self.visible_is_whole()
            resumed += (self.out / ".ccq").exists()
            self.go_on()
            self.same(i)
            shutil.rmtree(self.out)
        print(f"{ROUNDS} kills: {visible} finished before, {resumed} resumed, all the same bytes")

    def every(self, total, few):
        return range(1, total + 1) if FULL else sorted(self.rng.sample(range(1, total + 1),
                                                                       min(few, total)))

    def test_every_call(self):
        _, calls = self.break_off("none", 0)
        shutil.rmtree(self.out)
        for k in self.every(calls, 40):
            p, _ = self.break_off("kill", k)
            self.assertIn(p.returncode, (-9, 0))
            self.visible_is_whole()
            self.go_on()
            self.same(f"killed at call {k} of {calls}")
            shutil.rmtree(self.out)
        print(f"killed at {len(self.every(calls, 40))} of {calls} calls")

    def test_end_of_the_job(self):
        """The commit: all of its calls, over an old checkpoint too."""
        for args in ([], ["--overwrite"]):
            old = self.old if args else None
            begin, gone = self.window(*args, before=old)
            step = 1 if FULL else 3
            for k in range(begin - 30 + self.rng.randrange(step), gone + 2, step):
                old() if old else None
                self.break_off("kill", k, *args)
                self.visible_is_whole()
                if (self.out / ".ccq").exists():
                    self.run_tool("--resume", *args)
                self.same(f"{args} killed at call {k}, commit {begin} to {gone}")
                shutil.rmtree(self.out)

    def old(self):
        """Another checkpoint, complete, and a file that nobody names."""
        if not (self.tmp / "old").exists():
            subprocess.run([TOOL, "-q", *OPTIONS, "--gain=0", self.model, self.tmp / "old"],
                           check=True)
        shutil.copytree(self.tmp / "old", self.out)
        (self.out / "model-00099-of-00099.safetensors").write_bytes(b"old")

    def test_twice(self):
        for _ in range(ROUNDS // 2):
            for _ in range(3):
                more = ["--resume"] if self.journal().exists() else ["--overwrite"]
                if self.out.exists() and not (self.out / ".ccq").exists():
                    break
                self.break_off("kill", self.rng.randrange(20, 250), *more)
            self.go_on(*([] if self.journal().exists() else ["--overwrite"]))
            self.same()
            shutil.rmtree(self.out)


class Failing(Case):
    def loop(self, kind, kind_of, total, few, code_of):
        for k in Kills.every(self, total, few):
            self.one(kind, kind_of, k, total, code_of)

    def one(self, kind, kind_of, k, total, code_of):
        p, _ = self.break_off(kind, k, kind_of=kind_of)
        note = f"{kind} {kind_of} {k} of {total}: {p.returncode} {p.stderr}"
        self.assertIn(p.returncode, code_of, note)
        self.assertEqual(digest(self.model), self.input, note)
        if p.returncode == 0:
            self.same(note)
        else:
            self.kept_or_removed(p, note)
            self.visible_is_whole()
            self.go_on()
            self.same(note)
        shutil.rmtree(self.out, ignore_errors=True)

    def kept_or_removed(self, p, note):
        """What the code says of OUT: something to go on with, or nothing, or all of it."""
        kept = (self.out / ".ccq").exists()
        if kept:
            self.assertIn(p.returncode, (74, 75), note)
            self.assertIn("go on with: ", p.stderr, note)
        elif self.out.exists():
            self.same(note)
            self.assertIn("is complete", p.stderr, note)

    def setUp(self):
        super().setUp()
        self.input = digest(self.model)

    def total(self, kind_of):
        _, calls = self.break_off("none", 0, kind_of=kind_of)
        shutil.rmtree(self.out)
        return calls

    def test_one_call(self):
        self.loop("fail", "io", self.total("io"), 40, (0, 74))

    def test_end_of_the_job(self):
        """What is staged is looked at, put into place, and looked at again."""
        for kind_of, last, step in (("io", 350, 7), ("memory", 700, 20)):
            if kind_of == "memory" and SANITIZED:
                continue
            total = self.total(kind_of)
            for k in range(total - last + self.rng.randrange(step), total + 1, step):
                self.one("fail", kind_of, k, total, (0, 69, 74) if kind_of == "memory" else (0, 74))

    def test_open_files(self):
        """No file descriptor is left: nobody's input is missing, and nothing is thrown away."""
        def few():
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        codes = set()
        for limit in (4, 6, 7, 8, 10, 12, 16, 24, 80):
            p = subprocess.run([TOOL, "-q", *OPTIONS, self.model, self.out],
                               text=True, preexec_fn=few, capture_output=True)
            self.assertIn(p.returncode, (0, 74), (limit, p.stderr))
            codes.add(p.returncode)
            if p.returncode:
                self.kept_or_removed(p, limit)
            self.go_on()
            shutil.rmtree(self.out, ignore_errors=True)
        self.assertEqual(codes, {0, 74})

    def test_all_from_one_on(self):
        self.loop("all", "io", self.total("io"), 20, (0, 74))

    def test_short_calls(self):
        total = self.total("io")
        for k in Kills.every(self, total, 30):
            p, _ = self.break_off("short", k)
            self.assertEqual(p.returncode, 0, p.stderr)
            self.same(k)
            shutil.rmtree(self.out)

    @unittest.skipIf(SANITIZED, "the sanitizer has its own allocator")
    def test_memory(self):
        for kind, few in (("fail", 40), ("all", 20)):
            self.loop(kind, "memory", self.total("memory"), few, (0, 69, 74))

    @unittest.skipIf(SANITIZED, "the sanitizer has its own allocator")
    def test_memory_of_a_resumed_job(self):
        """What an earlier run has made stays, whatever the code, and the way on is told."""
        self.stop_half_way()
        kept = self.tmp / "half"
        shutil.copytree(self.out, kept)
        _, calls = self.break_off("none", 0, "--resume", kind_of="memory")
        for k in Kills.every(self, calls, 15):
            shutil.rmtree(self.out)
            shutil.copytree(kept, self.out)
            p, _ = self.break_off("fail", k, "--resume", kind_of="memory")
            self.assertIn(p.returncode, (0, 69, 74), p.stderr)
            if p.returncode and (self.out / ".ccq").exists():
                self.assertTrue(self.journal().exists() or (self.out / "config.json").exists())
            if "go on with: " not in p.stderr and (self.out / ".ccq").exists():
                self.assertLess(k, calls // 2, p.stderr)  # before the output was looked at
            self.go_on()
            self.same(k)

    def test_threads(self):
        self.loop("fail", "thread", self.total("thread"), 5, (0, 69))
        self.loop("all", "thread", self.total("thread"), 5, (0, 69))

    def test_disk_full(self):
        """RLIMIT_FSIZE makes a real write fail at any byte."""
        sizes = sorted(p.stat().st_size for p in self.whole.iterdir())
        for limit in [1, 100, 4096] + [self.rng.randrange(sizes[-1]) for _ in range(4)]:
            def small_files():
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            p = subprocess.run([TOOL, "-q", *OPTIONS, self.model, self.out], text=True,
                               preexec_fn=small_files, capture_output=True)
            self.assertEqual(p.returncode, 74, p.stderr)
            self.assertFalse((self.out / "config.json").exists())
            if self.journal().exists():
                self.assertIn("--resume", p.stderr)
            self.go_on()
            self.same(limit)
            shutil.rmtree(self.out)


class Identity(Case):
    def test_other_options(self):
        for change, field in [(["--gain=5"], "recipe.gain"), (["--effort=normal"], "recipe.effort"),
                              (["--k-order=plain"], "recipe.k_order"),
                              (["--w4-end-layer=1"], "recipe.w4_end_layer"),
                              (["--weight-only-rule=cpu"], "recipe.weight_only_rule"),
                              (["--shard-size=90K"], "recipe.shard_bytes"),
                              (["--scheme=wint4"], "recipe.scheme"),
                              (["--tensor-type=mlp.experts=wint4"], "recipe.tensor_types[0]"),
                              (["--no-sync"], "sync")]:
            if not self.journal().exists():
                self.stop_half_way()
            options = [o for o in OPTIONS if change != ["--scheme=wint4"] or "w4" not in o]
            p = self.run_tool("--resume", *change, code=65, options=options)
            self.assertIn(f" {field} is ", p.stderr)
        self.run_tool("--resume", "-j1", "--cpu-isa=c", "--mem-limit=1G", "--sync-mib=3")
        self.same("what has no part in the bytes may differ")

    def test_other_input(self):
        self.stop_half_way()
        model = self.tmp / "changed"
        shutil.copytree(self.model, model)
        (model / "added_tokens.json").write_text("{}")
        self.assertIn(" carried", self.run_tool("--resume", model=model, code=65).stderr)
        (model / "added_tokens.json").unlink()
        with open(model / "config.json") as f:
            config = f.read()
        (model / "config.json").write_text(config.replace("1e-05", "1e-06"))
        self.assertIn("config_crc32", self.run_tool("--resume", model=model, code=65).stderr)
        (model / "config.json").write_text(config)
        self.run_tool("--resume", model=model)  # a copy is the same input
        self.same()

    def test_each_field_of_a_shard(self):
        """Name, length and header of an input shard, one at a time, in another copy of it."""
        self.stop_half_way()
        model = self.tmp / "fields"
        shutil.copytree(self.model, model)
        index = model / "model.safetensors.index.json"
        first = sorted(model.glob("*.safetensors"))[0]
        text, data = index.read_text(), first.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header, values = data[8:8 + size].decode(), data[8 + size:]

        def written(head):
            return len(head).to_bytes(8, "little") + head.encode() + values

        other = model / "another.safetensors"
        first.rename(other)
        index.write_text(text.replace(first.name, other.name))
        self.refused(model, "input[", ".name")
        other.rename(first)
        index.write_text(text)
        first.write_bytes(written(header + " " * 8))
        self.refused(model, "input[", ".bytes")
        first.write_bytes(written(header.replace('"np"', '"pt"')))
        self.refused(model, "input[", ".header_crc32")
        first.write_bytes(data)
        self.run_tool("--resume", model=model)
        self.same()

    def refused(self, model, *says):
        p = self.run_tool("--resume", model=model, code=65)
        for text in says:
            self.assertIn(text, p.stderr)

    def test_changed_values(self):
        """The same header and size, another time: contents decide, tensor by tensor."""
        model = self.tmp / "values"
        shutil.copytree(self.model, model)
        self.stop_half_way()
        first = sorted(model.glob("*.safetensors"))[0]
        data = bytearray(first.read_bytes())
        data[-1000] ^= 1
        first.write_bytes(data)
        p = self.run_tool("--resume", model=model, code=65)
        self.assertIn("the input is not the one", p.stderr)
        data[-1000] ^= 1
        first.write_bytes(data)
        self.run_tool("--resume", model=model)
        self.same()

    def test_other_version(self):
        self.stop_half_way()
        plan = self.out / ".ccq" / "plan.json"
        text = plan.read_text()
        version = json.loads(text)["output_version"]
        plan.write_text(text.replace(f'"output_version": {version}', '"output_version": 999', 1))
        self.assertIn(" output_version is ", self.run_tool("--resume", code=65).stderr)
        for bad in (text[:100], "", "[]", "{}"):
            plan.write_text(bad)
            self.run_tool("--resume", code=65)

    def test_leftover(self):
        self.run_tool("--resume", code=73)
        self.assertFalse(self.out.exists())
        self.out.mkdir()
        self.run_tool("--resume", code=73)
        self.stop_half_way("--overwrite")
        p = self.run_tool(code=73)
        self.assertIn("--resume", p.stderr)
        self.assertIn("--overwrite", p.stderr)
        journal = self.journal().read_bytes()
        self.journal().unlink()
        p = self.run_tool("--resume", code=73)
        self.assertIn("journal", p.stderr)
        self.assertIn("--overwrite", p.stderr)
        self.assertIn("remove the .ccq", p.stderr)
        self.assertNotIn("--resume", p.stderr)
        shutil.copytree(self.out, self.tmp / "kept")
        shutil.rmtree(self.out / ".ccq")
        self.run_tool()
        self.same()
        shutil.rmtree(self.out)
        (self.tmp / "kept").rename(self.out)
        self.journal().write_bytes(journal)
        self.run_tool("--overwrite")
        self.same()
        self.run_tool("--resume", code=73)
        self.same()


class Synced(Case):
    def test_order(self):
        """No file gets its name before its bytes are on disk; config.json is the last."""
        strace, log = shutil.which("strace"), self.tmp / "strace"
        if not strace or SANITIZED:
            self.skipTest("strace is not there")
        p = subprocess.run([strace, "-f", "-y", "-o", log, "-e", "trace=fsync,fdatasync,rename",
                            TOOL, "-q", *OPTIONS, self.model, self.out], capture_output=True)
        if p.returncode:
            self.skipTest("strace may not look at processes here")
        synced, renamed = set(), []
        for line in log.read_text().splitlines():
            if m := re.search(r"(?:fsync|fdatasync)\(\d+<([^>]*)>", line):
                synced.add(m[1])
            elif m := re.search(r'rename\("([^"]*)", "([^"]*)"', line):
                self.assertIn(str(pathlib.Path(m[1]).resolve()), synced)
                renamed.append(m[2])
                if m[2].endswith("/config.json"):
                    self.assertIn(str(self.out), synced)
                synced.discard(str(self.out))
        self.assertEqual([r for r in renamed if r.endswith("/config.json")], renamed[-1:])
        self.assertEqual(len(renamed), len(list(self.whole.iterdir())))


class Kinds(Case):
    """What is read whole, cut, turned or copied; an input that only seems changed."""
    def test_kinds(self):
        self.model = self.make("wide", 7, 512)
        for options in (["--tp=2", "--effort=fast", "--shard-size=40K"],
                        ["--scheme=bf16", "--names=torch", "--shard-size=200K"],
                        ["--scheme=bf16", "--shard-size=200K"],
                        ["--scheme=bf16", "--tp=2", "--shard-size=100K"],
                        ["--transform=rotate,permute", "--effort=fast", "--shard-size=40K"],
                        ["--scheme=block_wise_fp8", "--shard-size=0"]):
            self.run_tool(options=options)
            want = digest(self.out)
            shutil.rmtree(self.out)
            for part in (0.35, 0.5, 0.6):
                self.kill_at(part, options)
                for p in self.model.iterdir():
                    os.utime(p)
                self.go_on(options=options)
                self.assertEqual(digest(self.out), want, (options, part))
                shutil.rmtree(self.out)
            for rank in (2, 0, 1):
                self.run_tool(f"--rank={rank}", "--world=3", options=options)
            for p in self.model.iterdir():
                os.utime(p)
            self.run_tool("--finalize", options=options)
            self.assertEqual(digest(self.out), want, options)
            shutil.rmtree(self.out)

    def kill_at(self, part, options):
        count = self.tmp / "count"
        for fault in ("none:0", None):
            p = subprocess.run([FAULTS, "-q", *options, self.model, self.out], capture_output=True,
                               env=plain_environment(CCQ_FAULT_COUNT=str(count),
                                                     CCQ_FAULT=fault or f"kill:{calls}"))
            calls = int(int(count.read_text()) * part)
            if fault:
                self.assertEqual(p.returncode, 0, p.stderr)
                shutil.rmtree(self.out)
        self.assertEqual(p.returncode, -9)


class Damage(Case):
    def test_journal_cut_anywhere(self):
        self.stop_half_way()
        kept = self.tmp / "kept"
        shutil.copytree(self.out, kept)
        journal = self.journal().read_bytes()
        for _ in range(20 if FULL else 4):
            cut = self.rng.randrange(len(journal))
            self.journal().write_bytes(journal[:cut] + self.rng.randbytes(self.rng.randrange(40)))
            p = self.run_tool("--resume", options=OPTIONS[:])
            self.same(cut)
            self.assertEqual(p.stderr, "")
            shutil.rmtree(self.out)
            shutil.copytree(kept, self.out)

    def test_staged_bytes(self):
        """A tensor that is not what its record says is made again, and that is told."""
        self.stop_half_way()
        record = self.journal().read_text().splitlines()[2].split()
        path = self.out / ".ccq" / "stage" / record[2]
        with open(path, "r+b") as f:
            f.seek(int(record[3]) + self.rng.randrange(int(record[4])))
            byte = f.read(1)
            f.seek(-1, 1)
            f.write(bytes([byte[0] ^ 4]))
        p = subprocess.run([TOOL, *OPTIONS, "--resume", self.model, self.out], text=True,
                           capture_output=True, env=plain_environment())
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertIn(json.loads(record[1]) + ": staged bytes", p.stderr)
        self.same()

    def test_staged_header_and_length(self):
        for harm in (lambda f: f.write(b"x" * 9), lambda f: f.truncate(3),
                     lambda f: (f.seek(0, 2), f.write(b"more"))):
            self.stop_half_way()
            with open(sorted((self.out / ".ccq" / "stage").iterdir())[0], "r+b") as f:
                harm(f)
            self.run_tool("--resume")
            self.same()
            shutil.rmtree(self.out)

    def test_staged_file_gone(self):
        self.stop_half_way()
        sorted((self.out / ".ccq" / "stage").iterdir())[0].unlink()
        self.run_tool("--resume")
        self.same()

    def test_other_model_of_this_plan(self):
        """Steps of one job on another's bytes: refused by the input's headers or values."""
        other = self.make("other", 6)
        self.stop_half_way()
        p = self.run_tool("--resume", model=other, code=65)
        self.assertIn("is not the one", p.stderr)


class Locks(Case):
    def test_held(self):
        self.stop_half_way()
        with open(self.out / ".ccq" / "lock.0-of-1", "r+") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            f.seek(0)
            f.write("elsewhere 4711\n")
            f.flush()
            for more in ("--resume", "--overwrite"):
                self.assertIn("elsewhere 4711", self.run_tool(more, code=73).stderr)
                self.assertIn("elsewhere 4711", self.run_tool(more, "--dry-run", code=73).stderr)
            self.run_tool("--resume", "--rank=0", "--world=2", code=73)
            self.run_tool("--resume", "--rank=0", "--world=2", "--dry-run", code=73)
        self.run_tool("--resume")
        self.same()

    def test_commit(self):
        self.run_tool("--rank=0", "--world=2")
        self.run_tool("--rank=1", "--world=2")
        with open(self.out / ".ccq" / "lock.commit", "w") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            self.run_tool("--finalize", code=73)
            self.run_tool("--resume", code=73)
        self.run_tool("--finalize")
        self.same()
        (self.out / ".ccq").mkdir()
        (self.out / ".ccq" / "commit").touch()
        with open(self.out / ".ccq" / "lock.commit", "w") as f:  # it is clearing up
            fcntl.flock(f, fcntl.LOCK_EX)
            self.run_tool("--finalize", code=73)
            self.run_tool("--resume", code=73)
        self.run_tool("--finalize")
        self.same()

    def test_two_at_once(self):
        ps = [subprocess.Popen([TOOL, "-q", *OPTIONS, self.model, self.out],
                               stderr=subprocess.DEVNULL) for _ in range(4)]
        codes = sorted(p.wait() for p in ps)
        if 0 not in codes:  # they met at the lock: nobody is let in rather than two
            self.go_on()
        self.assertTrue(set(codes) <= {0, 73}, codes)
        self.same()


class World(Case):
    def test_any_number_in_any_order(self):
        for world in (1, 2, 5, 40):  # of 40 many have nothing to do
            ranks = list(range(world))
            self.rng.shuffle(ranks)
            for i, rank in enumerate(ranks):
                if 1 < world < 40 and i:
                    p = self.run_tool("--finalize", f"--world={world}", code=75)
                    self.assertIn(f"--world {world}", p.stderr)
                self.run_tool(f"--rank={rank}", f"--world={world}")
                self.assertEqual((self.out / "config.json").exists(), world == 1)
            if world > 1:
                self.run_tool("--finalize")
            self.same(world)
            shutil.rmtree(self.out)

    def test_at_once(self):
        ps = [subprocess.Popen([TOOL, "-q", *OPTIONS, f"--rank={r}", "--world=5", self.model,
                                self.out]) for r in range(5)]
        self.assertEqual([p.wait() for p in ps], [0] * 5)
        self.run_tool("--finalize")
        self.same()

    def test_lost_rank(self):
        for more in (["--rank=1", "--world=3"], ["--rank=1", "--world=3", "--resume"],
                     ["--world=1", "--resume"], ["--resume", "--rank=0", "--world=2"]):
            self.run_tool("--rank=0", "--world=3")
            _, calls = self.break_off("none", 0, "--rank=1", "--world=3")
            shutil.rmtree(self.out)
            self.run_tool("--rank=0", "--world=3")
            self.break_off("kill", calls * 2 // 3, "--rank=1", "--world=3")
            self.run_tool("--rank=2", "--world=3")
            self.run_tool("--finalize", code=75)
            self.run_tool(*more)
            if "--world=2" in more:
                self.run_tool("--resume", "--rank=1", "--world=2")
            if "--world=1" not in more:
                self.run_tool("--finalize")
            self.same(more)
            shutil.rmtree(self.out)

    def test_ranks_of_two_jobs(self):
        self.run_tool("--rank=0", "--world=2")
        p = self.run_tool("--rank=1", "--world=2", "--gain=3", code=65)
        self.assertIn("recipe.gain", p.stderr)
        self.run_tool("--rank=1", "--world=3", code=73)
        self.run_tool("--rank=1", "--world=2")
        self.run_tool("--finalize", "--gain=3", code=65)
        self.run_tool("--finalize")
        self.same()

    def test_a_rank_that_fails_takes_only_its_own(self):
        bad = self.tmp / "bad"
        shutil.copytree(self.model, bad)
        shard = sorted(bad.glob("*.safetensors"))[-1]
        data = bytearray(shard.read_bytes())
        data[-4:] = b"\xc0\x7f\xc0\x7f"
        shard.write_bytes(data)
        codes = []
        for rank in range(3):
            p = subprocess.run([TOOL, "-q", *OPTIONS, f"--rank={rank}", "--world=3", bad, self.out],
                               capture_output=True)
            codes.append(p.returncode)
            if p.returncode:
                self.assertFalse(self.journal(f"journal.{rank}-of-3").exists())
        self.assertIn(65, codes)
        self.assertIn(0, codes)
        shutil.rmtree(bad)

    def test_bad_ranks(self):
        for args in (["--rank=2", "--world=2"], ["--rank=0"], ["--world=2"],
                     ["--rank=0", "--world=2", "--finalize"], ["--rank=0", "--world=auto"],
                     ["--finalize", "--resume"]):
            self.run_tool(*args, code=64)
            self.assertFalse(self.out.exists())
        self.run_tool("--finalize", code=75)
        self.assertFalse(self.out.exists())

    def test_signal(self):
        p = subprocess.Popen([TOOL, "-j1", *OPTIONS, "--effort=normal", "--rank=0", "--world=2",
                              self.model, self.out], stderr=subprocess.PIPE, text=True)
        for line in p.stderr:
            if line.startswith("["):
                p.send_signal(signal.SIGTERM)
                break
        _, text = p.communicate()
        self.assertEqual(p.returncode, 75, text)
        self.assertIn("--resume", text)

    def test_mpirun(self):
        mpirun = shutil.which("mpirun")
        if not mpirun:
            self.skipTest("mpirun is not there")
        p = subprocess.run([mpirun, "-n", "4", "--allow-run-as-root", "--oversubscribe", TOOL,
                            *OPTIONS, "--world", "auto", self.model, self.out], text=True,
                           capture_output=True, timeout=240)
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertIn("rank 3 of 4 from OMPI_COMM_WORLD_*", p.stderr)
        self.run_tool("--finalize")
        self.same()


class Finalize(Case):
    """The commit as a step of its own can be repeated wherever it ended."""
    def ranks(self):
        for rank in (1, 0):
            self.run_tool(f"--rank={rank}", "--world=2")
        shutil.copytree(self.out, self.tmp / "ready", dirs_exist_ok=True)

    def again(self):
        shutil.rmtree(self.out, ignore_errors=True)
        shutil.copytree(self.tmp / "ready", self.out)

    def test_killed_anywhere(self):
        self.ranks()
        _, calls = self.break_off("none", 0, "--finalize")
        self.same()
        for k in range(1 if FULL else self.rng.randrange(1, 8), calls + 1, 1 if FULL else 7):
            self.again()
            self.break_off("kill", k, "--finalize")
            self.after(k)
        begin, gone = self.window("--finalize", before=self.again)
        for k in range(gone - 25, gone + 1):  # config.json, and what is left of .ccq
            self.again()
            self.break_off("kill", k, "--finalize")
            self.after(k)

    def after(self, note):
        self.visible_is_whole()
        if (self.out / "config.json").exists():
            before = digest(self.out)
            self.run_tool("--rank=0", "--world=2", code=73)
            self.assertEqual(digest(self.out), before, note)
        self.run_tool("--finalize")
        self.same(note)

    def test_states(self):
        """Each of what a killed removal of .ccq has left, or may leave."""
        for left in ([], ["commit"], ["commit", "plan.json"], ["commit", "plan.json", "stage"]):
            shutil.copytree(self.whole, self.out)
            (self.out / ".ccq").mkdir()
            for name in left:
                self.leave(name)
            self.after(left)
            self.run_tool("--finalize")
            self.same("done already")
            shutil.rmtree(self.out)

    def leave(self, name):
        path = self.out / ".ccq" / name
        if name == "stage":
            path.mkdir()
        elif name == "commit":
            path.touch()
        else:
            other = self.tmp / "unfinished"
            subprocess.run([TOOL, "-q", *OPTIONS, "--rank=0", "--world=2", self.model, other],
                           check=True)
            shutil.copy(other / ".ccq" / name, path)
            shutil.rmtree(other)

    def test_of_another_job(self):
        shutil.copytree(self.whole, self.out)
        for more in (["--gain=3"], ["--shard-size=90K"], ["--w4-end-layer=1"]):
            self.run_tool("--finalize", *more, code=73)
        model = self.make("other", 8, 256)
        self.run_tool("--finalize", model=model, code=73)
        self.same()


class Replaced(Case):
    """A job killed behind its commit, and an input of the same headers with other values."""
    def test_values(self):
        model = self.tmp / "model"
        shutil.copytree(self.model, model)
        _, gone = self.window()
        first = sorted(model.glob("*.safetensors"))[0]
        good, seen = first.read_bytes(), set()
        for k in range(gone - 15, gone + 1):
            shutil.rmtree(self.out, ignore_errors=True)
            self.break_off("kill", k)
            if not (self.out / "config.json").exists() or not (self.out / ".ccq").exists():
                continue
            data = bytearray(good)
            data[-1000] ^= 1
            first.write_bytes(data)
            self.run_tool("--resume", model=model, code=65)
            seen.add(self.journal().exists())
            if self.journal().exists():  # the same values, written again
                first.write_bytes(good)
                self.run_tool("--resume", model=model)
                self.same(k)
            else:
                self.run_tool("--resume")
                self.same(k)
        self.assertEqual(seen, {False, True})


class Interrupted(Case):
    def test_passes(self):
        """A signal ends what reads all of the output again, not only what makes it."""
        begin, _ = self.window()
        self.break_off("kill", begin - 1)
        kept = self.tmp / "staged"
        shutil.copytree(self.out, kept)
        _, calls = self.break_off("none", 0, "--resume")
        interrupted = 0
        for k in range(self.rng.randrange(10), calls, 1 if FULL else 10):
            shutil.rmtree(self.out)
            shutil.copytree(kept, self.out)
            p, made = self.break_off("signal", k, "--resume")
            if p.returncode == -signal.SIGTERM:  # too early to be asked
                continue
            self.assertIn(p.returncode, (0, 75), p.stderr)
            if p.returncode:
                interrupted += 1
                self.assertIn("go on with: ", p.stderr)
                self.assertLess(made - k, 60, f"at call {k} of {calls}")
            self.go_on()
            self.same(k)
        self.assertGreater(interrupted, 5)

    def test_missing(self):
        """--finalize names every file that is missing, and the commands that make them."""
        self.run_tool("--rank=1", "--world=4")
        shards = sorted(p.name for p in self.whole.glob("*.safetensors"))
        here = {p.name[5:] for p in (self.out / ".ccq").glob("done.*")}
        for world in (["--world=4"], ["--world", "4"], []):
            p = subprocess.run([TOOL, *OPTIONS, "--finalize", *world, self.model, self.out],
                               capture_output=True, text=True)
            self.assertEqual(p.returncode, 75, p.stderr)
            for name in shards:
                self.assertEqual(f"{name} is not finished" in p.stderr, name not in here)
            for rank in range(4):
                self.assertEqual(f"--rank {rank} --world 4" in p.stderr, rank != 1, p.stderr)
            command = p.stderr.split("go on with: ")[1].split()
            self.assertNotIn("--finalize", command)
        subprocess.run(command[:1] + ["-q"] + command[1:], check=True)
        self.same()


class Written(Case):
    """An input that is not a shard, written to while the job is at work."""
    def while_at_work(self, harm, *args, code=65, behind="["):
        p = subprocess.Popen([TOOL, "-j1", *OPTIONS, "--effort=normal", "--cpu-isa=c", *args,
                              self.model, self.out], stderr=subprocess.PIPE, text=True,
                             env=plain_environment())
        for line in p.stderr:
            if line.startswith(behind):
                p.send_signal(signal.SIGSTOP)
                harm()
                p.send_signal(signal.SIGCONT)
                break
        _, text = p.communicate()
        self.assertEqual(p.returncode, code, text)
        self.assertEqual(self.out.exists(), code == 0)
        return text

    def test_carried_and_config(self):
        self.model = self.tmp / "written"
        for name in ("tokenizer_config.json", "config.json"):
            for harm in (lambda p: p.write_text(p.read_text() + " "),
                         lambda p: p.write_text(p.read_text().replace("1", "2", 1)),
                         lambda p: p.unlink()):
                shutil.copytree(type(self).model, self.model)
                path = self.model / name
                if name != "config.json":
                    path.write_text('{"a": 1}')
                text = self.while_at_work(lambda: harm(path),
                                          code=65 if path.name == "config.json" or
                                          "unlink" not in harm.__code__.co_names else 66)
                self.assertIn(name, text)
                shutil.rmtree(self.model)


class Launchers(Case):
    ARRAY = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "3",
             "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
    SRUN = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8"}
    OMPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4"}
    PMI = {"PMI_RANK": "2", "PMI_SIZE": "4"}
    TORCH = {"RANK": "5", "WORLD_SIZE": "6"}
    INDEX = {"JOB_COMPLETION_INDEX": "2"}

    def ask(self, variables, *more, code=0, options=("--dry-run",)):
        p = subprocess.run([TOOL, *OPTIONS, *options, "--world", "auto", *more, self.model,
                            self.out], capture_output=True, text=True,
                           env=plain_environment(**variables))
        self.assertEqual(p.returncode, code, (variables, p.stderr))
        self.assertFalse(self.out.exists())
        return p.stderr

    def test_table(self):
        for variables, says in [(self.ARRAY, "rank 2 of 4 from SLURM_ARRAY_TASK_*"),
                                (self.SRUN, "rank 3 of 8 from SLURM_PROCID"),
                                (self.OMPI, "rank 1 of 4 from OMPI_COMM_WORLD_*"),
                                (self.PMI, "rank 2 of 4 from PMI_*"),
                                (self.TORCH, "rank 5 of 6 from RANK and WORLD_SIZE"),
                                # mpirun inside of sbatch; two that agree
                                (dict(self.OMPI, SLURM_PROCID="0", SLURM_NTASKS="4"),
                                 "rank 1 of 4 from OMPI"),
                                (dict(self.OMPI, PMI_RANK="1", PMI_SIZE="4"), "from OMPI")]:
            self.assertIn(says, self.ask(variables))
        self.assertIn("rank 2 of 5 from JOB_COMPLETION_INDEX",
                      self.ask(self.INDEX, "--world", "5"))

    def test_traps(self):
        """A share of the work that would pass for all of it."""
        for variables, says in [
                ({}, "no launcher"),
                ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, "without srun"),
                (dict(self.ARRAY, SLURM_STEP_NUM_TASKS="4"), "together"),
                (dict(self.SRUN, **self.OMPI), "say --rank"),
                (dict(self.OMPI, **self.PMI), "say --rank"),
                (dict(self.ARRAY, **self.TORCH), "say --rank"),
                (dict(self.OMPI, OMPI_COMM_WORLD_RANK="4"), "rank 4 of 4"),
                (dict(self.ARRAY, SLURM_ARRAY_TASK_ID="13"), "rank 4 of 4"),
                (dict(self.ARRAY, SLURM_ARRAY_TASK_ID="8"), "STEP"),
                (dict(self.ARRAY, SLURM_ARRAY_TASK_ID="0"), "MIN"),
                (dict(self.ARRAY, SLURM_ARRAY_TASK_STEP="0"), "STEP"),
                (dict(self.OMPI, OMPI_COMM_WORLD_SIZE=""), "no number"),
                (dict(self.OMPI, OMPI_COMM_WORLD_RANK="1x"), "no number"),
                (dict(self.TORCH, RANK="-1"), "no number"),
                (dict(self.TORCH, RANK=" 1"), "no number"),
                (dict(self.TORCH, WORLD_SIZE="99999999999999999999"), "no number"),
                ({"RANK": "0"}, "WORLD_SIZE is missing"),
                ({"PMI_SIZE": "2"}, "PMI_RANK is missing"),
                (self.INDEX, "--world N")]:
            self.assertIn(says, self.ask(variables, code=64), variables)
        self.assertIn("--world 5", self.ask(self.OMPI, "--world", "5", code=64))

    def test_only_when_asked(self):
        p = self.run_tool(env=plain_environment(**self.OMPI))
        self.assertEqual(p.stderr, "")
        self.same()


class CheckTensor(Case):
    def check(self, name, code=0, *more):
        p = subprocess.run([TOOL, "-q", *more, "--check-tensor", name, self.model, self.out],
                           capture_output=True, text=True)
        self.assertEqual(p.returncode, code, p.stderr + p.stdout)
        return p

    def test_all(self):
        shutil.copytree(self.whole, self.out)
        index = json.loads((self.out / "model.safetensors.index.json").read_text())["weight_map"]
        for name in self.rng.sample(sorted(index), 12):
            self.assertEqual(self.check(name).stdout, "")
        self.check("ernie.layers.1.mlp.experts.0.up_gate_proj")
        self.check("no.such.tensor", 64)
        self.check("ernie.norm.weight", 64, "--resume")
        self.assertEqual(digest(self.out), self.want)

    def test_one_byte(self):
        shutil.copytree(self.whole, self.out)
        index = json.loads((self.out / "model.safetensors.index.json").read_text())["weight_map"]
        name = self.rng.choice(sorted(index))
        path = self.out / index[name]
        data = bytearray(path.read_bytes())
        size = int.from_bytes(data[:8], "little")
        begin, end = json.loads(data[8:8 + size])[name]["data_offsets"]
        at = self.rng.randrange(end - begin)
        data[8 + size + begin + at] ^= 0x10
        path.write_bytes(data)
        said = json.loads(self.check(name, 1, "--json").stdout)
        self.assertEqual((said["tensor"], said["file"], said["offset"], said["file_offset"],
                          said["found"] ^ said["wanted"], said["same"]),
                         (name, index[name], at, 8 + size + begin + at, 0x10, False))
        self.assertIn(f"byte {at} ", self.check(name, 1).stdout)

    def test_other_recipe(self):
        shutil.copytree(self.whole, self.out)
        name = "ernie.layers.1.mlp.experts.0.up_gate_proj"
        self.check(name, 1, "--gain=0")
        self.check(name, 65, "--w4-end-layer=1")


class Links(Case):
    def test_links(self):
        model = self.tmp / "links"
        shutil.copytree(self.model, model)
        self.run_tool("--dry-run", "--no-symlinks", model=model)
        for name in ("config.json", "model.safetensors.index.json",
                     sorted(p.name for p in model.glob("*.safetensors"))[-1]):
            (model / name).rename(self.tmp / "real")
            (model / name).symlink_to(self.tmp / "real")
            self.run_tool("--dry-run", model=model)
            self.assertIn(name, self.run_tool("--no-symlinks", model=model, code=65).stderr)
            (model / name).unlink()
            (self.tmp / "real").rename(model / name)
        self.assertFalse(self.out.exists())


if __name__ == "__main__":
    TOOL, FAULTS, MAKE, INSPECT = sys.argv[1:5]
    print(f"seed: CCQ_SEED={SEED}")
    unittest.main(argv=sys.argv[:1] + sys.argv[5:])
