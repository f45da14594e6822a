#!/usr/bin/env python3
"""Tensor parallel, written from the table of docs/format.md alone: cuts a BF16
checkpoint into rank directories and joins them again. Python's standard library.

  tp_slice.py make OUT [--seed N] [--layers N] [--experts N] [--tied]
      a small random model whose sizes 2 and 4 ranks divide
  tp_slice.py slice IN OUT RANKS
      IN: Paddle names, BF16. OUT: config.json and rank0, rank1, ...
  tp_slice.py part IN OUT RANKS RANK
      one rank as a model of its own: its config.json has the sizes of the slices
  tp_slice.py join IN OUT
      IN: rank directories, quantized or not. OUT: one BF16 checkpoint, quantized
      weights decoded; tensors that every rank holds whole must be equal.
"""
import argparse
import json
import os
import random
import shutil
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import oracle  # noqa: E402

SIZES = ("num_attention_heads", "num_key_value_heads", "vocab_size", "intermediate_size",
         "moe_intermediate_size")
ITEM = {"BF16": 2, "F32": 4}


# ---- the table ----------------------------------------------------------------

def kind(name):
    """How a .weight or .bias is cut: its key in the table."""
    for word in ("qkv_proj", "up_gate_proj", "o_proj", "down_proj"):
        if word + ".bias" in name:
            return word if word in ("qkv_proj", "up_gate_proj") else "whole"
        if word + ".weight" in name:
            return word
    if "embed_tokens" in name:
        return "embed_tokens"
    return "lm_head" if name.startswith("lm_head") else "whole"


def column_ranges(name, n, config, rank, ranks):
    """Columns of the whole that the rank has, as (first, count), in its own order."""
    what = kind(name)
    if what == "qkv_proj":
        d = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        heads = config["num_attention_heads"] // ranks
        groups = config["num_key_value_heads"] // ranks
        k0 = config["num_attention_heads"] * d
        v0 = k0 + config["num_key_value_heads"] * d
        return [(rank * heads * d, heads * d), (k0 + rank * groups * d, groups * d),
                (v0 + rank * groups * d, groups * d)]
    if what == "up_gate_proj":
        width = n // 2 // ranks
        return [(rank * width, width), (n // 2 + rank * width, width)]
    if what == "lm_head":
        return [(rank * n // ranks, n // ranks)]
    return [(0, n)]


def row_range(name, k, rank, ranks):
    if kind(name) in ("o_proj", "down_proj", "embed_tokens"):
        return rank * k // ranks, k // ranks
    return 0, k


def take(name, tensor, config, rank, ranks):
    dtype, shape, data = tensor
    size, n = ITEM[dtype], shape[-1]
    k = shape[0] if len(shape) == 2 else 1
    first, rows = row_range(name, k, rank, ranks)
    ranges = column_ranges(name, n, config, rank, ranks)
    out = b"".join(data[size * (row * n + at):size * (row * n + at + count)]
                   for row in range(first, first + rows) for at, count in ranges)
    columns = sum(count for _, count in ranges)
    return dtype, [rows, columns] if len(shape) == 2 else [columns], out


def put(name, parts, config):
    """The tensor whose slices are parts, one a rank."""
    dtype, shape, _ = parts[0]
    ranks, size, what = len(parts), ITEM[parts[0][0]], kind(name)
    if what == "whole":
        if any(p != parts[0] for p in parts):
            raise SystemExit("tp_slice.py: %s is not the same in every rank" % name)
        return parts[0]
    k = shape[0] if len(shape) == 2 else 1
    n = shape[-1]
    if what in ("o_proj", "down_proj", "embed_tokens"):
        return dtype, [ranks * k, n], b"".join(p[2] for p in parts)
    whole = bytearray(size * k * n * ranks)
    for rank, (_, _, data) in enumerate(parts):
        at = 0
        for row in range(k):
            for first, count in column_ranges(name, n * ranks, config, rank, ranks):
                to = size * (row * n * ranks + first)
                whole[to:to + size * count] = data[at:at + size * count]
                at += size * count
    return dtype, [k, n * ranks] if len(shape) == 2 else [n * ranks], bytes(whole)


# ---- directories ----------------------------------------------------------------

def read_config(directory):
    with open(os.path.join(directory, "config.json"), encoding="utf-8") as f:
        return json.load(f)


def write_config(directory, config):
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)


def side_files(source, target):
    for name in ("tokenizer.model", "tokenizer_config.json", "generation_config.json"):
        if os.path.exists(os.path.join(source, name)):
            shutil.copyfile(os.path.join(source, name), os.path.join(target, name))


def slice_model(source, target, ranks):
    config, tensors = read_config(source), oracle.read_checkpoint(source)
    os.mkdir(target)
    write_config(target, config)
    side_files(source, target)
    for rank in range(ranks):
        folder = os.path.join(target, "rank%d" % rank)
        os.mkdir(folder)
        oracle.write_file(os.path.join(folder, "model.safetensors"),
                          {n: take(n, t, config, rank, ranks) for n, t in tensors.items()})


def part_config(config, ranks):
    config = dict(config)
    config.setdefault("head_dim", config["hidden_size"] // config["num_attention_heads"])
    for key in SIZES:
        if key in config:
            config[key] //= ranks
    return config


def part_model(source, target, ranks, rank):
    config, tensors = read_config(source), oracle.read_checkpoint(source)
    os.mkdir(target)
    write_config(target, part_config(config, ranks))
    oracle.write_file(os.path.join(target, "model.safetensors"),
                      {n: take(n, t, config, rank, ranks) for n, t in tensors.items()})


def read_ranks(source, order=None, rounding="fused"):
    """The ranks' tensors in BF16, one dict a rank."""
    names = [n for n in os.listdir(source) if n.startswith("rank")]
    if sorted(names) != sorted("rank%d" % r for r in range(len(names))) or len(names) < 2:
        raise SystemExit("tp_slice.py: %s: rank directories %s" % (source, sorted(names)))
    order = order or oracle.recorded_order(source)
    return [oracle.decode_tensors(oracle.read_checkpoint(os.path.join(source, "rank%d" % r)),
                                  order, rounding) for r in range(len(names))]


def join_tensors(source, **how):
    config, ranks = read_config(source), read_ranks(source, **how)
    if any(set(t) != set(ranks[0]) for t in ranks):
        raise SystemExit("tp_slice.py: %s: ranks hold different tensors" % source)
    return {n: put(n, [t[n] for t in ranks], config) for n in ranks[0]}


def join_model(source, target):
    tensors, config = join_tensors(source), read_config(source)
    config.pop("quantization_config", None)
    os.mkdir(target)
    write_config(target, config)
    side_files(source, target)
    oracle.write_file(os.path.join(target, "model.safetensors"), tensors)


# ---- a model ---------------------------------------------------------------------

def random_tensor(rng, dtype, shape, scale):
    count = 1
    for n in shape:
        count *= n
    values = [scale * (rng.random() + rng.random() + rng.random() - 1.5) for _ in range(count)]
    if dtype == "F32":
        return dtype, shape, struct.pack("<%df" % count, *values)
    return dtype, shape, struct.pack("<%dH" % count,
                                     *(u >> 16 for u in struct.unpack("<%dI" % count, struct.pack(
                                         "<%df" % count, *values))))


def make_model(target, seed=7, layers=3, experts=2, tied=False, **sizes):
    """Layer 0 is dense, the others have experts. Sizes: keys of config.json."""
    c = {"architectures": ["Ernie4_5_MoeForCausalLM"], "hidden_size": 128,
         "intermediate_size": 256, "num_hidden_layers": layers, "num_attention_heads": 8,
         "num_key_value_heads": 4, "rms_norm_eps": 1e-05, "vocab_size": 256,
         "max_position_embeddings": 256, "moe_num_experts": experts,
         "moe_intermediate_size": 512, "moe_k": 2, "moe_num_shared_experts": 1,
         "moe_layer_start_index": 1, "use_bias": False, "tie_word_embeddings": tied,
         "moe_use_aux_free": True, "hidden_act": "silu", "head_dim": 32, "rope_theta": 500000.0,
         "model_type": "ernie4_5_moe", "dtype": "bfloat16"}
    c.update(sizes)
    rng, t = random.Random(seed), {}
    h, d, v = c["hidden_size"], c["head_dim"], c["vocab_size"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d

    def matrix(name, k, n):
        t[name + ".weight"] = random_tensor(rng, "BF16", [k, n], 1.4 / k ** 0.5)

    def mlp(name, width):
        matrix(name + ".up_gate_proj", h, 2 * width)
        matrix(name + ".down_proj", width, h)

    t["ernie.embed_tokens.weight"] = random_tensor(rng, "BF16", [v, h], 1.0)
    t["ernie.norm.weight"] = random_tensor(rng, "BF16", [h], 2.0)
    if not tied:
        matrix("lm_head", h, v)
    for i in range(layers):
        p = "ernie.layers.%d." % i
        t[p + "input_layernorm.weight"] = random_tensor(rng, "BF16", [h], 2.0)
        t[p + "post_attention_layernorm.weight"] = random_tensor(rng, "BF16", [h], 2.0)
        matrix(p + "self_attn.qkv_proj", h, q + 2 * kv)
        matrix(p + "self_attn.o_proj", q, h)
        if i < c["moe_layer_start_index"]:
            mlp(p + "mlp", c["intermediate_size"])
            continue
        t[p + "mlp.gate.weight"] = random_tensor(rng, "F32", [h, experts], 0.5)
        t[p + "mlp.moe_statics.e_score_correction_bias"] = random_tensor(rng, "F32", [1, experts],
                                                                         0.1)
        for e in range(experts):
            mlp(p + "mlp.experts.%d" % e, c["moe_intermediate_size"])
        if c["moe_num_shared_experts"]:
            mlp(p + "mlp.shared_experts",
                c["moe_num_shared_experts"] * c["moe_intermediate_size"])
    os.mkdir(target)
    write_config(target, c)
    oracle.write_file(os.path.join(target, "model.safetensors"), t)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("make")
    p.add_argument("out")
    p.add_argument("--seed", type=int, default=7)
    p.add_argument("--layers", type=int, default=3)
    p.add_argument("--experts", type=int, default=2)
    p.add_argument("--tied", action="store_true")
    p.set_defaults(run=lambda a: make_model(a.out, a.seed, a.layers, a.experts, a.tied))
    p = commands.add_parser("slice")
    p.add_argument("input")
    p.add_argument("out")
    p.add_argument("ranks", type=int)
    p.set_defaults(run=lambda a: slice_model(a.input, a.out, a.ranks))
    p = commands.add_parser("part")
    p.add_argument("input")
    p.add_argument("out")
    p.add_argument("ranks", type=int)
    p.add_argument("rank", type=int)
    p.set_defaults(run=lambda a: part_model(a.input, a.out, a.ranks, a.rank))
    p = commands.add_parser("join")
    p.add_argument("input")
    p.add_argument("out")
    p.set_defaults(run=lambda a: join_model(a.input, a.out))
    a = parser.parse_args()
    a.run(a)


if __name__ == "__main__":
    main()
