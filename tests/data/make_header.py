#!/usr/bin/env python3
"""Writes a checkpoint of full size that holds headers and no data.

usage: make_header.py 300B|21B|0.3B DIRECTORY [--tied|--separate] [--shard BYTES]

config.json, model.safetensors.index.json and sparse shards: every tensor has its
name, type, shape and place, its bytes are a hole in the file and take no room on
disk. For planning (ccq-quantize --dry-run) only; the weights read as zeros.

The shapes are those of ERNIE-4.5 models under Paddle names. The head is its own
tensor by default for 300B alone. Standard library only.
"""
import argparse
import json
import os
import struct

COMMON = {
    "vocab_size": 103424, "rope_theta": 500000.0, "rms_norm_eps": 1e-05, "use_bias": False,
    "hidden_act": "silu", "max_position_embeddings": 131072, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0, "dtype": "bfloat16",
}
MODELS = {
    "300B": {
        "architectures": ["Ernie4_5_MoeForCausalLM"], "hidden_size": 8192,
        "intermediate_size": 28672, "num_hidden_layers": 54, "num_attention_heads": 64,
        "num_key_value_heads": 8, "head_dim": 128, "moe_num_experts": 64,
        "moe_intermediate_size": 3584, "moe_k": 8, "moe_num_shared_experts": 0,
        "moe_layer_start_index": 3, "tie_word_embeddings": False,
    },
    "21B": {
        "architectures": ["Ernie4_5_MoeForCausalLM"], "hidden_size": 2560,
        "intermediate_size": 12288, "num_hidden_layers": 28, "num_attention_heads": 20,
        "num_key_value_heads": 4, "head_dim": 128, "moe_num_experts": 64,
        "moe_intermediate_size": 1536, "moe_k": 6, "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1, "tie_word_embeddings": True,
    },
    "0.3B": {
        "architectures": ["Ernie4_5_ForCausalLM"], "hidden_size": 1024,
        "intermediate_size": 3072, "num_hidden_layers": 18, "num_attention_heads": 16,
        "num_key_value_heads": 2, "head_dim": 128, "tie_word_embeddings": True,
    },
}


def mlp(prefix, hidden, width):
    yield prefix + ".up_gate_proj.weight", "BF16", [hidden, 2 * width]
    yield prefix + ".down_proj.weight", "BF16", [width, hidden]


def tensors(c):
    """(name, dtype, shape) of every tensor, in the order of the model."""
    hidden, experts = c["hidden_size"], c.get("moe_num_experts", 0)
    heads, kv, head = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    yield "ernie.embed_tokens.weight", "BF16", [c["vocab_size"], hidden]
    for layer in range(c["num_hidden_layers"]):
        at = f"ernie.layers.{layer}."
        yield at + "input_layernorm.weight", "BF16", [hidden]
        yield at + "self_attn.qkv_proj.weight", "BF16", [hidden, (heads + 2 * kv) * head]
        yield at + "self_attn.o_proj.weight", "BF16", [heads * head, hidden]
        yield at + "post_attention_layernorm.weight", "BF16", [hidden]
        if not experts or layer < c["moe_layer_start_index"]:
            yield from mlp(at + "mlp", hidden, c["intermediate_size"])
            continue
        yield at + "mlp.gate.weight", "F32", [hidden, experts]
        yield at + "mlp.moe_statics.e_score_correction_bias", "F32", [1, experts]
        for e in range(experts):
            yield from mlp(f"{at}mlp.experts.{e}", hidden, c["moe_intermediate_size"])
        if c["moe_num_shared_experts"]:
            width = c["moe_num_shared_experts"] * c["moe_intermediate_size"]
            yield from mlp(at + "mlp.shared_experts", hidden, width)
    yield "ernie.norm.weight", "BF16", [hidden]
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", "BF16", [hidden, c["vocab_size"]]


def size_of(dtype, shape):
    n = 4 if dtype == "F32" else 2
    for d in shape:
        n *= d
    return n


def split(all_tensors, most):
    """Runs of tensors of at most so many bytes."""
    shard, used = [], 0
    for t in all_tensors:
        size = size_of(*t[1:])
        if shard and used + size > most:
            yield shard
            shard, used = [], 0
        shard.append(t)
        used += size
    yield shard


def write_shard(path, shard):
    table, at = {"__metadata__": {"format": "np"}}, 0
    for name, dtype, shape in shard:
        end = at + size_of(dtype, shape)
        table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)
    return at


def write_model(directory, model, tied=None, most=5000000000):
    """Returns how many tensors, and their bytes."""
    c = dict(COMMON, **MODELS[model])
    if tied is not None:
        c["tie_word_embeddings"] = tied
    os.makedirs(directory, exist_ok=True)
    shards, total, names = list(split(tensors(c), most)), 0, {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        total += write_shard(os.path.join(directory, file), shard)
        names.update((t[0], file) for t in shard)
    with open(os.path.join(directory, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": names}, f)
    with open(os.path.join(directory, "config.json"), "w") as f:
        json.dump(c, f, indent=2)
    return len(names), total


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("model", choices=sorted(MODELS))
    p.add_argument("directory")
    p.add_argument("--tied", dest="tied", action="store_true", default=None)
    p.add_argument("--separate", dest="tied", action="store_false")
    p.add_argument("--shard", type=int, default=5000000000)
    a = p.parse_args()
    count, total = write_model(a.directory, a.model, a.tied, a.shard)
    print(f"{a.directory}: {count} tensors, {total} bytes of data in the header, none on disk")


if __name__ == "__main__":
    main()
