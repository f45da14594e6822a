#!/usr/bin/env python3
"""Writes reference outputs (ccq.ref/1, docs/format.md) with transformers.

usage: make_reference.py TORCH_DIR TOKENS.npy OUT.npz [option]...
       make_reference.py --compare A.npz B.npz

TORCH_DIR is a BF16 checkpoint in torch names (header format "pt"): the model
itself (tests/data/ernie-micro/make/names.py writes it from Paddle names), or,
with --weights dequantized, a copy that tests/oracle.py decoded from a quantized
checkpoint. The forward pass is float32 with eager attention, one prompt at a
time, on exactly the BF16 values: the oracle of ccq-run --numerics exact.

Needs torch, transformers (4.54 or later, or 5) and numpy; no test runs it.
"""
import argparse
import glob
import hashlib
import json

import numpy as np


def arguments():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("paths", nargs="+")
    p.add_argument("--compare", action="store_true")
    p.add_argument("--prompts", default="1,9,33,64", help="prompt lengths, cut from TOKENS")
    p.add_argument("--greedy", type=int, default=24, help="longest greedy continuation")
    p.add_argument("--valid", type=int, default=0, help="ids that count (default: all)")
    p.add_argument("--weights", default="bf16", choices=("bf16", "dequantized"))
    a = p.parse_args()
    if len(a.paths) != (2 if a.compare else 3):
        p.error("wrong number of paths")
    return a


def compare(path_a, path_b):
    """Two files about one model, for example of two releases of transformers."""
    a, b = np.load(path_a), np.load(path_b)
    rms = np.sqrt(np.mean(np.square(a["logits"], dtype=np.float64), axis=1, keepdims=True))
    print("max |dlogit|/rms", float((np.abs(a["logits"] - b["logits"]) / rms).max()))
    for name in ("ids", "row_seq", "row_pos", "greedy_ids", "router_ids"):
        print(name, "equal" if np.array_equal(a[name], b[name]) else "DIFFERENT")


class Oracle:
    """The model, and what its routers chose in the last forward pass."""

    def __init__(self, folder):
        import torch
        import transformers
        self.torch = torch
        self.version = f"transformers {transformers.__version__} torch {torch.__version__}"
        self.config = transformers.AutoConfig.from_pretrained(folder)
        self.config._experts_implementation = "eager"  # 5.x; 4.x has no other
        self.model = transformers.Ernie4_5_MoeForCausalLM.from_pretrained(
            folder, config=self.config, attn_implementation="eager", dtype=torch.float32).eval()
        layers = enumerate(self.model.model.layers)
        self.mlps = {i: layer.mlp for i, layer in layers if hasattr(layer.mlp, "gate")}
        self.inputs = {}
        for i, mlp in self.mlps.items():
            mlp.gate.register_forward_pre_hook(lambda m, x, i=i: self.keep(i, x[0]))

    def keep(self, layer, x):
        self.inputs[layer] = x.detach().reshape(-1, x.shape[-1]).clone()

    def logits(self, ids):
        with self.torch.no_grad():
            out = self.model(self.torch.tensor([ids]), use_cache=False)
        return out.logits[0].float().numpy()

    def routes(self):
        """Chosen experts, ascending, and the margin to the next, of the rows just run.

        From the router's inputs, with the product in double: the margin then says how
        near a tie was, and not how one float32 sum happened to round."""
        torch, k = self.torch, self.config.moe_k
        ids, margins = [], []
        for i, mlp in self.mlps.items():
            statics = mlp.gate.moe_statics if hasattr(mlp.gate, "moe_statics") else mlp.moe_statics
            with torch.no_grad():
                scores = self.inputs[i].double() @ mlp.gate.weight.double().t()
                p = torch.softmax(scores.float(), -1) + statics.e_score_correction_bias.reshape(-1)
                best = torch.topk(p, min(k + 1, p.shape[1]), -1)
            ids.append(best.indices[:, :k].sort(-1).values.int().numpy())
            if best.values.shape[1] > k:
                margins.append((best.values[:, k - 1] - best.values[:, k]).float().numpy())
            else:
                margins.append(np.full(len(p), np.inf, np.float32))
        return np.stack(ids, 1), np.stack(margins, 1)

    def greedy(self, prompt, steps, valid):
        """Argmax continuation (lowest id on ties) and the gap to the second, each step."""
        ids, gaps, sequence = [], [], list(prompt)
        while len(ids) < steps:
            row = self.logits(sequence)[-1, :valid]
            first, second = np.argsort(-row, kind="stable")[:2]
            ids.append(int(first))
            gaps.append(float(row[first] - row[second]))
            sequence.append(int(first))
            if first == self.config.eos_token_id:
                break
        return ids, gaps


def cut_prompts(path, lengths):
    """Runs of the given lengths, spread evenly over the tokens."""
    tokens = np.load(path)
    starts = np.linspace(0, len(tokens) - max(lengths) - 1, len(lengths)).astype(int)
    return [tokens[s:s + n].tolist() for s, n in zip(starts, lengths)]


def reference(oracle, prompts, steps, valid):
    rows = {name: [] for name in ("row_seq", "row_pos", "logits", "router_ids", "router_margin",
                                  "greedy_lengths", "greedy_ids", "greedy_gap")}
    for b, prompt in enumerate(prompts):
        rows["logits"].append(oracle.logits(prompt))
        ids, margins = oracle.routes()
        rows["router_ids"].append(ids)
        rows["router_margin"].append(margins)
        rows["row_seq"] += [b] * len(prompt)
        rows["row_pos"] += range(len(prompt))
        chosen, gaps = oracle.greedy(prompt, steps, valid)
        rows["greedy_lengths"].append(len(chosen))
        rows["greedy_ids"] += chosen
        rows["greedy_gap"] += gaps
    out = {"lengths": np.array([len(p) for p in prompts], np.int32),
           "ids": np.array([t for p in prompts for t in p], np.int32),
           "router_layers": np.array(list(oracle.mlps), np.int32)}
    for name, value in rows.items():
        joined = np.concatenate(value) if isinstance(value[0], np.ndarray) else np.array(value)
        whole = joined.dtype.kind in "iu"
        out[name] = joined.astype(np.int32 if whole else np.float32)
    return out


def main():
    a = arguments()
    if a.compare:
        compare(*a.paths)
        return
    folder, tokens, path = a.paths
    oracle = Oracle(folder)
    valid = a.valid or oracle.config.vocab_size
    prompts = cut_prompts(tokens, [int(x) for x in a.prompts.split(",")])
    digest = hashlib.sha256()
    for name in sorted(glob.glob(f"{glob.escape(folder)}/*.safetensors")):
        with open(name, "rb") as f:
            digest.update(f.read())
    meta = {"schema": "ccq.ref/1", "producer": f"{oracle.version} float32 eager",
            "numerics": "exact", "weights": a.weights, "model_sha256": digest.hexdigest(),
            "vocab_valid": valid,
            "generator": f"make_reference.py --prompts {a.prompts} --greedy {a.greedy}"}
    members = reference(oracle, prompts, a.greedy, valid)
    np.savez_compressed(path, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **members)
    print(path, len(members["row_seq"]), "rows, greedy", members["greedy_lengths"].tolist())


if __name__ == "__main__":
    main()
