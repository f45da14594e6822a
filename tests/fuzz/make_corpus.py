#!/usr/bin/env python3
"""Writes the first inputs of every fuzz target: corpus/TARGET/*. Inputs that once failed
are there too, under names that begin with "found-"; they are kept.

usage: make_corpus.py [DIRECTORY]   (default: corpus/ beside this file)

Standard library only; the files come from tests/data/make_data.py and make_pdparams.py.
"""
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
DATA = HERE.parent / "data"
MAX_SIZE = 4000


def put(target, name, content):
    d = OUT / target
    d.mkdir(parents=True, exist_ok=True)
    (d / name).write_bytes(content.encode() if isinstance(content, str) else content)


def small(path):
    return path.is_file() and path.stat().st_size <= MAX_SIZE


def st(header, data=b""):
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def row(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def from_files(made):
    """Good files, and one bad file for each code."""
    codes = {}
    for line in made.splitlines():
        kind, code, path, _ = line.split("\t")
        full = WORK / path
        if kind in ("file", "npz", "npy") and small(full) and not full.is_symlink():
            name = full.name
            if code != "OK" and (kind, code) in codes:
                continue
            codes[kind, code] = 1
            put("npz" if kind != "file" else "safetensors", name, full.read_bytes())
        if kind == "config" and small(full / "config.json"):
            text = (full / "config.json").read_bytes()
            put("json", full.name, b"\0" + text)


def shards():
    a = st({"__metadata__": {"format": "np"}, "a": row("U8", [4], 0, 4),
            "b": row("F32", [2], 4, 12)}, bytes(12))
    b = st({"c": row("BF16", [2, 2], 0, 8)}, bytes(8))

    def index(**files):
        return json.dumps({"metadata": {"total_size": 20}, "weight_map": files}, indent=2).encode()
    A, B = "a.safetensors", "b.safetensors"
    put("shards", "two", b"\x1e".join([index(a=A, b=A, c=B), a, b]))
    put("shards", "unlisted", b"\x1e".join([index(a=A, c=B), a, b]))
    put("shards", "missing", b"\x1e".join([index(a=A, c="c.safetensors"), a, b]))
    put("shards", "swapped", b"\x1e".join([index(a=B, c=A), a, b]))
    put("shards", "single", b"\x1e".join([b"", b"", b"", b"", a]))
    put("shards", "both", b"\x1e".join([index(a=A), a, b"", b"", b]))
    put("shards", "parent", b"\x1e".join([index(a="../a.safetensors"), a]))


def splices():
    block = '{"quant_method":"wint2","moe_quant_config":{"quant_type":"wint2"},"list":[1,{}]}'
    styles = {
        "two": '{\n  "a": 1,\n  "b" : [ 1,2 ]\n}\n', "tab": '{\r\n\t"a": 1\r\n}',
        "line": '{"a": 1, "b": 2}',
        "tight": '{"a":1,"b":{"c":[]}}', "empty": "{}", "open": " {\n}\n",
        "old": '{\n  "quantization_config": {"old": [1, 2]},\n  "z": 500000.0\n}',
        "escaped": '{"\\u0061": 1, "b": "}\\"{"}',
    }
    for name, text in styles.items():
        put("splice", name, "\x1e".join([text, "quantization_config", block]))
        edits = ["a", "false", "b", "", "c", '"x"', "a", ""]
        put("splice", name + "-more", "\x1e".join([text, *edits]))


def jsons():
    texts = ['{"a":[1,-2.5e-7,true,false,null,"x\\n\\u00e4\\ud83d\\ude00"],"\\u0061b":{}}',
             "[[[[]]]]", ' "text" ', "0", '{"k":"ä€😀"}', "[1e5,1E+5,-0,0.0]",
             '"' + "long " * 40 + '"']
    for i, text in enumerate(texts):
        put("json", f"text-{i}", bytes([i if i > 4 else 0]) + text.encode())


def line(rest):
    rest = rest.encode()
    return b"%08x %s\n" % (zlib.crc32(rest), rest)


def journals():
    good = [line('"ernie.norm.weight" model.safetensors 128 512 01234567 89abcdef'),
            line('"a \\"b\\"\\n\\u0001" rank3/model-00001-of-00002.safetensors '
                 '1099511627776 0 00000000 ffffffff')]
    put("journal", "good", b"".join(good))
    put("journal", "cut", b"".join(good)[:-3])
    put("journal", "strange", good[0] + line('"a" b 01 2 00000000 00000000') + good[1])
    put("journal", "empty", b"")
    put("journal", "plan",
        '{"a": 1, "r": {"g": "x", "l": [{"m": 2.5, "mtime": 5}, null]}, "t": true}')


def recipes():
    whole = {"schema": "ccq.recipe/1", "output_version": 1, "scheme": "wint2", "w4_end_layer": 3,
             "k_order": "fastdeploy", "weight_only_rule": "gpu", "effort": "normal", "gain": 4,
             "calibration": "random", "calibration_tokens": 4096, "calibration_window": 512,
             "calibration_windows": 8, "calibration_h": "expert", "calibration_seed": 1,
             "calibration_ids": 0, "calibration_digest": 7, "transform": ["rotate", "permute"],
             "transform_seed": 1, "tensor_types": ["experts\\.[0-2]\\.=wint4", ".*o_proj=bf16"],
             "tensor_parallel": 2, "force": True, "shard_bytes": 5000000000, "note": "x"}
    put("recipe", "whole", json.dumps(whole, indent=2))
    put("recipe", "bf16", '{"schema": "ccq.recipe/1", "scheme": "bf16", "names": "torch"}')
    put("recipe", "rules", "\x1eexperts=wint2\x1elm_head=bf16"
        "\x1e^ernie\\.layers\\.[12]\\..*(up_gate|down)_proj=wint8")
    put("recipe", "no-match", "\x1eexpertz\\.[0-9]{1,3}=wint2")
    put("recipe", "perl", "\x1elayers\\.\\d+=wint2")
    put("recipe", "class", "\x1e[[:alpha:]_]+\\.weight$=wint4")


def prompts():
    put("prompts", "ids",
        '{"ids": [1, 2, 3], "id": "a", "seed": 7, "max_tokens": 4}\n{"ids":[5]}\n')
    put("prompts", "text",
        '{"prompt": "gr\\u00fc\\u00dfe \\ud83d\\ude00", "temperature": 0.5, "top_p": 0.9, '
        '"top_k": 40, "stop": ["x", "\\n"], "stop_token_ids": [2]}\r\n'
        '\n  \n{"prompt":"","stop":"y","id":1}')
    put("prompts", "both", '{"ids": [1], "prompt": "x"}')


def changes():
    put("verify", "first", b"x" + struct.pack("<IB", 0, 1))
    put("verify", "header", b"x" + struct.pack("<IB", 100, 0x20))
    put("verify", "data", b"x" + struct.pack("<IB", 200000, 0x80) + struct.pack("<IB", 300000, 1))
    put("verify", "nothing", b"x")


def run(script):
    return subprocess.run([sys.executable, DATA / script, WORK], capture_output=True, text=True,
                          check=True, encoding="utf-8").stdout


def main():
    from_files(run("make_data.py"))
    made = WORK / "pickles"
    subprocess.run([sys.executable, DATA / "make_pdparams.py", made], stdout=subprocess.DEVNULL,
                   check=True)
    for path in sorted(made.rglob("*.pdparams")):
        if small(path):
            put("pdparams", f"{path.parent.name}-{path.stem}", path.read_bytes())
    for make in shards, splices, jsons, journals, recipes, prompts, changes:
        make()


OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "corpus"
with tempfile.TemporaryDirectory() as work:
    WORK = pathlib.Path(work)
    main()
