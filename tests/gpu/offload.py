"""`ferry train` with its optimizer on the GPU, on the host, and on both, on a real GPU. Called by tests/gpu/run.

Usage: offload.py prove|bench FERRY OUT WORK

prove: small models end in the same weights and moments, bit for bit, wherever the optimizer is: in fp32, bf16 with
steps that are clipped, bf16 gradients, fp16 with overflows.
bench: tokens/s, MFU, and memory at the shapes below, beside the run with the optimizer on the GPU and beside what
`ferry plan` foretells; OUT/offload.json. SHAPES names some of them (all); after OFFLOAD_LIMIT seconds (400) no further run
begins: those with the optimizer on the GPU and on the host come first. With GPU_DRY_RUN tiny ones, for a trial of this
script on the emulated device.
"""
import hashlib
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import threading
import time

DRY = bool(os.environ.get("GPU_DRY_RUN"))
RUN_SECONDS = 180  # the most that a run of the benchmark takes
WORKSPACE = 64 << 20  # bytes that every run takes for matrix products (kernels.h)
FAILED = 0


def check(good, text):
    global FAILED
    FAILED += not good
    print(("" if good else "not ") + "ok - " + text, flush=True)


def corpus(ferry, work):
    """Random words, a few of them frequent."""
    path = work + "/offload-corpus"
    if os.path.exists(path):
        return path
    draw = random.Random(1)
    words = ["".join(draw.choice("abcdefghijklmnoprstuvw") for _ in range(draw.randint(2, 8))) for _ in range(200 if DRY else 20000)]
    with open(work + "/offload.jsonl", "w") as out:
        for _ in range(100 if DRY else 4000):
            text = " ".join(words[int(len(words) * draw.random() ** 4)] for _ in range(60 if DRY else 400))
            out.write(json.dumps({"text": text}) + "\n")
    command = [ferry, "preprocess", work + "/offload.jsonl", "--output", path]
    if DRY:
        tokenizer = work + "/offload-tokenizer"
        subprocess.run([ferry, "train-tokenizer", work + "/offload.jsonl", "--output", tokenizer, "--vocab-size", "300"],
                       check=True, stdout=subprocess.DEVNULL)
        command += ["--vocab-file", tokenizer + "/vocab.json", "--merge-file", tokenizer + "/merges.txt"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def shape_flags(layers, hidden, heads, sequence, batch, total, dropout):
    return ["--num-layers", layers, "--hidden-size", hidden, "--num-attention-heads", heads, "--seq-length", sequence,
            "--max-position-embeddings", sequence, "--batch-size", batch, "--global-batch-size", total,
            "--hidden-dropout", dropout, "--attention-dropout", dropout]


# ---- the same bits ----

def digests(folder):
    return [hashlib.sha256(open(f"{folder}/{name}.safetensors", "rb").read()).hexdigest() for name in ("model", "optimizer")]


def outcomes(log):
    found = re.search(r"on the host: (\d+) updates begun .*known, (\d+) of them .*clipping, (\d+) dropped", log)
    return [int(n) for n in found.groups()] if found else [0, 0, 0]


def prove(ferry, out, work):
    data = corpus(ferry, work)
    steps = 40 if DRY else 80
    shape = shape_flags(1, 16, 2, 16, 2, 4, 0.1) if DRY else shape_flags(4, 256, 4, 256, 4, 8, 0.1)
    if not DRY:
        shape += ["--threads", 8]

    def train(name, flags):
        run = f"{work}/prove-{name}"
        command = [ferry, "train", "--device", "gpu", "--train-data", data, "--save", run, "--overwrite", *shape, "--lr", "1e-3",
                   "--train-iters", steps, "--eval-interval", 0, "--save-interval", 0, *flags]
        done = subprocess.run([str(x) for x in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        open(f"{out}/prove-{name}.log", "w").write(done.stdout)
        if done.returncode:
            check(False, f"train {name}: {done.stdout[-400:]}")
            return None
        return run, done.stdout

    free = train("free", ["--bf16", "--clip-grad", 0])
    if not free:
        return
    norms = [s["grad_norm"] for s in map(json.loads, open(free[0] + "/metrics.jsonl")) if s["type"] == "train"]
    # The limit that the most steps exceed after four that did not: those begin early, and are done over. Of the second
    # half: there the norms no longer fall, and go up and down with the windows.
    often = max(norms, key=lambda limit: sum(max(norms[i - 4:i]) <= limit < norms[i] for i in range(steps // 2, steps)))
    scale = ["--initial-scale-power", 22, "--loss-scale-window", 6, "--hysteresis", 1]
    kinds = {"fp32": ["--clip-grad", 0], "bf16-clipped": ["--bf16", "--clip-grad", often],
             "bf16-gradients": ["--bf16", "--half-gradients", "--clip-grad", 0],
             "fp16-overflows": ["--fp16", "--clip-grad", 0, "--checkpoint-activations", *scale]}
    total = [0, 0, 0]
    for kind, flags in kinds.items():
        runs = {place: train(f"{kind}-{place}", [*flags, "--optimizer-on", place]) for place in ("gpu", "cpu", "0.5")}
        if None in runs.values():
            continue
        wanted = digests(f"{runs['gpu'][0]}/step-{steps:08d}")
        for place in ("cpu", "0.5"):
            path, log = runs[place]
            early = outcomes(log)
            total = [a + b for a, b in zip(total, early)]
            check(digests(f"{path}/step-{steps:08d}") == wanted,
                  f"{kind}, --optimizer-on {place}: the bits of the GPU's (begun early {early[0]}, done over {early[1]}, dropped {early[2]})")
    check(all(total), f"in all {total[0]} updates begun early, {total[1]} done over, {total[2]} dropped")


# ---- how fast ----

# layers, hidden, heads, sequence, micro-batch, windows a step, dropout, steps, more flags
SHAPES = {
    "reference-24": (4, 1024, 16, 1024, 24, 24, 0.1, 60, []),
    # With half gradients on the host: 1.2 GB, beside CUDA's own; so much is allowed there.
    "reference-24-small": (4, 1024, 16, 1024, 24, 24, 0.1, 60,
                           ["--checkpoint-activations", "--layer-batch-size", 8, "--cpu-checkpointing", "--logits-memory", "32M"]),
    "reference-32": (4, 1024, 16, 1024, 32, 32, 0.1, 60, []),
    "gpt2-124M": (12, 768, 12, 1024, 32, 32, 0, 60, []),
    "gpt-1.3B": (24, 2048, 16, 1024, 8, 32, 0, 14, []),
    "gpt-1.3B-recompute": (24, 2048, 16, 1024, 16, 32, 0, 14, ["--checkpoint-activations"]),
}
PLACES = {"gpu": ["--optimizer-on", "gpu"], "cpu": ["--optimizer-on", "cpu"], "half": ["--optimizer-on", "0.5"],
          "cpu, half gradients": ["--optimizer-on", "cpu", "--half-gradients"],
          "cpu, delayed": ["--optimizer-on", "cpu", "--delayed-update"]}
if DRY:
    SHAPES = {"tiny": (2, 16, 2, 16, 2, 4, 0.1, 10, []), "tiny-recompute": (2, 16, 2, 16, 2, 4, 0, 10, ["--checkpoint-activations", "--layer-batch-size", 1])}
LINE = re.compile(r"iteration +(\d+)/.*per iteration \(ms\): ([\d.]+).*tokens/s: (\d+).*TFLOPs: ([\d.e+-]+) \|(?: MFU: ([\d.]+)%)?")


class DeviceMemory(threading.Thread):
    """The most bytes in use on the device, of samples; 0 where nvidia-smi is not there."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most, self.ended = 0, threading.Event()

    def run(self):
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self.ended.wait(0.3):
            try:
                said = subprocess.run(command, capture_output=True, text=True).stdout.split()
            except OSError:
                return
            if said and said[0].isdigit():
                self.most = max(self.most, int(said[0]) << 20)


def foretold(ferry, flags):
    said = subprocess.run([ferry, "plan", *flags], capture_output=True, text=True).stdout
    row = re.search(r"^as it is +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)", said, re.M)
    return dict(zip(("compute_ms", "optimizer_ms", "down_ms", "up_ms", "step_ms"), map(float, row.groups()))) if row else None


def measure(ferry, data, out, name, place, flags, steps):
    command = [ferry, "train", "--train-data", data, "--save", "none", "--train-iters", str(steps), "--eval-interval", "0",
               "--log-interval", "1", *flags]
    memory = DeviceMemory()
    memory.start()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        child = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=RUN_SECONDS)
    except subprocess.TimeoutExpired:
        memory.ended.set()
        return {"failed": f"not done in {RUN_SECONDS} s"}
    log = child.stdout
    memory.ended.set()
    memory.join()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    open(f"{out}/offload-{name}-{place.replace(', ', '-').replace(' ', '-')}.log", "w").write(log)
    if child.returncode:
        said = [line for line in log.splitlines() if line.startswith("ferry train: ")]
        kind = "refused" if child.returncode == 2 else "failed"  # 2: what cannot fit, above all
        return {kind: said[-1][:300] if said else f"exit {child.returncode}"}
    lines = [LINE.search(line) for line in log.splitlines()]
    late = [m for m in lines if m and int(m[1]) > steps // 3]
    middle = lambda group: statistics.median(float(m[group]) for m in late)
    told = re.search(r"memory of the GPU: ([^(]*)\(", log)
    host = re.search(r"memory of the host: ([^(]*)\(", log)
    return {"ms": middle(2), "tokens_per_s": round(middle(3)), "tflops": middle(4),
            "mfu": round(middle(5) / 100, 4) if late[0][5] else None, "steps": len(late),
            "device_bytes": memory.most, "device_foretold": told[1].strip() if told else None,
            "host_foretold": host[1].strip() if host else None,
            "host_seconds_a_step": round((after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / steps, 4),
            "outcomes": outcomes(log)}


def bench(ferry, out, work):
    data = corpus(ferry, work)
    wanted = os.environ.get("SHAPES", "").split() or list(SHAPES)
    end = time.monotonic() + int(os.environ.get("OFFLOAD_LIMIT") or 400)
    first = [p for p in PLACES if p in ("gpu", "cpu")]
    order = [(n, p) for places in (first, [p for p in PLACES if p not in first]) for n in wanted for p in places]
    results, plain = [], {}
    # What CUDA itself has of the device: all that a run takes which needs the products' workspace and nearly nothing else.
    least = ["--device", "gpu", "--bf16", *map(str, shape_flags(1, 16, 1, 16, 1, 1, 0))]
    cuda = max(0, measure(ferry, data, out, "least", "gpu", least, 4 if DRY else 2000).get("device_bytes", 0) - WORKSPACE)
    for name, place in order:
        *shape, steps, more = SHAPES[name]
        # Unclipped, as a run is but for its first steps: the updates are begun early.
        flags = [str(x) for x in ["--device", "gpu", "--bf16", "--clip-grad", 0, *shape_flags(*shape), *more, *PLACES[place]]]
        if name.endswith("-small") and "--half-gradients" in flags:
            flags += ["--device-memory", "1144M"]
        result = {"name": name, "optimizer": place, "tokens": shape[3] * shape[5], "micro_batch": shape[4]}
        result.update({"refused": "no time was left for it"} if time.monotonic() > end else
                      measure(ferry, data, out, name, place, flags, steps))
        if "ms" in result:
            result["foretold"] = foretold(ferry, flags)
            result["device_bytes_beside_cuda"] = max(0, result["device_bytes"] - cuda)
            if place == "gpu":
                plain[name] = result["tokens_per_s"]
            result["share_of_gpu"] = round(result["tokens_per_s"] / plain[name], 3) if name in plain else None
        results.append(result)
        json.dump(results, open(out + "/offload.json", "w"), indent=1)
        guess = (result.get("foretold") or {}).get("step_ms")
        said = result.get("failed") or result.get("refused") or (f"{result['ms']:9.1f} ms (foretold {guess}) {result['tokens_per_s']:9,} tokens/s, "
                                         f"MFU {result['mfu']}, {result['share_of_gpu']} of the GPU's, {result['device_bytes'] / 1e9:.2f} GB, {result['device_bytes_beside_cuda'] / 1e9:.2f} without CUDA's own")
        print(f"# {name:20} {place:20} {said}", flush=True)
    for r in results:
        if "failed" in r:
            check(False, f"{r['name']}, {r['optimizer']}: {r['failed']}")
    measured = {r["optimizer"] for r in results if "ms" in r}
    check({"gpu", "cpu"} <= measured, f"benchmark of the optimizer's places: {len(measured)} of {len(PLACES)} measured")


if __name__ == "__main__":
    {"prove": prove, "bench": bench}[sys.argv[1]](*sys.argv[2:])
    sys.exit(FAILED > 0)
