#!/usr/bin/env python3
"""Every file of tests/data/make_data.py opens, or is refused with the code listed.

usage: test_malformed.py OPEN_FILE MAKE_DATA   (CCQ_MALFORMED: keep the files there)
"""
import os
import subprocess
import sys
import tempfile

SECONDS = 20  # for all files of a group; a hang is a failure


def check(opener, root, rows):
    """rows: (kind, code, path, reason). Returns the number of failures."""
    args = [x for kind, _, path, _ in rows for x in (kind, os.path.join(root, path))]
    run = subprocess.run([opener] + args, capture_output=True, text=True, timeout=SECONDS,
                         errors="replace")
    lines = run.stdout.split("\n")[:-1]
    bad = 0
    if run.returncode or run.stderr or len(lines) != len(rows):
        print(f"{opener} ended with {run.returncode} after {len(lines)} of {len(rows)} files")
        print(run.stderr[-4000:])
        bad += 1
    for (kind, code, path, reason), line in zip(rows, lines):
        got, text = line.split("\t", 1)
        named = code == "OK" or os.path.basename(path).split(".")[0] in text
        plain = all(c.isprintable() for c in text)
        if got != code or not named or not plain:
            print(f"{path} ({kind}): {reason}: wanted {code}, got {got}: {text}")
            bad += 1
        elif os.environ.get("V"):
            print(f"{got:14}{text}")
    return bad


def main():
    opener, make_data = sys.argv[1:3]
    with tempfile.TemporaryDirectory() as temp:
        root = os.environ.get("CCQ_MALFORMED", temp)
        made = subprocess.run([sys.executable, make_data, root], capture_output=True, text=True,
                              check=True, encoding="utf-8")
        sys.stderr.write(made.stderr)
        rows = [line.split("\t") for line in made.stdout.splitlines()]
        bad = sum(check(opener, root, rows[i:i + 50]) for i in range(0, len(rows), 50))
        print(f"{len(rows)} files, {bad} failures")
        if len(rows) < 60:
            print("fewer than sixty files: make_data.py is broken")
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
