#!/usr/bin/env python3
"""adam_peers.py BENCH_ADAM [ELEMENTS] [THREADS] [ROUNDS]: ferry's optimizer pass on the host beside torch.optim.AdamW
(default, foreach, fused) and DeepSpeed's cpu_adam, in turns; medians and, for a machine with other work, the best; nanoseconds a parameter.

ferry reads half-precision gradients and writes half-precision weights in the same pass. The peers take fp32
gradients, and their fp16 copy of the weights is made apart: with it and without it. What is not installed is left out."""
import os, re, statistics, subprocess, sys, time

os.environ.setdefault("DS_ACCELERATOR", "cpu")
bench = sys.argv[1]
elements = int(sys.argv[2]) if len(sys.argv) > 2 else 1 << 25
threads = int(sys.argv[3]) if len(sys.argv) > 3 else os.cpu_count()
rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 5

try:
    import torch
except ImportError:
    print("PyTorch not found: ferry alone")
    sys.exit(subprocess.run([bench, "fp16", str(elements), str(threads), str(rounds)]).returncode)
torch.set_num_threads(threads)
parameter = torch.nn.Parameter(torch.randn(elements) * 0.02)
parameter.grad = torch.randn(elements) * 1e-3
copy = torch.zeros(elements, dtype=torch.float16)
settings = dict(lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
makers = {
    "torch default": lambda: torch.optim.AdamW([parameter], foreach=False, fused=False, **settings),
    "torch foreach": lambda: torch.optim.AdamW([parameter], foreach=True, **settings),
    "torch fused": lambda: torch.optim.AdamW([parameter], fused=True, **settings),
}
try:
    from deepspeed.ops.adam import DeepSpeedCPUAdam
    makers["DeepSpeed cpu_adam"] = lambda: DeepSpeedCPUAdam([parameter], adamw_mode=True, **settings)
except Exception as error:
    print("DeepSpeed left out:", str(error).splitlines()[0])
optimizers = {}
for name, make in makers.items():
    try:
        optimizers[name] = make()
    except Exception as error:
        print(name, "left out:", str(error).splitlines()[0])


def timed(work):
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / elements * 1e9


def ferry():
    out = subprocess.run([bench, "fp16", str(elements), str(threads), "3"], capture_output=True, text=True, check=True).stdout
    return {name: float(re.search(re.escape(name) + r" .* best +([0-9.]+)", out)[1]) for name in ("AdamW, in place", "AdamW, to a shadow")}


times = {}
for round in range(-1, rounds):
    figures = {"ferry " + name.split(", ")[1]: [value, value] for name, value in ferry().items()}
    for name, optimizer in optimizers.items():
        step = min(timed(optimizer.step) for _ in range(3))
        figures[name] = [step, step + min(timed(lambda: copy.copy_(parameter.data)) for _ in range(3))]
    if round >= 0:  # the first warms up
        for name, pair in figures.items():
            times.setdefault(name, []).append(pair)
print("%d parameters, %d threads, %d rounds in turns, the best of 3 in each" % (elements, threads, rounds))
print("%-20s %22s %22s %22s" % ("ns a parameter", "update", "with fp16 copy", "ferry, in place, is"))
print("%-20s %22s %22s %22s" % ("", "median      best", "median      best", "faster by"))
ours = [pair[1] for pair in times["ferry in place"]]
for name, pairs in times.items():
    ratio = statistics.median(pair[1] / own for pair, own in zip(pairs, ours))
    best = min(p[1] for p in pairs) / min(ours)
    line = [f(p[i] for p in pairs) for i in (0, 1) for f in (statistics.median, min)]
    print("%-20s %12.3f %9.3f %12.3f %9.3f %11.2f %9.2f" % (name, *line, ratio, best))
