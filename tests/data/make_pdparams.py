#!/usr/bin/env python3
"""Writes .pdparams files: good/, bad/ and unsupported/, each with one line of reason.

usage: make_pdparams.py DIRECTORY [MODEL.safetensors]

Prints one line a file: kind, expected code, path, offset that the message must name (or
-), reason; tab-separated. kind: file is opened; dir: a directory with nothing but the
file; late opens, and the code is that of reading. Beside a good file stands FILE.want:
crc32, dtype, shape and name of every tensor, sorted by name. With a model, its tensors are
also written as model/protocolN.pdparams, N = 2, 3, 4: BF16 as uint16, as paddle.save does.
Standard library only: numpy's arrays are stood in for by classes that pickle the same.
"""
import io
import json
import os
import pickle
import struct
import sys
import types
import zlib

ROOT = sys.argv[1]

# ---- What numpy and Paddle look like to pickle ------------------------------------------


def module(name, **members):
    """A module of that name for pickle to find; its members say that they live there."""
    m = types.ModuleType(name)
    for key, value in members.items():
        value.__module__, value.__qualname__, value.__name__ = name, key, key
        setattr(m, key, value)
    sys.modules[name] = m


def reconstruct(*args):
    raise NotImplementedError("written only")


class dtype:
    def __init__(self, code, order="<", state=None):
        self.code = code
        self.state = state or (3, order, None, None, None, -1, -1, 0)

    def __reduce__(self):
        return dtype, (self.code, False, True), self.state


class ndarray:
    """data: bytes. fortran, version: as numpy writes them, for files that lie."""

    def __init__(self, dt, shape, data, fortran=False, version=1):
        self.state = (version, tuple(shape), dt, fortran, data)

    def __reduce__(self):
        return reconstruct, (ndarray, (0,), b"b"), self.state


class Tensor:
    """A bare Paddle tensor: pickled as a tuple of its name and an array."""

    def __init__(self, name, array):
        self.pair = (name, array)

    def __reduce__(self):
        return tuple, (self.pair,)


module("numpy", ndarray=ndarray, dtype=dtype)
module("numpy._core")
module("numpy._core.multiarray", _reconstruct=reconstruct)

U2, F4, F2, I1, U1, I4, I8 = (dtype("u2"), dtype("f4"), dtype("f2"), dtype("i1", "|"),
                              dtype("u1", "|"), dtype("i4"), dtype("i8"))


def bits(n, start=0):
    """n bytes, all values in turn."""
    return bytes((start + i * 7) % 256 for i in range(n))


def u2(*shape):
    n = 2
    for axis in shape:
        n *= axis
    return ndarray(U2, shape, bits(n))


# ---- Files -------------------------------------------------------------------------------


def put(code, name, content, reason, at="-", kind="file"):
    folder = {"OK": "good", "UNSUPPORTED": "unsupported"}.get(code, "bad")
    path = os.path.join(folder, name + ".pdparams")
    os.makedirs(os.path.join(ROOT, folder), exist_ok=True)
    with open(os.path.join(ROOT, path), "wb") as f:
        f.write(content)
    print(kind, code, path, at, reason, sep="\t")


def put_good(name, content, tensors, reason):
    """tensors: name -> ndarray, what must be read."""
    put("OK", name, content, reason)
    names = {"u2": "U16", "f2": "F16", "f4": "F32", "i1": "I8", "u1": "U8", "i4": "I32",
             "i8": "I64"}
    lines = []
    for key in sorted(tensors, key=lambda k: k.encode()):
        _, shape, dt, _, data = tensors[key].state
        lines.append(f"{zlib.crc32(data):08x} {names[dt.code]} {list(shape)} {key}\n")
    with open(os.path.join(ROOT, "good", name + ".pdparams.want"), "w", encoding="utf-8") as f:
        f.write("".join(lines).replace(" [", "[").replace(", ", ","))


def every_protocol(name, value, reason, tensors=None):
    for protocol in (2, 3, 4):
        put_good(f"{name}-{protocol}", pickle.dumps(value, protocol),
                 value if tensors is None else tensors, reason)


def in_python(value, protocol):
    """From the pickler that is written in Python: other frames, other memo entries."""
    f = io.BytesIO()
    pickle._Pickler(f, protocol).dump(value)
    return f.getvalue()


def slices(name, array_of, shape, sizes):
    """A dict in which an array of shape stands in pieces of these sizes (elements)."""
    names = [f"{name}@@.{i}" for i in range(len(sizes))]
    d = {n: array_of(k) for n, k in zip(names, sizes)}
    d["UnpackBigParamInfor@@"] = {name: {"OriginShape": shape, "slices": names}}
    return d


def good():
    every_protocol("dtypes", {
        "u2": u2(3, 5), "f4": ndarray(F4, (2, 2), bits(16)), "f2": ndarray(F2, (4,), bits(8)),
        "i1": ndarray(I1, (256,), bits(256)), "u1": ndarray(U1, (1, 1, 3), b"abc"),
        "i4": ndarray(I4, (1,), bits(4)), "i8": ndarray(I8, (2,), bits(16)),
    }, "every dtype, all byte values")
    every_protocol("scalar", {"a": ndarray(F4, (), b"\0\0\x80\x3f")}, "no axes")
    every_protocol("names", {"\u00e9\u4e2d": u2(1), "x" * 300: u2(1)}, "UTF-8, long name")
    every_protocol("table", {"a": u2(1), "StructuredToParameterName@@": {"a": "p_0"}},
                   "the table of names is skipped", {"a": u2(1)})
    pieces = [bits(20), bits(20, 99), bits(8, 5)]
    value = slices("w", u2, (4, 6), [10, 10, 4])
    for i, piece in enumerate(pieces):
        value[f"w@@.{i}"] = ndarray(U2, (len(piece) // 2,), piece)
    value["v"] = u2(1)
    every_protocol("sliced", value, "three slices",
                   {"v": u2(1), "w": ndarray(U2, (4, 6), b"".join(pieces))})
    every_protocol("tensor", {"a": Tensor("p_0", u2(2, 2))}, "a bare Paddle tensor",
                   {"a": u2(2, 2)})
    every_protocol("empty", {}, "an empty dict")
    every_protocol("many", {f"t{i}": u2(2) for i in range(3000)}, "memo above 255")
    both = u2(4)
    every_protocol("tied", {"a": both, "b": both}, "one array under two names")
    for protocol in (2, 3, 4):
        value = {"a": u2(70000), "b": u2(1)}
        put_good(f"python-{protocol}", in_python(value, protocol), value,
                 "from the pickler in Python")
    value = {"a": ndarray(U2, (0, 7), b"")}
    put_good("nothing-3", pickle.dumps(value, 3), value, "no elements")
    old = b"\x80\xff\0a"
    put_good("old-2", item(array(module=b"numpy.core.multiarray", payload=b"U\x04" + old)),
             {"a": ndarray(U2, (2,), old)},
             "numpy.core, flags as 0 and 1, bytes as a string of Python 2")
    # characters of two bytes on the borders of reads and of remembered places
    big = (b"a" + b"\xc3" * 40000 + b"b") * 60
    value = {"a": ndarray(U1, (len(big),), big)}
    put_good("latin1-2", pickle.dumps(value, 2), value, "2.4 MB of text")


# ---- Written by hand ---------------------------------------------------------------------

P = b"\x80\x02"
MARK, STOP = b"(", b"."


def text(s):
    return b"X" + struct.pack("<I", len(s)) + s


def glob(module, name):
    return b"c" + module + b"\n" + name + b"\n"


def dtype_of(code=b"u2", order=b"<"):
    return (glob(b"numpy", b"dtype") + text(code) + b"K\0K\x01\x87R" + b"(K\x03" + text(order) +
            b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb")


def array(shape=b"K\x02\x85", dt=None, fortran=b"\x89", payload=b"C\x04abcd",
          module=b"numpy._core.multiarray"):
    """_reconstruct and BUILD, in opcodes. shape: those of a tuple."""
    return (glob(module, b"_reconstruct") + glob(b"numpy", b"ndarray") + b"K\0\x85U\x01b\x87R" +
            b"(K\x01" + shape + (dt or dtype_of()) + fortran + payload + b"tb")


def item(value):
    """A dict with this value under "a"."""
    return P + b"}" + text(b"a") + value + b"s."


def at(content, what, back=0):
    return content.index(what) - back


def code_runs():
    """What a pickle could do, and must not."""
    c = P + glob(b"posix", b"system") + text(b"true") + b"\x85R."
    put("UNSUPPORTED", "system", c, "os.system", 2)
    c = P + b"}" + text(b"a") + glob(b"__builtin__", b"eval") + text(b"1") + b"\x85Rs."
    put("UNSUPPORTED", "eval", c, "eval, as a LoDTensor has it", at(c, b"c__b"))
    c = b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93."
    put("UNSUPPORTED", "eval4", c, "eval, protocol 4", at(c, b"\x93"))
    c = P + glob(b"numpy", b"load") + b"."
    put("UNSUPPORTED", "global", c, "another global of numpy", 2)
    c = P + glob(b"numpy\x1b[31m", b"a\xffb") + b"."
    put("UNSUPPORTED", "escape", c, "control characters in a global", 2)
    c = P + glob(b"_codecs", b"encode") + text(b"x") + text(b"rot13") + b"\x86R."
    put("UNSUPPORTED", "codec", c, "another codec", at(c, b"\x86R") + 1)
    c = P + glob(b"numpy", b"ndarray") + b"K\x05\x85\x85R."
    put("UNSUPPORTED", "call", c, "a call of ndarray", at(c, b"R."))
    c = P + glob(b"numpy", b"ndarray") + b"}b."
    put("UNSUPPORTED", "build", c, "BUILD of a class", at(c, b"b."))
    c = P + text(b"a") + b")R."
    put("PICKLE", "notcallable", c, "REDUCE of a text", at(c, b"R."))
    c = item(array(dt=dtype_of(b"O8", b"|"), payload=b"]"))
    put("DTYPE", "object", c, "an array of objects", at(c, b"K\0K\x01\x87R") + 5)
    c = item(array(payload=b"]"))
    put("UNSUPPORTED", "list", c, "a list for bytes", at(c, b"]tb") + 2)


def opcodes():
    for name, op in (("POP", b"0"), ("DUP", b"2"), ("INST", b"(i"), ("OBJ", b"o"), ("INT", b"I1\n"),
                     ("NEWOBJ", b"\x81"), ("PERSID", b"P"), ("EXT1", b"\x82\x01"),
                     ("BINFLOAT", b"G" + bytes(8)), ("NEXT_BUFFER", b"\x97")):
        put("UNSUPPORTED", "op" + name.lower(), P + op + STOP, "opcode " + name,
            3 if name == "INST" else 2)
    put("PICKLE", "opunknown", P + b"\xff.", "0xff is no opcode", 2)
    put("UNSUPPORTED", "protocol5", pickle.dumps({"a": u2(1)}, 5), "protocol 5", 0)
    put("PICKLE", "proto", P + P + b"}.", "PROTO twice", 2)
    put("PICKLE", "memomiss", P + b"h\x07.", "memo entry never set", 2)
    put("PICKLE", "memogap", P + b"}r\x40\x42\x0f\0.", "memo entry far ahead", 3)
    put("LIMIT", "memolimit", P + b"}r\xff\xff\xff\xff.", "memo entry above the limit", 3)
    put("PICKLE", "memotwice", P + b"}q\0q\0.", "memo entry set twice", 5)
    put("PICKLE", "memomark", P + b"(q\0.", "a MARK in the memo", 3)
    put("PICKLE", "memonext", P + b"}q\x01\x94.", "MEMOIZE where BINPUT was", 5)
    for name, op in (("tuple", b"t"), ("dict", b"d"), ("setitems", b"}u"), ("appends", b"]e")):
        put("PICKLE", "nomark" + name, P + op + STOP, "no MARK", 1 + len(op))
    put("PICKLE", "stack", P + b"N\x86.", "two wanted, one there", 3)
    put("PICKLE", "stackmark", P + b"N(\x86.", "a MARK among the items", 4)
    put("PICKLE", "stop", P + b".", "nothing on the stack", 2)
    put("PICKLE", "stoptwo", P + b"}}.", "two values at the end", 4)
    put("PICKLE", "odd", P + b"}(" + text(b"a") + b"u.", "a key without a value", 10)
    put("UNSUPPORTED", "key", P + b"}K\x01Ns.", "a number as key", 6)
    put("PICKLE", "setlist", P + b"]" + text(b"a") + b"Ns.", "SETITEM on a list", 10)
    put("PICKLE", "framein", b"\x80\x04\x95\x0b" + bytes(7) + b"\x95\0" + bytes(7) + b"}.",
        "a frame in a frame", 11)
    put("PICKLE", "frameover", b"\x80\x04\x95\x02" + bytes(7) + b"]K\x01a.", "an opcode over the "
        "end of a frame", 12)
    put("TRUNCATED", "framelong", b"\x80\x04\x95\xff" + bytes(7) + b"}.", "a frame past the file",
        2)


def ends():
    whole = item(array())
    put("TRUNCATED", "empty", b"", "nothing", 0, "dir")
    put("TRUNCATED", "proto1", b"\x80", "one byte", 0, "dir")
    put("PICKLE", "text", b"{}\n", "no pickle", 0, "dir")
    put("TRUNCATED", "nostop", whole[:-1], "no STOP", len(whole) - 1)
    put("TRUNCATED", "cut", whole[:-8], "ends inside the payload", at(whole, b"C\x04abcd"))
    put("TRAILING", "behind", whole + b"\0", "a byte behind STOP", len(whole))
    put("TRUNCATED", "bytes8", P + b"\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
        "BINBYTES8 past the end", 2)
    put("TRUNCATED", "bytes8max", P + b"\x8e" + b"\xff" * 8 + b".", "BINBYTES8 of 2^64 - 1", 2)
    put("TRUNCATED", "unicode", P + b"X\xff\xff\xff\xffa.", "BINUNICODE past the end", 2)
    put("TRUNCATED", "global", P + b"cnumpy", "GLOBAL without an end", 2)
    put("LIMIT", "globallong", P + b"c" + b"a" * 5000 + b"\n", "GLOBAL of 5000 letters", 2)


def limits():
    put("LIMIT", "tuples", P + b")" + b"\x85" * 1000000 + STOP, "10^6 nested tuples", 66)
    put("LIMIT", "lists", P + b"]" * 70 + b"a" * 69 + STOP, "70 nested lists", 135)
    put("LIMIT", "itself", P + b"]q\0" + b"h\0a" * 70 + STOP, "a list in itself")
    put("LIMIT", "marks", P + b"(" * 200000 + STOP, "2 * 10^5 values on the stack", 100002)
    put("LIMIT", "name", P + b"}" + text(b"n" * 5000) + array() + b"s.", "a name of 5000 letters",
        8)
    c = item(array(shape=b"(" + b"K\x01" * 15 + b"K\x02" + b"K\x01" * 2 + b"t"))
    put("LIMIT", "rank", c, "18 axes", at(c, b"tbs.") + 1)


def arrays():
    def bad(code, name, value, reason):
        c = item(value)
        put(code, name, c, reason, len(c) - 3 if c[-3:-2] == b"b" else "-")

    bad("UNSUPPORTED", "fortran", array(fortran=b"\x88"), "Fortran order")
    bad("SIZE", "short", array(shape=b"K\x03\x85"), "shape asks for more")
    bad("SIZE", "long", array(shape=b"K\x01\x85"), "shape asks for less")
    bad("SHAPE", "negative", array(shape=b"J\xff\xff\xff\xff\x85"), "an axis of -1")
    bad("SHAPE", "none", array(shape=b"N\x85"), "an axis of None")
    bad("OVERFLOW", "wrap", array(shape=b"\x8a\x08" + bytes(7) + b"\x40" + b"K\x04\x86"), "wraps")
    c = item(array(shape=b"\x8a\x09" + bytes(8) + b"\x01\x85"))
    put("UNSUPPORTED", "longint", c, "2^64", at(c, b"\x8a\x09"))
    bad("UNSUPPORTED", "state", array(shape=b"]"), "a list for a shape")
    c = item(array(dt=dtype_of(b"u2", b">")))
    put("DTYPE", "bigendian", c, "big-endian", at(c, b"K\0tb") + 3)
    c = item(array(dt=dtype_of(b"f8")))
    put("DTYPE", "f8", c, "float64", at(c, b"K\0K\x01\x87R") + 5)
    bad("DTYPE", "unbuilt", array(dt=glob(b"numpy", b"dtype") + text(b"u2") + b"K\0K\x01\x87R"),
        "a dtype that was never built")
    whole = array()
    c = item(whole[:whole.index(b"(K\x01")])
    put("PICKLE", "hollow", c, "an array that was never built", at(c, b"\x87R") + 1)
    c = item(whole + whole[whole.index(b"(K\x01"):])
    put("PICKLE", "twice", c, "an array built twice", len(c) - 3)
    for name, value in (("number", b"K\x05"), ("nothing", b"N"), ("dict", b"}"),
                        ("bytes", b"C\x01a"), ("pair", text(b"x") + text(b"y") + b"\x86")):
        put("UNSUPPORTED", "value" + name, item(value), "a value that is no array", 8)
    put("UNSUPPORTED", "toplist", P + b"].", "a list", 3)
    put("UNSUPPORTED", "toparray", P + whole + b".", "an array without a name", 2 + len(whole))
    enc = glob(b"_codecs", b"encode") + text(b"\xc3\xbf" * 5) + text(b"latin1") + b"\x86R"
    bad("SIZE", "latin1long", array(payload=enc), "latin1: more characters than can be")
    enc = glob(b"_codecs", b"encode") + text(b"abc") + text(b"latin1") + b"\x86R"
    bad("SIZE", "latin1short", array(payload=enc), "latin1: fewer bytes than can be")


def unread():
    """Opens; what is wrong shows when the bytes are read."""
    def bad(name, content, reason, where):
        c = item(array(payload=glob(b"_codecs", b"encode") + text(content) + text(b"latin1") +
                       b"\x86R"))
        put("PICKLE", "latin1" + name, c, reason, at(c, content) + where, "late")

    bad("wide", b"ab\xc4\x80cd", "latin1: U+0100", 2)
    bad("lone", b"abc\xff", "latin1: not UTF-8", 3)
    bad("half", b"abc\xc3", "latin1: ends inside a character", 3)
    bad("few", b"ab\xc3\xbf\xc3"[:4], "latin1: three characters for four bytes", 4)
    bad("more", b"abcde", "latin1: five characters for four bytes", 4)
    bad("overlong", b"\xc1\xa1bcd", "latin1: overlong", 0)


def keys():
    twice = P + b"}" + text(b"a") + array() + b"s" + text(b"a") + array() + b"s."
    put("DUPLICATE", "keytwice", twice, "a name twice", twice.rindex(b"X\1\0\0\0a") + 5)
    put("NAME", "keynul", P + b"}" + text(b"a\0b") + array() + b"s.", "a NUL in a name", 8)
    put("UTF8", "keyutf8", P + b"}" + text(b"a\xff") + array() + b"s.", "not UTF-8", 9)
    put("UTF8", "keystring", P + b"}U\x02a\xe9" + array() + b"s.", "a Python 2 name, not ASCII", 6)
    put("PICKLE", "tablelist", P + b"}" + text(b"StructuredToParameterName@@") + b"]s.",
        "the table of names is a list", 8)


def sliced():
    def bad(code, name, value, reason, change=None):
        if change:
            change(value, value["UnpackBigParamInfor@@"])
        put(code, "slice" + name, pickle.dumps(value, 3), reason)

    def three():
        return slices("w", u2, (4, 6), [10, 10, 4])

    bad("SIZE", "short", slices("w", u2, (4, 6), [10, 10, 3]), "less than OriginShape")
    bad("SIZE", "long", slices("w", u2, (4, 6), [10, 10, 5]), "more than OriginShape")
    bad("PICKLE", "missing", three(), "a slice is missing", lambda d, u: d.pop("w@@.1"))
    bad("DUPLICATE", "whole", three(), "the whole is there too",
        lambda d, u: d.update(w=u2(4, 6)))
    bad("PICKLE", "again", three(), "a slice twice",
        lambda d, u: u["w"].update(slices=["w@@.0", "w@@.0"]))
    bad("PICKLE", "none", three(), "no slices", lambda d, u: u["w"].update(slices=[]))
    bad("PICKLE", "notext", three(), "a number for a slice",
        lambda d, u: u["w"].update(slices=["w@@.0", 1, 2]))
    bad("PICKLE", "noshape", three(), "no OriginShape", lambda d, u: u["w"].pop("OriginShape"))
    bad("PICKLE", "extra", three(), "another key", lambda d, u: u["w"].update(more=1))
    bad("SHAPE", "negative", three(), "a negative axis",
        lambda d, u: u["w"].update(OriginShape=(-4, -6)))
    bad("OVERFLOW", "wrap", three(), "a product that wraps",
        lambda d, u: u["w"].update(OriginShape=(1 << 33, 1 << 33)))
    bad("PICKLE", "dtype", three(), "slices of two dtypes",
        lambda d, u: d.update({"w@@.1": ndarray(F4, (5,), bits(20))}))
    bad("PICKLE", "deep", three(), "a slice with two axes",
        lambda d, u: d.update({"w@@.1": u2(2, 5)}))
    bad("PICKLE", "list", three(), "a list for the whole table",
        lambda d, u: d.update({"UnpackBigParamInfor@@": []}))
    bad("PICKLE", "table", three(), "the table of names as a slice", lambda d, u: (
        d.update({"StructuredToParameterName@@": {}}),
        u["w"].update(slices=["StructuredToParameterName@@"])))


# ---- A model -----------------------------------------------------------------------------


def read_safetensors(path):
    with open(path, "rb") as f:
        raw = f.read()
    n = struct.unpack("<Q", raw[:8])[0]
    for name, t in json.loads(raw[8:8 + n]).items():
        if name != "__metadata__":
            begin, end = t["data_offsets"]
            yield name, t["dtype"], t["shape"], raw[8 + n + begin:8 + n + end]


def model(path):
    kinds = {"BF16": U2, "F32": F4}
    state = {name: ndarray(kinds[dt], shape, data)
             for name, dt, shape, data in read_safetensors(path)}
    os.makedirs(os.path.join(ROOT, "model"), exist_ok=True)
    for protocol in (2, 3, 4):
        name = f"model/protocol{protocol}.pdparams"
        with open(os.path.join(ROOT, name), "wb") as f:
            pickle.dump(state, f, protocol)
        print("model", "OK", name, "-", "the model", sep="\t")


good()
code_runs()
opcodes()
ends()
limits()
arrays()
unread()
keys()
sliced()
if len(sys.argv) > 2:
    model(sys.argv[2])
