#!/usr/bin/env python3
"""An independent decoder of ccq's checkpoints, written from the formulas of
docs/format.md alone. Python's standard library only.

  oracle.py decode IN OUT [--k-order fastdeploy|plain] [--rounding fused|unzip]
      IN: a checkpoint with Paddle names (wint2, wint8, wint4, BF16 tensors).
      OUT: the same weights in BF16, without quantization_config.
      The K order is that of ccq_recipe.json when not given, else fastdeploy.
  oracle.py golden
      Compares with the expect.* tensors of the golden wint2, wint8 and wint4
      files in $CCQ_SHARED/golden.

Exit status: 0, 1 (golden differs), 2 (usage), 65 (input), 73 (OUT exists),
77 (no golden files: skipped).
"""
import argparse
import glob
import json
import math
import os
import shutil
import struct
import sys
from array import array
from fractions import Fraction
from functools import lru_cache
from operator import itemgetter


def fail(status, text):
    print("oracle.py: " + text, file=sys.stderr)
    raise SystemExit(status)


# ---- numbers ----------------------------------------------------------------

def f32(x):
    """x, a double, rounded once to fp32."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


def f32_exact(x):
    """A rational rounded once to fp32, normal range."""
    if x == 0:
        return 0.0
    e = x.numerator.bit_length() - x.denominator.bit_length() - 24
    while abs(x) >= Fraction(2) ** (e + 24):
        e += 1
    return float(round(x / Fraction(2) ** e) * Fraction(2) ** e)  # round: ties to even


def fma32(b, c, z):
    """fp32(b * c + z), one rounding; b is a byte, c and z are fp32."""
    p = b * c  # 32 bits, exact
    s = p + z
    t = s - p
    if (p - (s - t)) + (z - t) == 0.0:  # the sum was exact: one rounding is left
        return f32(s)
    return f32_exact(Fraction(p) + Fraction(z))


def bf16_list(values):
    """Doubles that fp32 holds exactly -> their bf16 bits, nearest even."""
    n = len(values)
    bits = struct.unpack("<%dI" % n, struct.pack("<%df" % n, *values))
    return [(u + 0x7FFF + (u >> 16 & 1)) >> 16 for u in bits]


def bf16_value(bits):
    return struct.unpack("<f", struct.pack("<I", bits << 16))[0]


# ---- safetensors --------------------------------------------------------------

def read_file(path):
    """name -> (dtype, shape, bytes)"""
    with open(path, "rb") as f:
        data = f.read()
    length = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    base = 8 + length
    return {name: (t["dtype"], t["shape"],
                   data[base + t["data_offsets"][0]:base + t["data_offsets"][1]])
            for name, t in header.items()}


def read_checkpoint(directory):
    index = os.path.join(directory, "model.safetensors.index.json")
    if not os.path.exists(index):
        return read_file(os.path.join(directory, "model.safetensors"))
    with open(index, encoding="utf-8") as f:
        names = json.load(f)["weight_map"]
    tensors = {}
    for shard in sorted(set(names.values())):
        for name, tensor in read_file(os.path.join(directory, shard)).items():
            if names.get(name) == shard:
                tensors[name] = tensor
    missing = sorted(set(names) - set(tensors))
    if missing:
        fail(65, "%s: no tensor %s" % (directory, missing[0]))
    return tensors


def write_file(path, tensors):
    header, at = {"__metadata__": {"format": "np"}}, 0
    size = {"F32": 4}
    order = sorted(tensors, key=lambda n: (-size.get(tensors[n][0], 2), n))
    for name in order:
        dtype, shape, data = tensors[name]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            f.write(tensors[name][2])


def numbers(tensor, code):
    a = array(code)
    a.frombytes(tensor[2])
    if sys.byteorder == "big":
        a.byteswap()
    return a


# ---- wint2 ----------------------------------------------------------------------

def stored_row(k, order):
    """Stored row of a logical row of a 64-row group."""
    b, a, c = k // 8, k % 8 // 2, k % 2
    return k if order == "plain" else 16 * a + 2 * b + c


@lru_cache(maxsize=4096)
def window_tables(cs, zp, rounding):
    """Four tables byte -> value + 32, for the windows of a line's words."""
    half = f32(zp + 0.5)
    tables = [bytearray(256) for _ in range(4)]
    for b in range(256):
        if rounding == "fused":
            v = math.floor(fma32(b, cs, half))
        else:
            v = math.floor(f32(fma32(b, cs, zp) + 0.5))
        for i in range(4):
            tables[i][b] = v >> (9 - 3 * i) & 63
    return [bytes(t) for t in tables]


@lru_cache(maxsize=65536)
def weight_table(local, super_bits, rounding):
    """value + 32 -> bf16 bits of the weight."""
    scale = local * bf16_value(super_bits)
    if rounding == "fused":
        scale = bf16_value(bf16_list([scale])[0])
    return bf16_list([c * scale for c in range(-32, 32)])


def decode_wint2(codes, local, supers, scales, points, order, rounding):
    """bf16 bits, logical [K][N]."""
    rows, n_columns = codes[1]
    out = array("H", bytes(8 * rows * n_columns))
    pick = itemgetter(*[stored_row(k, order) for k in range(64)])
    supers, scales, points = numbers(supers, "H"), numbers(scales, "f"), numbers(points, "f")
    for n in range(n_columns):
        column, pairs = codes[2][n::n_columns], local[2][n::n_columns]
        tables = window_tables(scales[n], points[n], rounding)
        windows = [column.translate(t) for t in tables]
        logical = array("H")
        for g in range(rows // 16):
            pair = pairs[g // 2]
            table = weight_table(pair & 15 if g % 2 else pair >> 4, supers[n], rounding)
            stored = [0] * 64
            for i in range(4):
                stored[i::4] = [table[s] for s in windows[i][16 * g:16 * g + 16]]
            logical.extend(pick(stored))
        out[n::n_columns] = logical
    return out


# ---- wint8, wint4 -----------------------------------------------------------------

def decode_weight_only(codes, scales):
    """bf16 bits, logical [K][N], and N."""
    first, k_rows = codes[1]
    scales = numbers(scales, "H")
    n_columns = len(scales)
    if first not in (n_columns, n_columns // 2):
        fail(65, "a quant_weight of shape %s for %d scales" % (codes[1], n_columns))
    bits = 8 if first == n_columns else 4
    out = array("H", bytes(2 * k_rows * n_columns))
    if bits == 8:
        place = [m * 2 if m < 8 else 2 * (m - 8) + 1 for m in range(16)]
        place = [place[k % 16] + 16 * (k // 16) for k in range(64)]
    else:
        place = [32 * (k // 32) + 8 * (k % 8 // 2) + k % 32 // 8 + 4 * (k % 2) for k in range(64)]
    pick = itemgetter(*place)
    together = 2 if bits == 8 else 4
    for n in range(n_columns):
        scale = bf16_value(scales[n])
        bias = 1 << (bits - 1)
        table = bf16_list([(q - bias) * scale for q in range(1 << bits)])
        logical = array("H")
        for tile in range(k_rows // 64):
            at = together * (64 * tile + k_rows * (n // together)) + 64 * (n % together)
            if bits == 8:
                stored = [table[b] for b in codes[2][at:at + 64]]
            else:
                stored = [0] * 64
                stored[0::2] = [table[b & 15] for b in codes[2][at // 2:at // 2 + 32]]
                stored[1::2] = [table[b >> 4] for b in codes[2][at // 2:at // 2 + 32]]
            logical.extend(pick(stored))
        out[n::n_columns] = logical
    return out, n_columns


# ---- checkpoints --------------------------------------------------------------------

def to_bytes(a):
    if sys.byteorder == "big":
        a.byteswap()
    return a.tobytes()


def decode_matrix(tensors, base, order, rounding):
    """The tensor that replaces BASE.quant_weight and its companions."""
    codes, local = tensors[base + ".quant_weight"], tensors[base + ".weight_scale"]
    if base + ".super_scales" in tensors:
        rest = [tensors[base + suffix] for suffix in (".super_scales", ".code_scale", ".code_zp")]
        k, n = 4 * codes[1][0], codes[1][1]
        bits = decode_wint2(codes, local, *rest, order, rounding)
    else:
        bits, n = decode_weight_only(codes, local)
        k = codes[1][1]
    return "BF16", [k, n], to_bytes(bits)


def decode_tensors(tensors, order, rounding):
    out = {}
    for name, tensor in tensors.items():
        base, _, suffix = name.rpartition(".")
        if suffix == "quant_weight":
            out[base + ".weight"] = decode_matrix(tensors, base, order, rounding)
        elif base + ".quant_weight" not in tensors or suffix == "bias":
            out[name] = tensor
    return out


def recorded_order(directory):
    path = os.path.join(directory, "ccq_recipe.json")
    if not os.path.exists(path):
        return "fastdeploy"
    with open(path, encoding="utf-8") as f:
        return json.load(f).get("k_order", "fastdeploy")


def decode(args):
    if os.path.exists(args.out):
        fail(73, args.out + " exists")
    with open(os.path.join(args.input, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    config.pop("quantization_config", None)
    order = args.k_order or recorded_order(args.input)
    if order not in ("fastdeploy", "plain"):
        fail(65, "unknown k_order %r" % order)
    tensors = decode_tensors(read_checkpoint(args.input), order, args.rounding)
    os.mkdir(args.out)
    write_file(os.path.join(args.out, "model.safetensors"), tensors)
    with open(os.path.join(args.out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        if os.path.exists(os.path.join(args.input, name)):
            shutil.copyfile(os.path.join(args.input, name), os.path.join(args.out, name))


# ---- golden ---------------------------------------------------------------------------

def check(what, got, want):
    differ = sum(a != b for a, b in zip(got, want)) + abs(len(got) - len(want))
    print("%-60s %s" % (what, "equal" if not differ else "%d differ" % differ))
    return differ == 0


def golden_wint2(path, t):
    good = True
    for order in ("plain", "fastdeploy"):
        for rounding in ("unzip", "fused"):
            got = decode_wint2(t["quant_weight"], t["weight_scale"], t["super_scales"],
                               t["code_scale"], t["code_zp"], order, rounding)
            name = "expect.%s.%s" % (order, rounding)
            good &= check("%s %s" % (path, name), got, numbers(t[name], "H"))
    return good


def golden_weight_only(path, t):
    good = True
    for rule in ("gpu", "cpu"):
        scale = t["expect.%s.weight_scale" % rule]
        got, n = decode_weight_only(t["expect.%s.quant_weight" % rule], scale)
        q, scales = numbers(t["expect.%s.q" % rule], "b"), numbers(scale, "H")
        want = bf16_list([q[i] * bf16_value(scales[i % n]) for i in range(len(q))])
        good &= check("%s %s" % (path, rule), got, want)
    return good


def golden(_):
    good, folder = True, os.path.join(os.environ.get("CCQ_SHARED", "../shared"), "golden")
    paths = sorted(glob.glob(os.path.join(folder, "wint[248]_k*.safetensors")))
    if not paths:
        print("skipped: no golden files in %s (set CCQ_SHARED)" % folder)
        raise SystemExit(77)
    for path in paths:
        t = read_file(path)
        name = os.path.basename(path)
        good &= golden_wint2(name, t) if "super_scales" in t else golden_weight_only(name, t)
    raise SystemExit(0 if good else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("decode")
    one.add_argument("input")
    one.add_argument("out")
    one.add_argument("--k-order", choices=("fastdeploy", "plain"))
    one.add_argument("--rounding", choices=("fused", "unzip"), default="fused")
    one.set_defaults(run=decode)
    two = commands.add_parser("golden")
    two.set_defaults(run=golden)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
