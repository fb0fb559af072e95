"""PyTorch at the same shapes: torch.compile, bf16 autocast over fp32 weights, SDPA's flash attention, fused AdamW,
clipping at norm 1, one batch of random tokens. One JSON object a line.

Usage: peer_torch.py NAME:L:C:H:B:T:DROPOUT[:MICRO-BATCHES] ...
"""
import json
import math
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

VP = 50304


class Block(nn.Module):
    def __init__(self, c, h, p):
        super().__init__()
        self.h, self.p = h, p
        self.ln_1, self.ln_2 = nn.LayerNorm(c), nn.LayerNorm(c)
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.up, self.down = nn.Linear(c, 4 * c), nn.Linear(4 * c, c)
        self.drop = nn.Dropout(p)

    def forward(self, x):
        b, t, c = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(b, t, 3, self.h, c // self.h).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.p if self.training else 0.0)
        x = x + self.drop(self.proj(y.transpose(1, 2).reshape(b, t, c)))
        return x + self.drop(self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh")))


class Model(nn.Module):
    def __init__(self, l, c, h, t, p):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VP, c), nn.Embedding(t, c)
        self.blocks = nn.ModuleList(Block(c, h, p) for _ in range(l))
        self.ln_f, self.drop = nn.LayerNorm(c), nn.Dropout(p)
        for name, w in self.named_parameters():
            if w.dim() > 1:
                scale = 0.02 / math.sqrt(2 * l) if "proj" in name or "down" in name else 0.02
                nn.init.normal_(w, std=scale)

    def forward(self, x, y):
        z = self.drop(self.wte(x) + self.wpe(torch.arange(x.shape[1], device=x.device)))
        for block in self.blocks:
            z = block(z)
        logits = F.linear(self.ln_f(z), self.wte.weight)
        return F.cross_entropy(logits.view(-1, VP).float(), y.view(-1))


def measure(name, l, c, h, b, t, p, micro=1):
    torch.manual_seed(1)
    torch.cuda.empty_cache()
    torch._dynamo.reset()
    model = Model(l, c, h, t, p).cuda().train()
    decay = [w for w in model.parameters() if w.dim() > 1]
    rest = [w for w in model.parameters() if w.dim() == 1]
    adam = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}],
                             lr=3e-4, betas=(0.9, 0.95), fused=True)
    compiled = torch.compile(model)
    x = torch.randint(50257, (b, t), device="cuda")
    y = torch.randint(50257, (b, t), device="cuda")
    began = time.time()

    def step():
        for _ in range(micro):
            with torch.autocast("cuda", torch.bfloat16):
                loss = compiled(x, y) / micro
            loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        return loss

    seconds = []
    for s in range(26):
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = step()
        torch.cuda.synchronize()
        if s >= 6:
            seconds.append(time.perf_counter() - start)
        if s == 0:
            compile_s = time.time() - began
    seconds.sort()
    median = seconds[len(seconds) // 2]
    unused, total = torch.cuda.mem_get_info()
    print(json.dumps({
        "name": name, "system": f"PyTorch {torch.__version__}", "layers": l, "hidden": c, "heads": h, "batch": b, "micro_batches": micro,
        "sequence": t, "dropout": p, "ms": round(median * 1e3, 2), "fastest_ms": round(seconds[0] * 1e3, 2),
        "slowest_ms": round(seconds[-1] * 1e3, 2), "tokens_per_s": round(micro * b * t / median),
        "allocated_peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
        "device_gb": round((total - unused) / 1e9, 2), "compile_s": round(compile_s, 1),
        "last_loss": round(micro * float(loss), 4)}), flush=True)
    torch.cuda.reset_peak_memory_stats()


for argument in sys.argv[1:]:
    fields = argument.split(":")
    measure(fields[0], *map(int, fields[1:6]), float(fields[6]), *map(int, fields[7:]))
