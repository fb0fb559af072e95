#!/usr/bin/env python3
"""`ferry train` and PyTorch, step by step, from the same weights on the same window. Needs torch and transformers.

    make build/ferry && python3 tests/interop/trainer_torch.py [BUILD]

A corpus of one document is one window (the whole of it), so each step is the same batch. transformers initializes a
small GPT-2; ferry fine-tunes it, 50 steps with clipping, decay, warm-up and cosine; torch does the same with
GPT2LMHeadModel, clip_grad_norm_ and AdamW over the two parameter groups. Losses, gradient norms, rates, and at the
end weights and moments must agree.
"""
import json
import math
import os
import subprocess
import sys
import tempfile

import torch
import transformers
from safetensors.torch import load_file

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build")
FERRY = os.environ.get("FERRY", os.path.join(BUILD, "ferry"))
STEPS, RATE, DECAY, WARMUP, CLIP = 50, 3e-3, 0.1, 0.1, 1.8
TEXT = ("It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want "
        "of a wife. However little known the feelings or views of such a man may be on his first entering a "
        "neighbourhood, this truth is so well fixed in the minds of the surrounding families.")
failures = 0


def report(name, good, detail):
    global failures
    failures += not good
    print(f"{'ok' if good else 'not ok'} - {name}: {detail}", flush=True)


def ferry(*arguments, **options):
    done = subprocess.run([FERRY, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)
    if done.returncode:
        sys.exit(f"ferry {' '.join(arguments)}\n{done.stdout.decode()}{done.stderr.decode()}")
    return done.stdout


def rate(n):
    """Megatron-LM's cosine of 2020, as engine/schedule.h tells it."""
    warmup = WARMUP * STEPS
    if n <= warmup:
        return RATE * n / warmup
    return RATE / 2 * (math.cos(math.pi * (n - warmup) / STEPS) + 1)


def train_torch(model, ids):
    decaying, other = [], []
    for name, p in model.named_parameters():
        (decaying if name.endswith("weight") and "ln_" not in name else other).append(p)
    optimizer = torch.optim.AdamW([{"params": decaying, "weight_decay": DECAY}, {"params": other, "weight_decay": 0}],
                                  lr=RATE, betas=(0.9, 0.999), eps=1e-8)
    steps = []
    for n in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(n)
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        steps.append((loss.item(), norm.item(), rate(n)))
    return steps, optimizer


def farthest(pairs):
    """The largest relative distance of two tensors, and its name."""
    return max(((a.double() - b.double()).norm().item() / max(b.double().norm().item(), 1e-12), name)
               for name, a, b in pairs)


with tempfile.TemporaryDirectory() as work:
    with open(f"{work}/text.txt", "w") as file:
        file.write(TEXT)
    ids = [int(i) for i in ferry("encode", input=TEXT.encode()).split()] + [50256]
    ferry("preprocess", f"{work}/text.txt", "--output", f"{work}/corpus")
    torch.manual_seed(1)
    window = len(ids) - 1
    config = transformers.GPT2Config(n_layer=2, n_embd=64, n_head=4, n_positions=len(ids), resid_pdrop=0, embd_pdrop=0,
                                     attn_pdrop=0)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(f"{work}/start")
    ferry("train", "--train-data", f"{work}/corpus", "--load", f"{work}/start", "--finetune", "--save", f"{work}/run",
          "--split", "1", "--seq-length", str(window), "--batch-size", "1", "--train-iters", str(STEPS), "--lr", str(RATE),
          "--warmup", str(WARMUP), "--weight-decay", str(DECAY), "--clip-grad", str(CLIP), "--eval-interval", "0",
          "--hidden-dropout", "0", "--attention-dropout", "0")
    with open(f"{work}/run/metrics.jsonl") as file:
        ours = [m for m in map(json.loads, file) if m["type"] == "train"]
    theirs, optimizer = train_torch(model, torch.tensor([ids]))
    report("steps", len(ours) == STEPS, f"{len(ours)}")
    worst = max(abs(m["loss"] - t[0]) for m, t in zip(ours, theirs))
    report("losses", worst < 1e-4, f"from {ours[0]['loss']:.4f} to {ours[-1]['loss']:.4f}, differ by at most {worst:.2g}")
    worst = max(abs(m["grad_norm"] - t[1]) / t[1] for m, t in zip(ours, theirs))
    clipped = sum(m["clip"] < 1 for m in ours)
    report("gradient norms", worst < 1e-3, f"relatively {worst:.2g}; {clipped} steps were clipped")
    report("some steps clip and some do not", 0 < clipped < STEPS, f"{clipped} of {STEPS}")
    worst = max(abs(m["lr"] - t[2]) for m, t in zip(ours, theirs))
    report("learning rates", worst < 1e-18, f"{worst:.2g}")
    last = f"{work}/run/step-{STEPS:08d}"
    weights, moments = load_file(f"{last}/model.safetensors"), load_file(f"{last}/optimizer.safetensors")
    named = {name: p for name, p in model.named_parameters()}
    # A key's bias moves no probability: its gradient is rounding alone, which Adam makes whole steps of.
    worst, name = farthest((n, weights[n], p.detach()) for n, p in named.items() if not n.endswith("c_attn.bias"))
    report("weights", worst < 1e-3, f"relatively {worst:.2g} ({name})")
    for key in ("exp_avg", "exp_avg_sq"):
        worst, name = farthest((n, moments[f"{key}.{n}"], optimizer.state[p][key]) for n, p in named.items())
        report(key, worst < 1e-2, f"relatively {worst:.2g} ({name})")
sys.exit(failures > 0)
