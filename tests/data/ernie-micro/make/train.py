#!/usr/bin/env python3
"""Trains the bundled model on plain text and writes it as a Paddle checkpoint.

usage: train.py micro.json OUTDIR TEXT...

OUTDIR gets model.safetensors, config.json, tokenizer.model, tokens_test.npy and
test.txt. Every twentieth document is kept out of training: the test split.
Needs torch, transformers 5, sentencepiece, safetensors and numpy. Training is
not bit-reproducible across machines and versions: a new run gives a similar
model, not the same file.
"""
import json
import os
import re
import sys
import time

import numpy as np
import sentencepiece
import torch
from torch.nn.functional import cross_entropy
from transformers import Ernie4_5_MoeConfig, Ernie4_5_MoeForCausalLM

from names import config_json, to_paddle, write_checkpoint

END = 2  # </s>, between documents


def documents(paths, chars):
    """Runs of paragraphs of about chars characters."""
    docs = []
    for path in paths:
        with open(path, encoding="utf-8", errors="replace") as f:
            text = f.read().replace("\r", "")
        run = ""
        for paragraph in re.split(r"\n\s*\n", text):
            run += paragraph.strip() + "\n\n"
            if len(run) >= chars:
                docs.append(run)
                run = ""
        if run:
            docs.append(run)
    return docs


def train_tokenizer(docs, pieces, folder):
    corpus = f"{folder}/corpus.txt"
    with open(corpus, "w") as f:
        f.write("\n".join(docs))
    sentencepiece.SentencePieceTrainer.train(
        input=corpus, model_prefix=f"{folder}/tokenizer", vocab_size=pieces, model_type="bpe",
        character_coverage=1.0, byte_fallback=True, split_digits=True, unk_id=0, bos_id=1,
        eos_id=END, pad_id=-1, remove_extra_whitespaces=False,
        normalization_rule_name="identity", user_defined_symbols=["\n"],
        max_sentence_length=1 << 20, num_threads=2, minloglevel=2)
    os.remove(corpus)
    os.remove(f"{folder}/tokenizer.vocab")
    return sentencepiece.SentencePieceProcessor(model_file=f"{folder}/tokenizer.model")


def new_model(spec):
    cfg = Ernie4_5_MoeConfig(**spec["config"])
    cfg._experts_implementation = "eager"
    model = Ernie4_5_MoeForCausalLM(cfg)
    torch.manual_seed(spec["seed"] + 1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() >= 2 and "e_score" not in name:
                out = name.endswith(("o_proj.weight", "down_proj", "down_proj.weight"))
                p.normal_(0, spec["init"] * (0.5 if out else 1))
    return cfg, model


class Balance:
    """Moves each router's correction bias against the load of its experts, as the
    original recipe does, so that all experts learn something."""

    def __init__(self, model, experts):
        self.experts = experts
        self.gates = [l.mlp.gate for l in model.model.layers if hasattr(l.mlp, "gate")]
        self.picked = [None] * len(self.gates)
        for i, gate in enumerate(self.gates):
            gate.register_forward_hook(lambda m, a, out, i=i: self.keep(i, out[2]))

    def keep(self, i, chosen):
        self.picked[i] = chosen.detach()

    @torch.no_grad()
    def step(self):
        for gate, chosen in zip(self.gates, self.picked):
            load = torch.bincount(chosen.reshape(-1), minlength=self.experts).float()
            gate.moe_statics.e_score_correction_bias += 0.002 * torch.sign(load.mean() - load)


@torch.no_grad()
def test_loss(model, tokens, length, rows=64):
    model.eval()
    total = 0.0
    for start in np.linspace(0, len(tokens) - length - 2, rows).astype(int):
        ids = torch.from_numpy(tokens[start:start + length + 1].astype(np.int64))[None]
        total += cross_entropy(model(ids[:, :-1]).logits[0], ids[0, 1:]).item()
    model.train()
    return total / rows


def train(model, cfg, spec, tokens, test):
    plan = spec["train"]
    batch, length = plan["batch"], plan["length"]
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [{"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
         {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0}],
        lr=plan["lr"], betas=(0.9, 0.95))
    balance = Balance(model, cfg.moe_num_experts)
    generator = np.random.default_rng(3)
    text = torch.from_numpy(tokens.astype(np.int64))
    begin, step = time.time(), 0
    model.train()
    while True:
        # Steps or minutes, whichever ends first; the cosine follows that one.
        done = max(step / plan["steps"], (time.time() - begin) / (60 * plan["minutes"]))
        if done >= 1:
            break
        rate = min(1, (step + 1) / 50) * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = plan["lr"] * rate
        starts = generator.integers(0, len(tokens) - length - 1, batch)
        ids = torch.stack([text[s:s + length + 1] for s in starts])
        logits = model(ids[:, :-1]).logits
        loss = cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        balance.step()
        if step % 100 == 0:
            print(f"step {step} loss {loss.item():.4f}", flush=True)
        step += 1
    print(f"{step} steps, test loss {test_loss(model, test, length):.4f} nats a token")


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    with open(sys.argv[1]) as f:
        spec = json.load(f)
    folder, texts = sys.argv[2], sys.argv[3:]
    os.makedirs(folder, exist_ok=True)
    torch.manual_seed(spec["seed"])

    docs = documents(texts, spec["doc_chars"])
    kept = [d for i, d in enumerate(docs) if i % 20 != 19]
    held = [d for i, d in enumerate(docs) if i % 20 == 19]
    tokenizer = train_tokenizer(kept, spec["pieces"], folder)
    tokens, test = (np.array([t for d in part for t in tokenizer.encode(d) + [END]], np.int32)
                    for part in (kept, held))
    np.save(f"{folder}/tokens_test.npy", test)
    with open(f"{folder}/test.txt", "w") as f:
        f.write("".join(held))

    cfg, model = new_model(spec)
    train(model, cfg, spec, tokens, test)
    write_checkpoint(to_paddle(model.float().eval().state_dict(), cfg), config_json(cfg),
                     folder, "np")


if __name__ == "__main__":
    main()
