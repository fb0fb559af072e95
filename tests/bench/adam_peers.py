#!/usr/bin/env python3
"""adam_peers.py BENCH_ADAM [ELEMENTS] [THREADS] [ROUNDS]: ferry's optimizer pass on the host beside DeepSpeed's cpu_adam and
torch.optim.AdamW (default, foreach, fused), pass by pass in turns; nanoseconds a parameter, and how many times as fast ferry is,
median (least-most) of the rounds' ratios. What is not installed is left out.

What a step moves between processor and memory, bytes a parameter:
  ferry      reads p, m, v and half-precision gradients, 14; writes p, m, v and half-precision weights, 14. One pass: unscaling
             and clipping are a factor in it. 28
  DeepSpeed  cpu_adam reads p, m, v and fp32 gradients, 16, and writes p, m, v, 12. Then its separate copy-out, buffer.copy_(p),
             reads 4 and writes 2, by ordinary stores, which first read what they are to write, 2. So ZeRO-Offload does it after
             each step (runtime/zero/stage_1_and_2.py, step). 36: "with copy". Before the step, with a loss scale or clipping,
             unscale_and_clip_grads multiplies the gradients in place, 8 more. 44: "whole"
Gradients come from the GPU, DeepSpeed's made fp32 there; how they come is not counted. torch's rows have the same copy and
unscaling. Both sides write 14 bytes up to "with copy", so where writes are what bounds, less than 36/28 = 1.29 can be had.

On a host that moves virtual processors about, two threads have one path to the memory between them at times, and one each at
others, and the ratios differ. Before and after each round a plain pass by one thread and by all tells which it was; rounds in
between are not counted. DeepSpeed and torch have pages of 4 KiB unless the system, or THP_MEM_ALLOC_ENABLE=1, says otherwise;
ferry asks for huge ones."""
import os, statistics, subprocess, sys, time

os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # else OpenMP's threads spin for milliseconds, into ferry's turn
bench = sys.argv[1]
elements = int(sys.argv[2]) if len(sys.argv) > 2 else 1 << 25
threads = int(sys.argv[3]) if len(sys.argv) > 3 else os.cpu_count()
rounds = int(sys.argv[4]) if len(sys.argv) > 4 else 40

try:
    import torch
except ImportError:
    print("PyTorch not found: ferry alone")
    sys.exit(subprocess.run([bench, "fp16", str(elements), str(threads), str(max(rounds, 1))]).returncode)
torch.set_num_threads(threads)
parameter = torch.nn.Parameter(torch.randn(elements) * 0.02)
parameter.grad = torch.randn(elements) * 1e-3
copy = torch.zeros(elements, dtype=torch.float16)
settings = dict(lr=1e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
makers = {
    "torch fused": lambda: torch.optim.AdamW([parameter], fused=True, **settings),
    "torch foreach": lambda: torch.optim.AdamW([parameter], foreach=True, **settings),
    "torch default": lambda: torch.optim.AdamW([parameter], foreach=False, fused=False, **settings),
}
try:
    from deepspeed.ops.adam import DeepSpeedCPUAdam
    makers = {"DeepSpeed cpu_adam": lambda: DeepSpeedCPUAdam([parameter], adamw_mode=True, **settings), **makers}
except Exception as error:
    print("DeepSpeed left out:", str(error).splitlines()[0])
peers = {}
for name, make in makers.items():
    try:
        peers[name] = make()
    except Exception as error:
        print(name, "left out:", str(error).splitlines()[0])
server = subprocess.Popen([bench, "fp16", str(elements), str(threads), "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def timed(work):
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) / elements * 1e9


def ferry(what):
    server.stdin.write(what + "\n")
    server.stdin.flush()
    return float(server.stdout.readline()) / elements * 1e9


def paths():
    """Is the memory any faster for all threads than for one?"""
    if threads == 1:
        return ""
    gain = ferry("alone") / ferry("plain")
    return "one" if gain < 1.3 else "several" if gain > 1.5 else None


def unscale():
    parameter.grad.mul_(1.0)


def peer(optimizer):
    return timed(optimizer.step), timed(lambda: copy.copy_(parameter.data)), timed(unscale)


work = {"ferry plain pass": lambda: ferry("plain"), "ferry in place": lambda: ferry("update"), "ferry to a shadow": lambda: ferry("speculation")}
for name, optimizer in peers.items():
    work[name] = lambda optimizer=optimizer: peer(optimizer)
found = {}
for round in range(-1, rounds):
    names = list(work)
    names = names[round % len(names):] + names[:round % len(names)]
    before = paths()
    figures = {name: work[name]() for name in names}
    after = paths()
    if round >= 0:  # the first warms up
        found.setdefault(before if before == after else None, []).append(figures)
server.stdin.close()
server.wait()

print("%d parameters, %d threads, %d rounds in turns, %d in which the paths to the memory changed" % (elements, threads, rounds, len(found.pop(None, []))))
for state, turns in sorted(found.items()):
    if state:
        print("%s: %d rounds" % ("the threads share one path to the memory" if state == "one" else "the threads have several paths to the memory", len(turns)))
    print("%-20s %10s %10s %10s   %s" % ("ns a parameter", "update", "with copy", "whole", "ferry, in place, is faster by (with copy; whole)"))
    own = [t["ferry in place"] for t in turns]
    for name in work:
        if name in peers:
            sums = [[sum(t[name][:i]) for t in turns] for i in (1, 2, 3)]
        else:
            sums = [[t[name] for t in turns]] * 3
        line = "%-20s" % name + "".join(" %10.3f" % statistics.median(s) for s in sums)
        for s in sums[1:] if name in peers else sums[:1]:
            ratios = [theirs / ours for theirs, ours in zip(s, own)]
            line += "   %.2f (%.2f-%.2f)" % (statistics.median(ratios), min(ratios), max(ratios))
        print(line)
