#!/usr/bin/env python3
"""Cuts a token file: windows spread evenly over it, as ccq-quantize takes them.

usage: cut_tokens.py IN.npy OUT.npy TOKENS WINDOW

ernie-micro/tokens_calib.npy is this of the 262,144 training tokens that were kept with
the model, 8192 in windows of 256. Standard library only.
"""
import array
import pathlib
import struct
import sys

MAGIC = b"\x93NUMPY\x01\x00"


def load(path):
    b = pathlib.Path(path).read_bytes()
    n = struct.unpack("<H", b[8:10])[0]
    if b[:8] != MAGIC or b"'<i4'" not in b[10:10 + n]:
        sys.exit(f"{path}: no npy file of int32")
    return array.array("i", b[10 + n:])


def save(path, tokens):
    head = f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({len(tokens)},), }}"
    head += " " * (-(len(head) + 11) % 64) + "\n"
    pathlib.Path(path).write_bytes(MAGIC + struct.pack("<H", len(head)) + head.encode()
                                   + array.array("i", tokens).tobytes())


def cut(tokens, count, window):
    number, room = min(count, len(tokens)) // window, len(tokens) // window - 1
    out = array.array("i")
    for i in range(number):
        at = window * (i * room // (number - 1)) if number > 1 else 0
        out += tokens[at:at + window]
    return out


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__.split("\n\n")[1])
    save(sys.argv[2], cut(load(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])))
