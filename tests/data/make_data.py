#!/usr/bin/env python3
"""Writes good/, bad/ and unsupported/ files, each with one line of reason.

usage: make_data.py [DIRECTORY]   (default: the directory of this file)

Prints one line a file: kind, expected code, path, reason, tab-separated. kind is
what opens it: file, dir, config, npz or npy. good/ must load (code OK), bad/ must be
refused with the code, unsupported/ is well formed and refused by name. The ids are
those of tests/data/README.md. Standard library only.
"""
import json
import os
import struct
import sys
import zipfile
import zlib

ROOT = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))


def note(kind, code, path, reason):
    print(kind, code, path, reason, sep="\t")


def folder(code):
    return {"OK": "good", "UNSUPPORTED": "unsupported"}.get(code, "bad")


def place(code, name):
    path = os.path.join(folder(code), name)
    full = os.path.join(ROOT, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    return path, full


def put(kind, code, name, content, reason):
    path, full = place(code, name)
    with open(full, "wb") as f:
        f.write(content)
    note(kind, code, path, reason)


# ---- safetensors ---------------------------------------------------------------


def with_header(header, data=b"", length=None):
    """Length, header text, data. length overrides the truth."""
    if isinstance(header, str):
        header = header.encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensor(dtype, shape, begin, end, extra=""):
    """Shape and offsets as JSON text or as lists."""
    if isinstance(shape, list):
        shape = json.dumps(shape)
    return f'{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]{extra}}}'


def one(text, data=b""):
    """A file with one tensor "t" described by text."""
    return with_header('{"t":' + text + "}", data)


def st(code, name, content, reason):
    put("file", code, name + ".safetensors", content, reason)


GOOD_U8 = tensor("U8", [4], 0, 4)


def safetensors_framing():
    st("SHORT", "S01", b"", "empty file")
    st("SHORT", "S02", b"\2\0\0\0\0\0\0", "7 bytes: no room for the header length")
    st("HEADER_LENGTH", "S03", struct.pack("<Q", 60), "header length 60 in a file of 8 bytes")
    st("HEADER_LARGE", "S04", with_header("{}", length=100000001),
       "header one byte over 100,000,000")
    st("HEADER_LARGE", "S05", with_header("{}", length=2**64 - 1), "8 + N wraps to 7")
    st("HEADER_LENGTH", "S06", with_header("{}", length=3), "N = size - 7")
    st("JSON", "S07", with_header(""), "header of no bytes")
    st("UTF8", "S08", with_header(b'{"\xff":1}'), "byte 0xFF in the header")
    st("UTF8", "S09", with_header(b'{"\xc0\x80":1}'), "overlong form of NUL")
    st("UTF8", "S10", with_header(b'{"\xed\xa0\x80":1}'), "surrogate as UTF-8")
    st("UTF8", "S10b", with_header(b'{"\xf4\x90\x80\x80":1}'), "past U+10FFFF")
    st("UTF8", "S10c", with_header(b'{} \xe2\x82'), "sequence cut short at the end")
    st("HEADER_LARGE", "S77-gguf", b"GGUF\3\0\0\0" + bytes(64), "a .gguf under this name")
    st("HEADER_LARGE", "S77-pt", b"PK\3\4" + b"\x14\0\0\x08\x08\0" + bytes(64),
       "a .pt (zip) under this name")


def safetensors_json():
    texts = {
        "S11": ("{", "object without end"),
        "S12": ("[]", "a list"),
        "S13": ("null", "null"),
        "S14": ("{}{}", "two objects"),
        "S15": ('{"t":' + GOOD_U8 + ",}", "trailing comma"),
        "S16": ("{/* no */}", "comment"),
        "S17": ("\ufeff{}", "byte order mark"),
        "S18": ("{}\0\0", "NUL padding behind the object"),
        "S19": ('{"a\nb":1}', "raw newline in a string"),
        "S20": (r'{"\ud800":1}', "lone high surrogate as an escape"),
        "S20b": (r'{"\udc00":1}', "lone low surrogate as an escape"),
        "S20c": (r'{"\ud800A":1}', "high surrogate before a letter"),
        "S20d": (r'{"\x41":1}', "escape that JSON does not have"),
        "S31": ('{"t":4}', "the value of a tensor is a number"),
        "S31b": ('{"t":[]}', "the value of a tensor is a list"),
        "S31c": ('{"t" 1}', "no colon"),
        "S31d": ("{'t':1}", "single quotes"),
        "S31e": ('{"t":{"dtype":NaN}}', "NaN"),
    }
    for name, (text, reason) in texts.items():
        st("JSON", name, with_header(text, bytes(4) if "U8" in text else b""), reason)
    st("JSON", "S15b", with_header('{"t":{"dtype":"BF17"},}'),
       "unknown type, and a trailing comma behind it: the grammar comes first")


def safetensors_limits():
    st("LIMIT", "S21", with_header("[" * 1000), "depth bomb of 1000 brackets")
    nested = '{"t":' + tensor("U8", [4], 0, 4, ',"x":[[[]]]') + "}"
    st("LIMIT", "S22", with_header(nested, bytes(4)), "extra member, five levels in all")
    many = ",".join(f'"{i:x}":' + tensor("U8", "[0]", 0, 0) for i in range(1000001))
    st("LIMIT", "S23", with_header("{" + many + "}"), "1,000,001 tensors")
    numbers = "[" + "0," * 4999999 + "0]"
    st("LIMIT", "S24", one(tensor("U8", [4], 0, 4, ',"x":' + numbers), bytes(4)),
       "5,000,000 numbers")
    st("LIMIT", "S25", with_header('{"' + "n" * 5000 + '":' + GOOD_U8 + "}", bytes(4)),
       "name of 5000 bytes")
    st("LIMIT", "S46", one(tensor("U8", [1] * 17, 0, 1), bytes(1)), "17 axes")


def safetensors_names():
    pair = '{"a":' + tensor("U8", [4], 0, 4) + ',"%s":' + tensor("U8", [4], "%d", "%d") + "}"
    st("DUPLICATE", "S26", with_header(pair % ("a", 4, 8), bytes(8)), "same key, other offsets")
    st("DUPLICATE", "S27", with_header(pair % ("a", 0, 4), bytes(4)), "same key, same offsets")
    st("DUPLICATE", "S28", with_header(pair % (r"\u0061", 4, 8), bytes(8)),
       "a and its escaped form are one key")
    st("DUPLICATE", "S29", one(tensor("U8", [4], 0, 4, ',"dtype":"U8"'), bytes(4)),
       "dtype twice in one tensor")
    st("DUPLICATE", "S29b", one(tensor("U8", [4], 0, 4, ',"x":{"k":1,"k":2}'), bytes(4)),
       "key twice in an object that is ignored")
    st("DUPLICATE", "S29c", with_header('{"__metadata__":{"a":"1","a":"2"}}'),
       "key twice in __metadata__")
    st("DUPLICATE", "S29d", with_header('{"__metadata__":{},"__metadata__":{}}'),
       "__metadata__ twice")
    st("NAME", "S30", with_header(r'{"a\u0000b":' + GOOD_U8 + "}", bytes(4)), "NUL in a name")
    st("METADATA", "S36", with_header('{"__metadata__":[]}'), "__metadata__ as a list")
    st("METADATA", "S37", with_header('{"__metadata__":{"a":1}}'), "a number in __metadata__")
    st("METADATA", "S38", with_header('{"__metadata__":' + GOOD_U8 + "}", bytes(4)),
       "a tensor called __metadata__")


def safetensors_members():
    cases = {
        "S32": ("DTYPE", '{"shape":[4],"data_offsets":[0,4]}', "no dtype"),
        "S33": ("DTYPE", tensor("BF17", [2], 0, 4), "unknown type"),
        "S34": ("DTYPE", tensor("bf16", [2], 0, 4), "type in small letters"),
        "S35": ("DTYPE", '{"dtype":4,"shape":[4],"data_offsets":[0,4]}', "type as a number"),
        "S39": ("SHAPE", '{"dtype":"U8","data_offsets":[0,4]}', "no shape"),
        "S40": ("SHAPE", tensor("U8", "null", 0, 4), "shape is null"),
        "S41": ("SHAPE", tensor("U8", "{}", 0, 4), "shape is an object"),
        "S41b": ("SHAPE", tensor("U8", '["4"]', 0, 4), "a string in the shape"),
        "S42": ("NUMBER", tensor("U8", "[2,-1]", 0, 4), "negative axis"),
        "S43": ("NUMBER", tensor("U8", "[2.0]", 0, 4), "axis with a point"),
        "S44": ("NUMBER", tensor("U8", "[1e3]", 0, 4), "axis with an exponent"),
        "S45": ("NUMBER", tensor("U8", "[01]", 0, 4), "axis with a leading zero"),
        "S47": ("NUMBER", tensor("U8", [2**64], 0, 4), "axis of 2^64"),
        "S57": ("OFFSETS", '{"dtype":"U8","shape":[4]}', "no offsets"),
        "S58": ("OFFSETS", '{"dtype":"U8","shape":[4],"data_offsets":[4]}', "one offset"),
        "S59": ("OFFSETS", '{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}', "three offsets"),
        "S60": ("OFFSETS", tensor("U8", [4], 4, 0), "begin > end"),
        "S61": ("NUMBER", tensor("U8", [4], -1, 4), "offset -1"),
        "S62": ("NUMBER", tensor("U8", [4], 0, 4.5), "offset 4.5"),
        "S64": ("NUMBER", tensor("U8", [4], 0, 2**64), "offset 2^64"),
    }
    for name, (code, text, reason) in cases.items():
        st(code, name, one(text, bytes(4)), reason)


def safetensors_sizes():
    cases = {
        "S48": ("OVERFLOW", "U8", [2**63, 4, 0], 4, "product wraps before the zero"),
        "S49": ("OVERFLOW", "U8", [2**62, 4], 4, "product wraps to 0"),
        "S50": ("OVERFLOW", "F64", [2**61], 4, "bytes wrap to 0"),
        "S51": ("OVERFLOW", "F32", [2**42 + 1, 2**22], 4, "product wraps to something small"),
        "S52": ("SUBBYTE", "F4", [1, 3], 2, "12 bits"),
        "S53": ("SUBBYTE", "F6_E2M3", [3], 3, "18 bits"),
        "S54": ("SIZE", "I32", [2, 2], 4, "16 bytes wanted, 4 given"),
        "S56": ("SIZE", "U8", [], 0, "rank 0 is one element, not none"),
    }
    for name, (code, dtype, shape, end, reason) in cases.items():
        st(code, name, one(tensor(dtype, shape, 0, end), bytes(end)), reason)
    st("SIZE", "S55", with_header('{"a":' + tensor("F32", [2], 0, 7) + ',"b":' +
       tensor("U8", [1], 7, 8) + "}", bytes(8)), "one byte less than the type needs")


def safetensors_layout():
    def two(b0, b1, size):
        return with_header('{"a":' + GOOD_U8 + ',"b":' + tensor("U8", [b1 - b0], b0, b1) + "}",
                           bytes(size))
    st("TRUNCATED", "S63", one(tensor("U8", [2**53 + 1], 0, 2**53 + 1), bytes(4)),
       "2^53 + 1 bytes in a small file")
    st("HOLE", "S65", one(tensor("U8", [4], 8, 12), bytes(12)), "data begins at 8")
    st("HOLE", "S66", two(6, 10, 10), "hole between two tensors")
    st("OVERLAP", "S67", two(3, 7, 7), "overlap by one byte")
    ten = ",".join(f'"{i}":' + tensor("U8", [16], 0, 16) for i in range(10))
    st("OVERLAP", "S68", with_header("{" + ten + "}", bytes(16)), "ten tensors on the same bytes")
    st("TRAILING", "S69", one(GOOD_U8, bytes(4) + b"and more"), "text behind the data")
    st("TRUNCATED", "S70", one(GOOD_U8, bytes(2)), "two bytes missing")
    st("TRUNCATED", "S71", one(GOOD_U8), "header only")
    st("TRAILING", "S72", one(GOOD_U8, bytes(4) + b"PK\5\6" + bytes(18)), "a zip appended")


def safetensors_special():
    path, full = place("TRAILING", "S73.safetensors")
    with open(full, "wb") as f:
        f.write(one(GOOD_U8, bytes(4)))
        try:
            f.truncate(5 << 40)
            note("file", "TRAILING", path, "sparse file of 5 TB, small header")
        except OSError:
            print(f"{path}: no sparse file of 5 TB here", file=sys.stderr)
    path, full = place("NOT_A_FILE", "S76-fifo.safetensors")
    if not os.path.lexists(full):
        os.mkfifo(full)
    note("file", "NOT_A_FILE", path, "a FIFO: opening it must not wait")
    path, full = place("NOT_A_FILE", "S76-directory.safetensors")
    os.makedirs(full, exist_ok=True)
    note("file", "NOT_A_FILE", path, "a directory")
    path, full = place("NOT_A_FILE", "I08.safetensors")
    if not os.path.lexists(full):
        os.symlink("/dev/zero", full)
    note("file", "NOT_A_FILE", path, "a link to a device")


def safetensors_good():
    def ok(name, content, reason):
        st("OK", name, content, reason)
    ok("empty-padded", with_header("{}      "), "no tensors, padded with spaces")
    ok("white-space", with_header(" \n\t{ } \r\n"), "white space on both sides")
    ok("metadata-only", with_header('{"__metadata__":{"format":"np","note":""}}'), "metadata only")
    ok("metadata-null", with_header('{"__metadata__":null}'), "__metadata__ is null")
    long = "m" * 100000
    ok("metadata-long", with_header('{"__metadata__":{"note":"' + long + '"}}'),
       "the limit of names is not one of metadata")
    ok("rank-0", one(tensor("F32", [], 0, 4), bytes(4)), "rank 0: one element")
    ok("no-elements", one(tensor("F32", [2, 0], 0, 0)), "axis of 0")
    ok("zero-first", one(tensor("F32", [0, 2**63, 4], 0, 0)),
       "left to right this product does not wrap")
    ok("odd-offset", with_header('{"a":' + tensor("U8", [1], 0, 1) + ',"b":' +
       tensor("BF16", [2], 1, 5) + "}", bytes(5)), "BF16 at an odd offset")
    ok("f4", one(tensor("F4", [2, 3], 0, 3), bytes(3)), "24 bits are whole bytes")
    bits = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8,
            "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16,
            "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64,
            "I64": 64, "U64": 64}
    at, rows = 0, []
    for name, n in bits.items():
        rows.append(f'"t.{name}":' + tensor(name, [4], at, at + n // 2))
        at += n // 2
    ok("all-types", with_header("{" + ",".join(rows) + "}", bytes(at)), "all 22 types")
    ok("reverse", with_header("{" + ",".join(reversed(rows)) + "}", bytes(at)),
       "keys in reverse order")
    ok("extra-member", one(tensor("U8", [4], 0, 4, ',"x":{"k":[1.5e3,true]}'), bytes(4)),
       "an extra member is ignored")
    ok("same-key-elsewhere", with_header(
        '{"__metadata__":{"k":"1"},"a":' + tensor("U8", [4], 0, 4, ',"k":1') + ',"b":' +
        tensor("U8", [4], 4, 8, ',"k":{"k":{}}') + "}", bytes(8)), "one key in several objects")
    names = ["größe.权重", "a\nb", "\x1b[31mred", 'quo"te', "<script>", "", " ", "\u202egnp"]
    ok("names", with_header(json.dumps({
        n: {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]}
        for i, n in enumerate(names)}), bytes(8)), "names that must come out escaped")
    ok("name-4096", with_header('{"' + "n" * 4096 + '":' + GOOD_U8 + "}", bytes(4)), "longest name")
    ok("rank-16", one(tensor("U8", [1] * 16, 0, 1), bytes(1)), "16 axes")
    text = '{"t":' + GOOD_U8 + "}"
    text += " " * ((5 - len(text)) % 8)
    ok("odd-header", with_header(text, bytes(4)), "header length not a multiple of 8")
    ok("nan", one(tensor("F32", [1], 0, 4), struct.pack("<f", float("nan"))), "NaN is legal here")


# ---- Index and directory -------------------------------------------------------------


def directory(code, name, index, reason, shards=("model.safetensors",), kind="dir"):
    path, full = place(code, name)
    os.makedirs(full, exist_ok=True)
    for shard in shards:
        with open(os.path.join(full, shard), "wb") as f:
            f.write(one(GOOD_U8, bytes(4)))
    if index is not None:
        with open(os.path.join(full, "model.safetensors.index.json"), "w", encoding="utf-8") as f:
            f.write(index if isinstance(index, str) else json.dumps(index))
    note(kind, code, path, reason)


def indices():
    def mapped(shard, **more):
        return {"weight_map": {"t": shard, **more}}
    directory("PATH", "I01", mapped("../x.safetensors"), "shard in the parent directory")
    directory("PATH", "I01b", mapped(".."), "shard is ..")
    directory("PATH", "I02", mapped("/etc/passwd"), "absolute path")
    directory("PATH", "I02b", mapped("a\0.safetensors"), "NUL in a shard name")
    directory("PATH", "I02c", mapped(""), "empty shard name")
    directory("NO_SHARD", "I03", mapped("model-00001-of-00001.safetensors"), "shard is missing", ())
    directory("INDEX", "I04", mapped("model.safetensors", u="model.safetensors"),
              "mapped tensor is not in its shard")
    directory("PATH", "I05", mapped("./model.safetensors"), "not a plain file name")
    directory("INDEX", "I06", '{"weight_map":{"t":4}}', "shard is a number")
    directory("DUPLICATE", "I07",
              '{"weight_map":{"t":"model.safetensors","t":"model.safetensors"}}',
              "tensor named twice")
    directory("DUPLICATE", "I07b", '{"weight_map":{"t":"model.safetensors"},"weight_map":{}}',
              "weight_map twice")
    directory("INDEX", "I09", '{"metadata":{"total_size":4}}', "no weight_map")
    directory("INDEX", "I09b", '{"weight_map":{}}', "empty weight_map")
    directory("INDEX", "I09c", '{"weight_map":[]}', "weight_map is a list")
    directory("INDEX", "I09d", "[]", "a list")
    directory("JSON", "I10", '{"weight_map":{"t":"model.safetensors"}} x', "text behind the object")
    directory("INDEX", "I11", mapped("other.safetensors"),
              "a second checkpoint that the index does not name",
              ("model.safetensors", "other.safetensors"))
    directory("NO_SHARD", "I12", None, "neither index nor model.safetensors", ())
    path, full = place("NOT_A_FILE", "I08")
    os.makedirs(full, exist_ok=True)
    if not os.path.lexists(os.path.join(full, "model.safetensors")):
        os.symlink("/dev/zero", os.path.join(full, "model.safetensors"))
    note("dir", "NOT_A_FILE", path, "the shard is a link to a device")
    directory("OK", "single", None, "one file, no index")
    directory("OK", "indexed", {"metadata": {"total_size": 4}, **mapped("model.safetensors")},
              "one file and its index")
    directory("OK", "unlisted", mapped("a.safetensors"), "a file that the index does not name",
              ("a.safetensors", "b.safetensors"))
    path, full = place("OK", "linked")
    os.makedirs(full, exist_ok=True)
    if not os.path.lexists(os.path.join(full, "model.safetensors")):
        os.symlink("../single/model.safetensors", os.path.join(full, "model.safetensors"))
    note("dir", "OK", path, "a link to a regular file, as hub caches have")


# ---- config.json ---------------------------------------------------------------------------


def configs():
    def config(code, name, text, reason):
        path, full = place(code, name)
        os.makedirs(full, exist_ok=True)
        with open(os.path.join(full, "config.json"), "wb") as f:
            f.write(text if isinstance(text, bytes) else text.encode())
        note("config", code, path, reason)
    path, full = place("NO_CONFIG", "C01")
    os.makedirs(full, exist_ok=True)
    note("config", "NO_CONFIG", path, "no config.json")
    config("DUPLICATE", "C02", '{"hidden_size":1,"hidden_size":2}', "key twice")
    config("DUPLICATE", "C02b", '{"a":{"k":1,"k":2}}', "key twice, one level down")
    config("DUPLICATE", "C02c", r'{"ab":1,"a\u0062":2}', "key and its escaped form")
    config("NUMBER", "C03", '{"hidden_size":1e999}', "a number that cJSON reads as infinity")
    config("JSON", "C04", '{"hidden_size":1} x', "text behind the object")
    for i, number in enumerate(["01", "1.", "1e", "0x10", "-", "1.5.2"]):
        config("NUMBER", f"C20-{i}", '{"hidden_size":%s}' % number, f"{number} is no JSON number")
    config("JSON", "C21", "\ufeff{}", "byte order mark")
    config("UTF8", "C22", b'{"a":"\xff"}', "invalid UTF-8")
    config("JSON", "C23", '{"a":"\x01"}', "raw control byte")
    config("NAME", "C24", r'{"a\u0000b":1}', "NUL in a key: cJSON would read a")
    config("LIMIT", "C25", '{"a":"' + "x" * (1 << 20) + '"}', "more than 1 MiB")
    config("LIMIT", "C26", '{"a":' + "[" * 70 + "]" * 70 + "}", "70 levels")
    config("JSON", "C27", "[1]", "a list")
    config("JSON", "C28", '{"a":+1}', "plus sign")
    config("OK", "config", '{"hidden_size": 4096, "x": {"k": [1.5, null]}, "y": {"k": true}}\n',
           "a config")


# ---- npz and npy ------------------------------------------------------------------------------


def npy(descr="'<i4'", shape="(3,)", data=struct.pack("<3i", 1, 2, 3), fortran="False",
        version=(1, 0), header=None):
    if header is None:
        header = "{'descr': %s, 'fortran_order': %s, 'shape': %s, }" % (descr, fortran, shape)
    wide = version[0] > 1
    padding = -(len(header) + 1 + (12 if wide else 10)) % 64
    header = header.encode("latin-1") + b" " * padding + b"\n"
    size = struct.pack("<I" if wide else "<H", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header + data


def local(name, content, method, crc=None, sizes=None, packed=None):
    packed = content if packed is None else packed
    a, b = sizes or (len(packed), len(content))
    crc = zlib.crc32(content) if crc is None else crc
    return struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, method, 0, 33, crc, a, b,
                       len(name), 0) + name


def zip_of(members):
    """members: dicts with name, content and what is wrong with them."""
    out, central = b"", b""
    for m in members:
        name, content, method = m["name"].encode(), m["content"], m.get("method", 0)
        packed = content
        if method == 8:
            z = zlib.compressobj(6, zlib.DEFLATED, -15)
            packed = z.compress(content) + z.flush()
        packed = m.get("packed", packed)
        crc = m.get("crc", zlib.crc32(content))
        offset = m.get("offset", len(out))
        out += local(m.get("local_name", name), content, m.get("local_method", method), crc,
                     m.get("local_sizes"), packed) + packed
        central += struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, m.get("flags", 0), method,
                               0, 33, crc, m.get("packed_size", len(packed)),
                               m.get("size", len(content)), len(name), 0, 0, 0, 0, 0, offset) + name
    return out + central + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(members), len(members),
                                       len(central), len(out), 0)


def npz_good():
    def ok(name, content, reason):
        put("npz", "OK", name + ".npz", content, reason)
    a = npy()
    ok("stored", zip_of([{"name": "a.npy", "content": a}]), "stored member, as numpy.savez")
    ok("deflated", zip_of([{"name": "a.npy", "content": a, "method": 8}]), "deflated member")
    ok("local-sizes", zip_of([{"name": "a.npy", "content": a, "method": 8,
                               "local_sizes": (0xFFFFFFFF, 0xFFFFFFFF)}]),
       "lying sizes in the local header: the directory decides")
    ok("empty", zip_of([]), "no members")
    for version in (2, 0), (3, 0):
        ok(f"npy-{version[0]}", zip_of([{"name": "a.npy", "content": npy(version=version)}]),
           f"npy version {version[0]}.0")
    ok("types", zip_of([
        {"name": "f.npy", "content": npy("'<f4'", "(1, 3)"), "method": 8},
        {"name": "u.npy", "content": npy("'|u1'", "(12,)")},
        {"name": "l.npy", "content": npy("'<i8'", "()", bytes(8))},
        {"name": "z.npy", "content": npy("'<f4'", "(2, 0)", b"")}]),
       "the four types, rank 0, no elements")
    ok("fortran-1", zip_of([{"name": "a.npy", "content": npy(fortran="True")}]),
       "Fortran order of one axis is the same")
    _, full = place("OK", "python.npz")
    with zipfile.ZipFile(full, "w", zipfile.ZIP_DEFLATED) as z:
        with z.open("a.npy", "w", force_zip64=True) as f:
            f.write(a)
    note("npz", "OK", "good/python.npz", "zip64 in the local header, as numpy forces it")


def npz_bad():
    a = npy()

    def bad(code, name, content, reason):
        put("npz", code, name + ".npz", content, reason)

    def one_member(code, number, reason, **fault):
        bad(code, number, zip_of([{"name": "a.npy", "content": a, **fault}]), reason)
    good = zip_of([{"name": "a.npy", "content": a, "method": 8}])
    bad("ZIP", "Z01", good[:-1], "end record cut by one byte")
    bad("ZIP", "Z02", b"", "empty file")
    bad("ZIP", "Z03", good + b"x", "text behind the end record")
    bad("ZIP", "Z04", good[3:], "front cut off: offsets do not fit")
    bad("ZIP", "Z05", good[:-6] + struct.pack("<IH", 0xFFFFFF, 0), "directory past the end")
    bad("UNSUPPORTED", "Z06", good[:-18] + struct.pack("<HH", 1, 1) + good[-14:], "split archive")
    one_member("CRC", "Z07", "wrong checksum in a stored member", crc=1)
    one_member("CRC", "Z08", "wrong checksum in a deflated member", crc=1, method=8)
    one_member("UNSUPPORTED", "Z09", "method 12 (bzip2)", method=12)
    one_member("UNSUPPORTED", "Z10", "encrypted", flags=1)
    one_member("PATH", "Z11", "member ../a.npy", name="../a.npy")
    one_member("PATH", "Z12", "absolute member name", name="/a.npy")
    bad("DUPLICATE", "Z13", zip_of([{"name": "a.npy", "content": a}] * 2), "member twice")
    bad("ZIP", "Z14", zip_of([{"name": "a.npy", "content": a},
                              {"name": "b.npy", "content": a, "offset": 0}]),
        "two members share bytes")
    one_member("ZIP", "Z15", "local header has another name", local_name=b"b.npy")
    one_member("ZIP", "Z16", "local header has another method", local_method=8)
    one_member("ZIP", "Z17", "stored with two sizes", size=len(a) + 1)
    one_member("ZIP", "Z18", "deflate data cut short", method=8, packed=zlib.compress(a)[2:-8])
    one_member("ZIP", "Z19", "bad deflate data", method=8, packed=b"\xff" * 40)
    one_member("SIZE", "Z20", "directory says less than the shape needs", method=8, size=len(a) - 4)
    one_member("SIZE", "Z21", "directory says more than the shape needs", method=8, size=len(a) + 4)
    bad("ZIP", "Z22", zip_of([{"name": "a.npy", "content": npy(data=bytes(16)), "method": 8,
                               "size": len(a)}]), "more data than directory and shape say")
    bomb = npy("'|u1'", "(4000000000,)", b"")
    one_member("ZIP", "Z23", "4 GB out of some bytes: more than deflate can reach", content=bomb,
               method=8, size=4000000128)
    heads = {
        "N01": ("NPY", npy("'|O'"), "object array"),
        "N02": ("NPY", npy("'>i4'"), "big-endian"),
        "N03": ("NPY", npy("'<f8'"), "type that is not read"),
        "N04": ("NPY", npy("[('a', '<i4')]"), "structured type"),
        "N05": ("NPY", npy(shape="(3, 1)", fortran="True"), "Fortran order"),
        "N06": ("NPY", npy(version=(9, 0)), "npy version 9.0"),
        "N07": ("NPY", b"NUMPY" + a, "bad magic"),
        "N08": ("OVERFLOW", npy(shape="(4611686018427387904, 4)"), "shape product wraps"),
        "N09": ("OVERFLOW", npy(shape="(4611686018427387904,)"), "byte count wraps"),
        "N10": ("SIZE", npy(shape="(4,)"), "shape needs more than is there"),
        "N11": ("SIZE", npy(shape="(2,)"), "shape needs less than is there"),
        "N12": ("NPY", npy(shape="(3)"), "shape is a number in brackets"),
        "N13": ("NPY", npy(shape="(-3,)"), "negative axis"),
        "N14": ("NPY", npy(shape="(3.0,)"), "axis with a point"),
        "N15": ("NPY", npy(shape="(1,1,1,1,1,1,1,1,3)"), "nine axes"),
        "N16": ("NPY", npy(header="{'descr': '<i4', 'fortran_order': False}"), "no shape"),
        "N17": ("NPY", npy(header="{'descr': '<i4', 'fortran_order': False, 'shape': (3,), "
                                  "'x': 1}"), "unknown key"),
        "N18": ("NPY", npy(header="{'descr': '<i4', 'descr': '<i4', 'shape': (3,)}"), "key twice"),
        "N19": ("NPY", npy(header="{'descr': '<i4', 'fortran_order': False, 'shape': (3,)} 1"),
                "text behind the dict"),
        "N20": ("NPY", npy(fortran="0"), "fortran_order as a number"),
        "N21": ("NPY", a[:9], "cut inside the length"),
        "N22": ("NPY", a[:40], "cut inside the header"),
        "N23": ("SIZE", a[:-1], "cut inside the data"),
        "N24": ("NPY", b"", "nothing"),
    }
    for name, (code, content, reason) in heads.items():
        put("npy", code, name + ".npy", content, reason)
        bad(code, name, zip_of([{"name": "a.npy", "content": content, "method": 8}]), reason)


safetensors_framing()
safetensors_json()
safetensors_limits()
safetensors_names()
safetensors_members()
safetensors_sizes()
safetensors_layout()
safetensors_special()
safetensors_good()
indices()
configs()
npz_good()
npz_bad()
