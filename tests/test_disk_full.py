#!/usr/bin/env python3
"""A disk that is too small or fills up, for real: a small file system in memory, in a name
space of its own. 74 before anything is made or with the finished part kept, nothing that a
loader opens, and after room was made the bytes of a run that had it from the start.

usage: test_disk_full.py CCQ-QUANTIZE CCQ-INSPECT MAKE-CHECKPOINT [unittest arguments]

Needs `unshare` and the right to mount; skipped (77) without. Standard library only.
"""
import contextlib
import hashlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

TOOL = INSPECT = MAKE = ""
SEED = int(os.environ.get("CCQ_SEED", str(random.SystemRandom().randrange(1 << 30))))
PAGE = 4096
SPARE = 64 << 20
ROUNDS = 2 if "ASAN_OPTIONS" in os.environ else 4
OPTIONS = ["-j1", "--w4-end-layer=-1"]
INSIDE = "CCQ_DISK_FULL_INSIDE"
PREFIXES = (["unshare", "-Urm"], ["unshare", "-m"])


def digest(path):
    h = hashlib.sha256()
    for p in sorted(path.iterdir()):
        h.update(p.name.encode() + b"\0" + p.read_bytes())
    return h.hexdigest()


class DiskFull(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = pathlib.Path(tempfile.mkdtemp(prefix="ccq-"))
        cls.model, cls.disk = cls.tmp / "model", cls.tmp / "disk"
        cls.disk.mkdir()
        subprocess.run([MAKE, "--layers", "2", "--hidden", "256", "--inter", "256", "--experts",
                        "8", "--vocab", "400", "--shard", "1M", "--seed", "9", cls.model],
                       check=True, stdout=subprocess.DEVNULL)
        whole = cls.tmp / "whole"
        cls.want = {}
        for shards in ("40K", "0"):
            subprocess.run([TOOL, "-q", *OPTIONS, f"--shard-size={shards}", cls.model, whole],
                           check=True)
            cls.want[shards] = digest(whole)
            shutil.rmtree(whole)
        cls.input = digest(cls.model)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.tmp)

    def setUp(self):
        self.rng = random.Random(SEED)
        self.out = self.disk / "out"

    @contextlib.contextmanager
    def room(self, options):
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", self.disk], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", self.disk], check=True)

    def more_room(self, options):
        subprocess.run(["mount", "-o", f"remount,{options}", self.disk], check=True)

    def command(self, shards, *args):
        return [TOOL, *OPTIONS, f"--shard-size={shards}", *args, self.model, self.out]

    def run_tool(self, shards, *args, code=0):
        p = subprocess.run(self.command(shards, *args), capture_output=True, text=True, timeout=240)
        self.assertEqual(p.returncode, code, p.stderr)
        return p

    def planned(self, shards="40K"):
        p = self.run_tool(shards, "--dry-run", "--json", "-q")
        return json.loads(p.stdout)

    def fill(self):
        """All that is left, to the last page."""
        with open(self.disk / "filler", "wb") as f:
            size = 1 << 30
            while size >= PAGE:
                try:
                    os.posix_fallocate(f.fileno(), f.seek(0, 2), size)
                except OSError:
                    size //= 2
        self.assertEqual(os.statvfs(self.disk).f_bavail, 0)

    def nothing_to_open(self, p):
        self.assertFalse((self.out / "config.json").exists())
        left = [f.name for f in self.out.iterdir()] if self.out.exists() else []
        self.assertTrue(set(left) <= {".ccq"}, left)
        if left:
            self.assertIn(" --resume", p.stderr)
        self.assertEqual(digest(self.model), self.input)

    def go_on(self, shards):
        """As the message says, and the bytes are those of a run that had room."""
        self.run_tool(shards, "-q", *["--resume"] * (self.out / ".ccq").exists())
        self.assertEqual(digest(self.out), self.want[shards])
        p = subprocess.run([INSPECT, "--verify=deep", self.out], capture_output=True, text=True)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        shutil.rmtree(self.out)

    def test_before(self):
        """Refused with both numbers before anything is made; a dry run only warns."""
        with self.room("size=1g"):
            total = self.planned()["total_bytes"]
            for size in (PAGE, 1 << 20, total, SPARE, total + SPARE - PAGE):
                size = size // PAGE * PAGE
                self.more_room(f"size={size}")
                said = self.planned()
                self.assertEqual((said["fits"], said["free_bytes"]), (False, size))
                self.assertIn(f"{total} bytes and 64 MiB to spare are needed, {size} are free",
                              self.run_tool("40K", code=74).stderr)
                self.assertEqual(list(self.disk.iterdir()), [])
            self.more_room(f"size={(total + SPARE) // PAGE * PAGE + PAGE}")
            self.assertIs(self.planned()["fits"], True)
            self.go_on("40K")

    def test_during(self):
        """Filled by somebody else while tensors are made: new shards find no room, or, where
        one shard holds its blocks already, the journal and what is written last."""
        for shards in ("40K", "0"):
            said = self.planned(shards)
            size, tensors = said["total_bytes"] + SPARE + (1 << 20), len(said["tensors"])
            codes = []
            for i in range(ROUNDS):
                at = self.rng.randrange(1, tensors // 2) if i else 1
                with self.room(f"size={size}"):
                    codes.append(self.one(shards, at))
            self.assertIn(74, codes)  # 0: it was done before the disk was full
            print(f"{shards}: ended with {codes}")

    def one(self, shards, at):
        p = self.filled_at(shards, at)
        note = f"{shards}, tensor {at}: {p.stderr}"
        self.assertIn(p.returncode, (0, 74), note)
        if p.returncode:
            self.assertRegex(p.stderr, r"disk full: needs \d+ bytes more, \d+ are free|"
                             r"No space left on device, \d+ bytes are free", note)
            self.nothing_to_open(p)
            again = self.run_tool(shards, *["--resume"] * (self.out / ".ccq").exists(), code=74)
            self.nothing_to_open(again)
        (self.disk / "filler").unlink()
        if p.returncode:
            self.go_on(shards)
        return p.returncode

    def filled_at(self, shards, tensor):
        p = subprocess.Popen(self.command(shards, "--sync-mib=1"), stderr=subprocess.PIPE,
                             stdout=subprocess.DEVNULL, text=True)
        text = ""
        for line in p.stderr:
            text += line
            if re.match(rf"\[ *{tensor}/", line):
                p.send_signal(signal.SIGSTOP)
                self.fill()
                p.send_signal(signal.SIGCONT)
        p.stderr.close()
        return subprocess.CompletedProcess(p.args, p.wait(), "", text)

    def test_no_inodes(self):
        """Bytes are free, files are not."""
        for inodes in sorted(self.rng.sample(range(2, 24), ROUNDS)):
            with self.room(f"size=128m,nr_inodes={inodes}"):
                p = self.run_tool("40K", code=74)
                self.nothing_to_open(p)
                self.more_room("nr_inodes=4000")
                self.go_on("40K")


def enter():
    """Runs this once more where it may mount."""
    for prefix in PREFIXES:
        with tempfile.TemporaryDirectory() as tmp:
            try:
                r = subprocess.run([*prefix, "mount", "-t", "tmpfs", "-o", "size=1m", "none", tmp],
                                   capture_output=True)
            except OSError:
                continue
        if r.returncode == 0:
            os.environ[INSIDE] = "1"
            os.execvp(prefix[0], [*prefix, sys.executable, *sys.argv])
    print("skipped: no file system may be mounted here (unshare -Urm)")
    sys.exit(77)


if __name__ == "__main__":
    if INSIDE not in os.environ:
        enter()
    TOOL, INSPECT, MAKE = sys.argv[1:4]
    print(f"seed: CCQ_SEED={SEED}")
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
