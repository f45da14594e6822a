#!/usr/bin/env python3
"""The first signal asks for an end between two tensors, a second one is the end: 75, or the
signal itself (130 and 143 in a shell); the job goes on either way, to the same bytes.

usage: test_signals.py CCQ-QUANTIZE MAKE-CHECKPOINT [unittest arguments]

Standard library only.
"""
import hashlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

TOOL = MAKE = ""
OPTIONS = ["--w4-end-layer=-1", "--effort=normal"]
# A signal finds it at work on a matrix; a sanitizer is slow enough.
SLOW = ["-j1", *["--cpu-isa=c"] * ("ASAN_OPTIONS" not in os.environ)]
TRIES = 20


def digest(path):
    h = hashlib.sha256()
    for p in sorted(path.iterdir()):
        h.update(p.name.encode() + b"\0" + p.read_bytes())
    return h.hexdigest()


def pending(pid):
    """Signals sent to the process that it has not taken yet."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"^ShdPnd:\s*(\w+)", text, re.M)[1], 16)


class Signals(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = pathlib.Path(tempfile.mkdtemp(prefix="ccq-"))
        cls.model, cls.out = cls.tmp / "model", cls.tmp / "out"
        subprocess.run([MAKE, "--layers", "2", "--hidden", "512", "--inter", "512", "--experts",
                        "2", "--vocab", "64", "--seed", "3", cls.model], check=True,
                       stdout=subprocess.DEVNULL)
        subprocess.run([TOOL, "-q", *OPTIONS, cls.model, cls.out], check=True)
        cls.want = digest(cls.out)
        shutil.rmtree(cls.out)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.tmp)

    def tearDown(self):
        shutil.rmtree(self.out, ignore_errors=True)

    def send(self, *numbers):
        """Each as soon as the one before has arrived, from the first wint2 matrix on."""
        p = subprocess.Popen([TOOL, *OPTIONS, *SLOW, self.model, self.out], text=True,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for line in p.stderr:
            if "-> wint2" in line:
                break
        for number in numbers:
            while p.poll() is None and pending(p.pid):
                time.sleep(0.0002)
            p.send_signal(number)
        text = p.communicate(timeout=240)[1]
        return p.returncode, text

    def left(self):
        return [f.name for f in self.out.iterdir()]

    def go_on(self):
        subprocess.run([TOOL, "-q", *OPTIONS, "--resume", self.model, self.out], check=True)
        self.assertEqual(digest(self.out), self.want)
        shutil.rmtree(self.out)

    def test_first(self):
        for number in signal.SIGINT, signal.SIGTERM, signal.SIGUSR1:
            code, text = self.send(number)
            self.assertEqual((code, self.left()), (75, [".ccq"]), text)
            self.assertIn(" --resume ", text)
            self.go_on()

    def test_second(self):
        """The same once more or another one: the last is what ends it, in its matrix. What
        Python calls -2 and -15 is 130 and 143 to a shell."""
        for first, last in ((signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGTERM),
                            (signal.SIGTERM, signal.SIGINT), (signal.SIGUSR1, signal.SIGTERM)):
            for _ in range(TRIES):
                code, text = self.send(first, last)
                # 75: its matrix was done before; -first: taken, but its handler had not run
                # when the last one came, which then was the first
                self.assertIn(code, (-last, -first, 75), text)
                self.assertEqual(self.left(), [".ccq"])
                self.go_on()
                if code == -last:
                    break
            self.assertEqual(code, -last, f"{first} and {last}: not once in {TRIES}")
            self.assertNotIn("interrupted", text)


if __name__ == "__main__":
    TOOL, MAKE = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
