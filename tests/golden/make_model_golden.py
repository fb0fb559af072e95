#!/usr/bin/env python3
"""Makes model_tiny.safetensors: what PyTorch computes with a tiny GPT-2, for tests/unit/engine/test_model_parity.c.

Needs torch, transformers and safetensors from PyPI (the file in the repository: torch 2.15.0, transformers 5.23.0).
    python3 tests/golden/make_model_golden.py [OUTPUT]

The model is transformers' GPT2LMHeadModel (eager attention, dropout 0) with larger initial weights than GPT-2's, so
that clipping acts and every term of the gradients matters. In the file:
    weight.NAME    fp32 initial parameters, Conv1D layout [in][out]
    tokens         int32 [BATCHES][B][T + 1]; batch i % BATCHES is step i's
    logits         fp32 [B][T][V] of batch 0
    gradient.NAME  fp32 gradients of batch 0's mean loss
    losses_fp32, norms_fp32   fp32 [STEPS] losses, and gradient norms before clipping, of AdamW steps
    losses_bf16, norms_bf16   the same with weights, activations and gradients in bf16 and the master weights, moments
                              and update in fp32 (the master is rounded to bf16 after each step)
AdamW: lr 5e-4 constant, betas 0.9 0.999, eps 1e-8, weight decay 0.1 on every parameter of two dimensions, global
norm clipped to 1. torch's clip_grad_norm_ divides by (norm + 1e-6).
At lr 1e-3 this toy is chaotic after 40 steps: PyTorch's own bf16 runs, begun from weights that differ by 1e-4 of
themselves, spread by 0.017 in loss and 12% in norm. Losses there would compare rounding, not arithmetic.
"""
import os
import sys

import torch
import transformers
from safetensors.torch import save_file

LAYERS, HIDDEN, HEADS, VOCABULARY, POSITIONS = 3, 48, 4, 300, 40
B, T, BATCHES, STEPS = 2, 32, 5, 50


def make_model(seed):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=HIDDEN, n_layer=LAYERS,
                                     n_head=HEADS, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
    config._attn_implementation = "eager"
    model = transformers.GPT2LMHeadModel(config).float()
    with torch.no_grad():
        for name, p in named(model):
            if p.dim() == 2:
                p.normal_(0, 0.15)
            elif "ln_" in name and name.endswith("weight"):
                p.normal_(1, 0.2)
            else:
                p.normal_(0, 0.1)
    model.train()
    return model


def named(model):
    """The parameters, the tied head once, under ferry's names."""
    return [(name.removeprefix("transformer."), p) for name, p in model.named_parameters()]


def loss_of(model, batch):
    logits = model(input_ids=batch[:, :-1].long()).logits
    return logits, torch.nn.functional.cross_entropy(logits.float().reshape(-1, VOCABULARY),
                                                     batch[:, 1:].reshape(-1).long())


def train(model, tokens, bf16):
    masters = [p.detach().clone().float().requires_grad_() for _, p in named(model)]
    if bf16:
        model = model.to(torch.bfloat16)
    groups = [{"params": [m for m in masters if m.dim() == 2], "weight_decay": 0.1},
              {"params": [m for m in masters if m.dim() == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.999), eps=1e-8, foreach=False)
    losses, norms = [], []
    for step in range(STEPS):
        with torch.no_grad():
            for m, (_, p) in zip(masters, named(model)):
                p.copy_(m)
        model.zero_grad()
        _, loss = loss_of(model, tokens[step % BATCHES])
        loss.backward()
        for m, (_, p) in zip(masters, named(model)):
            m.grad = p.grad.float()
        norms.append(torch.nn.utils.clip_grad_norm_(masters, 1.0).item())
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses), torch.tensor(norms)


def main():
    default = os.path.join(os.path.dirname(os.path.abspath(__file__)), "model_tiny.safetensors")
    output = sys.argv[1] if len(sys.argv) > 1 else default
    torch.set_num_threads(1)
    model = make_model(20)
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(0, VOCABULARY, (BATCHES, B, T + 1), generator=generator, dtype=torch.int32)
    tensors = {"tokens": tokens}
    for name, p in named(model):
        tensors["weight." + name] = p.detach().clone()
    logits, loss = loss_of(model, tokens[0])
    loss.backward()
    tensors["logits"] = logits.detach().clone()
    for name, p in named(model):
        tensors["gradient." + name] = p.grad.clone()
    for kind, bf16 in (("fp32", False), ("bf16", True)):
        tensors["losses_" + kind], tensors["norms_" + kind] = train(make_model(20), tokens, bf16)
        print(kind, "losses", tensors["losses_" + kind][[0, 1, 2, 9, 49]].tolist(), "norms",
              tensors["norms_" + kind][[0, 1, 2, 9, 49]].tolist())
    save_file({k: v.contiguous() for k, v in tensors.items()}, output,
              metadata={"torch": torch.__version__, "transformers": transformers.__version__})
    print(os.path.getsize(output), "bytes", output)


main()
