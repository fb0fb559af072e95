#!/usr/bin/env python3
"""ferry and Hugging Face transformers, each on the other's models. Needs torch and transformers from PyPI.

    make build/ferry build/opt/tests/interop/model_logits
    python3 tests/interop/transformers_parity.py [BUILD]

1. A GPT-2 of the published shape (12 layers, 768, 12 heads, 50,257 ids) that transformers initializes and saves: ferry
   reads the directory and gives the same logits.
2. A checkpoint that ferry trains here: GPT2LMHeadModel.from_pretrained and AutoTokenizer read it, the logits are
   ferry's, the loss on the validation part is the one `ferry evaluate` prints, and ids of the text are ferry's.
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy
import torch
import transformers

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build")
FERRY = os.environ.get("FERRY", os.path.join(BUILD, "ferry"))
LOGITS = os.path.join(BUILD, "opt/tests/interop/model_logits")
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


def ferry_logits(directory, ids):
    text = " ".join(map(str, ids)).encode()
    raw = subprocess.run([LOGITS, directory], input=text, stdout=subprocess.PIPE, check=True).stdout
    return torch.from_numpy(numpy.frombuffer(raw, dtype="<f4").reshape(len(ids), -1).copy())


def compare(name, model, directory, ids, tolerance):
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0]
    got = ferry_logits(directory, ids)
    if got.shape != expected.shape:
        return report(name, False, f"shapes {tuple(got.shape)}, {tuple(expected.shape)}")
    worst = (got - expected).abs().max().item()
    report(name, worst < tolerance,
           f"{len(ids)} x {got.shape[1]} logits (up to {expected.abs().max():.2f}) differ by at most {worst:.2g}")


def published_shape(work):
    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    ids = torch.randint(0, 50257, (1024,)).tolist()
    for scale in (1, 3):
        # Weights three times as large make logits of a trained model's size.
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() == 2:
                    p.mul_(scale)
        directory = os.path.join(work, f"published{scale}")
        model.save_pretrained(directory)
        compare(f"124M from transformers, weights x {scale}", model, directory, ids, 1e-5 if scale == 1 else 1e-4)
    model.to(torch.bfloat16).save_pretrained(os.path.join(work, "half"))
    model = transformers.GPT2LMHeadModel.from_pretrained(os.path.join(work, "half"), dtype=torch.float32).eval()
    compare("the same saved in bf16", model, os.path.join(work, "half"), ids[:64], 1e-4)


def stretch_loss(model, ids, length):
    """Mean loss of every token but the first; windows side by side."""
    total = 0.0
    for start in range(0, len(ids) - 1, length):
        window = ids[start:start + length + 1]
        with torch.no_grad():
            logits = model(torch.tensor([window[:-1]])).logits[0]
        total += torch.nn.functional.cross_entropy(logits.double(), torch.tensor(window[1:]), reduction="sum").item()
    return total / (len(ids) - 1)


def trained_by_ferry(work):
    text, corpus, run = (os.path.join(work, name) for name in ("text", "corpus", "run"))
    os.mkdir(text)
    documents = []
    for folder, _, names in sorted(os.walk(ROOT)):
        if ".git" in folder:
            continue
        for name in sorted(names):
            if name.endswith((".c", ".h")) and len(documents) < 60:
                with open(os.path.join(folder, name), encoding="utf-8") as file:
                    documents.append(file.read())
    for i, document in enumerate(documents):
        with open(os.path.join(text, f"{i}.txt"), "w", encoding="utf-8") as file:
            file.write(document)
    ferry("preprocess", text, "--output", corpus)
    ferry("train", "--train-data", corpus, "--split", "9,1", "--num-layers", "3", "--hidden-size", "96",
          "--num-attention-heads", "3", "--seq-length", "128", "--max-position-embeddings", "128", "--batch-size", "4",
          "--train-iters", "40", "--lr", "3e-3", "--save", run)
    result = json.loads(ferry("evaluate", "--load", run, "--data", corpus, "--json"))
    checkpoint = result["checkpoint"]
    model = transformers.GPT2LMHeadModel.from_pretrained(checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    report("from_pretrained", model.config.vocab_size == 50257 and
           model.transformer.wte.weight.data_ptr() == model.lm_head.weight.data_ptr(),
           f"{sum(p.numel() for p in model.parameters())} parameters, head tied")
    sample = "".join(documents[:5]) + " naïve café – 日本語 🙂\n\n  x'll"
    ids = tokenizer(sample)["input_ids"]
    mine = [int(i) for i in ferry("encode", input=sample.encode()).split()]
    report("AutoTokenizer", ids == mine, f"{len(ids)} ids of {len(sample.encode())} bytes")
    compare("ferry's checkpoint in transformers", model, checkpoint, ids[:128], 1e-4)
    # The validation part's tokens, from Megatron-LM's own format: the corpus is one shard here.
    tokens = numpy.fromfile(os.path.join(corpus, "00000.bin"), dtype="<u2").tolist()
    stretch = tokens[-(result["tokens"] + 1):]
    loss = stretch_loss(model, stretch, 128)
    report("ferry evaluate", abs(loss - result["loss"]) < 1e-5,
           f"loss {result['loss']:.6f} over {result['tokens']} tokens, transformers {loss:.6f}")
    greedy = ferry("generate", "--load", run, "--prompt", "static enum status ", "--temperature", "0",
                   "--out-seq-length", "40", "--only-new").decode()
    prompt = tokenizer("static enum status ", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=40, do_sample=False, pad_token_id=50256)[0, prompt.input_ids.shape[1]:]
    theirs = tokenizer.decode(out, skip_special_tokens=True)
    report("ferry generate", greedy.removesuffix("\n") == theirs, f"40 greedy tokens {theirs[:30]!r}...")


def main():
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as work:
        published_shape(work)
        trained_by_ferry(work)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}: {failures} failed")
    sys.exit(failures > 0)


main()
