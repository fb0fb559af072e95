#!/usr/bin/env python3
"""The training step of bench_step.c in PyTorch: the same GPT-2 (tied head, causal attention, tanh GELU, no dropout),
AdamW and clipping, on random tokens.

    python3 tests/bench/torch_step.py [fp32|bf16] [reference|124m] [BxT] [threads] [steps]

bf16 is autocast over fp32 weights. The script starts itself again with the settings that made PyTorch 1.13 fastest on
CPUs with AVX-512 (each can be set from outside): memory kept by malloc and on huge pages, AVX-512 kernels, and for
builds on OpenBLAS its AVX2 kernels, which are the faster ones on AMD's. PyTorch 2 uses its fused AdamW and
scaled_dot_product_attention where they are there.
"""
import os
import resource
import statistics
import sys
import time

TUNED = {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx512", "MALLOC_MMAP_MAX_": "0",
         "MALLOC_TRIM_THRESHOLD_": "100000000000", "MALLOC_TOP_PAD_": "268435456",
         "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def build(torch, layers, hidden, heads, vocabulary, positions):
    nn, functional = torch.nn, torch.nn.functional
    fused = hasattr(functional, "scaled_dot_product_attention")

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
            self.attention, self.projection = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
            self.fc, self.fc_projection = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

        def attend(self, x):
            b, t, c = x.shape
            q, k, v = (y.view(b, t, heads, c // heads).transpose(1, 2) for y in self.attention(x).split(c, dim=2))
            if fused:
                y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            else:
                scores = (q @ k.transpose(-2, -1)) * (c // heads) ** -0.5
                y = functional.softmax(scores.masked_fill(self.mask[:t, :t], float("-inf")), dim=-1) @ v
            return self.projection(y.transpose(1, 2).reshape(b, t, c))

        def forward(self, x):
            x = x + self.attend(self.ln_1(x))
            return x + self.fc_projection(functional.gelu(self.fc(self.ln_2(x)), approximate="tanh"))

    Block.mask = torch.ones(positions, positions, dtype=torch.bool).triu(1)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(vocabulary, hidden), nn.Embedding(positions, hidden)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.ln_f = nn.LayerNorm(hidden)
            for p in self.parameters():
                if p.dim() == 2:
                    nn.init.normal_(p, 0, 0.02)

        def forward(self, tokens, targets):
            x = self.wte(tokens) + self.wpe.weight[:tokens.shape[1]]
            for block in self.blocks:
                x = block(x)
            logits = functional.linear(self.ln_f(x), self.wte.weight)
            return functional.cross_entropy(logits.view(-1, vocabulary).float(), targets.reshape(-1))

    return Model()


def main():
    arguments = sys.argv[1:] + ["fp32", "reference", "1x1024", str(os.cpu_count()), "5"][len(sys.argv) - 1:]
    kind, name, (b, t) = arguments[0], arguments[1], map(int, arguments[2].split("x"))
    threads, steps = int(arguments[3]), int(arguments[4])
    if not os.environ.get("TORCH_STEP_TUNED"):
        os.execve(sys.executable, [sys.executable] + sys.argv,
                  {**TUNED, "OMP_NUM_THREADS": str(threads), **os.environ, "TORCH_STEP_TUNED": "1"})
    import torch
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    layers, hidden, heads = {"reference": (4, 1024, 16), "124m": (12, 768, 12)}[name]
    model = build(torch, layers, hidden, heads, 50304, 1024)
    groups = [{"params": [p for p in model.parameters() if (p.dim() == 2) == decays], "weight_decay": 0.01 * decays}
              for decays in (True, False)]
    try:
        optimizer = torch.optim.AdamW(groups, lr=1e-4, fused=True)
    except (TypeError, RuntimeError):
        optimizer = torch.optim.AdamW(groups, lr=1e-4, foreach=True)
    data = torch.randint(0, 50257, (b, t + 1))
    times = []
    for step in range(steps + 1):
        marks = [time.perf_counter()]
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
            loss = model(data[:, :-1], data[:, 1:])
        marks.append(time.perf_counter())
        loss.backward()
        marks.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        marks.append(time.perf_counter())
        if step:  # the first warms up
            times.append([y - x for x, y in zip(marks, marks[1:])] + [marks[-1] - marks[0]])
    forward, backward, update, total = (statistics.median(column) for column in zip(*times))
    fastest = min(row[3] for row in times)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024e-9
    print(f"torch {torch.__version__}, {threads} threads, {kind}, {layers} layers x {hidden}, batch {b} x {t}")
    print(f"step {total * 1e3:.0f} ms (fastest {fastest * 1e3:.0f}): forward {forward * 1e3:.0f}, backward "
          f"{backward * 1e3:.0f}, update {update * 1e3:.0f}; {b * t / total:.1f} tokens/s; peak RSS {rss:.2f} GB")


main()
