#!/usr/bin/env python3
"""Names and orientation of ERNIE-4.5 MoE checkpoints, and one conversion.

usage: names.py PADDLE_DIR TORCH_DIR

writes the same BF16 weights under torch names (projections apart, [out, in],
header format "pt"): what transformers and tests/make_reference.py load.
"""
import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file

CONFIG_KEYS = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "rms_norm_eps", "vocab_size", "max_position_embeddings",
    "moe_num_experts", "moe_intermediate_size", "moe_k", "moe_num_shared_experts",
    "moe_layer_start_index", "moe_layer_end_index", "moe_layer_interval", "use_bias",
    "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "hidden_act")


def joined(parts):
    """Torch projections [out, in] -> one Paddle matrix [in, out], columns side by side."""
    return torch.cat([p.t() for p in parts], dim=1)


def to_paddle(state, cfg):
    """State dict of transformers 5 -> Paddle names, BF16; router and its bias stay F32."""
    out = {}

    def put(name, tensor, dtype=torch.bfloat16):
        out[name] = tensor.detach().to(dtype).contiguous().clone()

    put("ernie.embed_tokens.weight", state["model.embed_tokens.weight"])
    put("ernie.norm.weight", state["model.norm.weight"])
    if not cfg.tie_word_embeddings:
        put("lm_head.weight", state["lm_head.weight"].t())
    for i in range(cfg.num_hidden_layers):
        src, dst = f"model.layers.{i}.", f"ernie.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            put(f"{dst}{norm}.weight", state[f"{src}{norm}.weight"])
        put(dst + "self_attn.qkv_proj.weight",
            joined([state[f"{src}self_attn.{x}_proj.weight"] for x in "qkv"]))
        put(dst + "self_attn.o_proj.weight", state[src + "self_attn.o_proj.weight"].t())
        for mlp in ("mlp", "mlp.shared_experts"):
            if f"{src}{mlp}.gate_proj.weight" in state:
                put(f"{dst}{mlp}.up_gate_proj.weight",
                    joined([state[f"{src}{mlp}.{x}_proj.weight"] for x in ("gate", "up")]))
                put(f"{dst}{mlp}.down_proj.weight", state[f"{src}{mlp}.down_proj.weight"].t())
        if src + "mlp.gate.weight" not in state:
            continue
        put(dst + "mlp.gate.weight", state[src + "mlp.gate.weight"].t(), torch.float32)
        bias = "moe_statics.e_score_correction_bias"
        put(f"{dst}mlp.{bias}", state[f"{src}mlp.gate.{bias}"], torch.float32)
        up_gate, down = (state[f"{src}mlp.experts.{x}_proj"] for x in ("gate_up", "down"))
        for e in range(up_gate.shape[0]):
            put(f"{dst}mlp.experts.{e}.up_gate_proj.weight", up_gate[e].t())
            put(f"{dst}mlp.experts.{e}.down_proj.weight", down[e].t())
    return out


def to_torch(tensors, config):
    """Paddle names -> torch names, one tensor an expert (transformers 4 and 5 load it)."""
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    out = {}
    for name, tensor in tensors.items():
        name = name.replace("ernie.", "model.", 1)
        if name.endswith("qkv_proj.weight"):
            parts = zip(("q_proj", "k_proj", "v_proj"), tensor.split([q, kv, kv], dim=1))
            for part, columns in parts:
                out[name.replace("qkv_proj", part)] = columns.t()
        elif name.endswith("up_gate_proj.weight"):
            for part, columns in zip(("gate_proj", "up_proj"), tensor.chunk(2, dim=1)):
                out[name.replace("up_gate_proj", part)] = columns.t()
        elif tensor.dim() == 2 and not name.endswith(("embed_tokens.weight", "correction_bias")):
            out[name] = tensor.t()
        else:
            out[name] = tensor
    return {name: tensor.contiguous().clone() for name, tensor in out.items()}


def config_json(cfg):
    """The config.json of a Paddle checkpoint from a transformers configuration."""
    config = {"architectures": ["Ernie4_5_MoeForCausalLM"]}
    config.update((key, getattr(cfg, key)) for key in CONFIG_KEYS)
    config["head_dim"] = cfg.head_dim
    config["rope_theta"] = cfg.rope_parameters["rope_theta"]
    config["model_type"] = "ernie4_5_moe"
    config["dtype"] = "bfloat16"
    return config


def write_checkpoint(tensors, config, folder, header_format):
    os.makedirs(folder, exist_ok=True)
    save_file(tensors, f"{folder}/model.safetensors", metadata={"format": header_format})
    with open(f"{folder}/config.json", "w") as f:
        json.dump(config, f, indent=2)


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    source, target = sys.argv[1:]
    with open(f"{source}/config.json") as f:
        config = json.load(f)
    tensors = to_torch(load_file(f"{source}/model.safetensors"), config)
    config["torch_dtype"] = config.pop("dtype")
    write_checkpoint(tensors, config, target, "pt")


if __name__ == "__main__":
    main()
