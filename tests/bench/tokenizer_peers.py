#!/usr/bin/env python3
"""ferry's encoder beside gigatoken's and tiktoken's on the same texts, in turns, in one run.

usage: tests/bench/tokenizer_peers.py [FILE...]
    BENCH    bench_tokenizer (build/opt/tests/bench/bench_tokenizer)
    ROUNDS   turns (5); the best of each counts
    TEXTS    without FILEs: a folder for the Debian packages that the texts are made of (a temporary one)

MB/s of one thread, in processor time. Cold: a new encoder (ferry's opening included; a new gigatoken Tokenizer, its
opening not), warm: the same text again. gigatoken is given bytes and returns a numpy array, its shortest way.
"""
import os, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "interop"))
import tokenizer as interop

BENCH = os.environ.get("BENCH", os.path.join(ROOT, "build", "opt", "tests", "bench", "bench_tokenizer"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))


def ferry_rates(path):
    run = subprocess.run([BENCH, path], stdout=subprocess.PIPE, check=True, text=True)
    names, values = [line.split() for line in run.stdout.splitlines()[:2]]
    return {name: float(value) for name, value in zip(names, values) if name in ("cold", "warm", "u16", "two")}


class Gigatoken:
    def __init__(self, ranks):
        import gigatoken
        self.open = lambda: gigatoken.Tokenizer.from_tiktoken(ranks, "gpt2", {"<|endoftext|>": interop.EOD}).backend

    def rates(self, text):
        backend, rates = self.open(), {}
        for name in ("cold", "warm", "warm", "warm"):
            started = time.thread_time()
            ids = backend.encode(text)
            rates[name] = max(rates.get(name, 0), len(text) / 1e6 / (time.thread_time() - started))
        self.tokens = len(ids)
        return rates


class Tiktoken:
    def __init__(self):
        import tiktoken
        self.encoding = tiktoken.get_encoding("gpt2")

    def rates(self, text):
        text = text[:1_000_000].decode("utf-8", "ignore")  # it keeps nothing from one text to the next
        started = time.thread_time()
        self.encoding.encode_ordinary(text)
        return {"cold": len(text.encode()) / 1e6 / (time.thread_time() - started)}


def write_ranks(path):
    """gigatoken reads OpenAI's r50k_base.tiktoken: base64 of each token's bytes, and its rank."""
    import base64, tiktoken
    encoding = tiktoken.get_encoding("gpt2")
    with open(path, "w") as out:
        for rank in range(interop.EOD):
            out.write(f"{base64.b64encode(encoding.decode_single_token_bytes(rank)).decode()} {rank}\n")


def default_texts(folder, directory):
    texts = {"english": interop.english_documents(folder, False), "languages": interop.language_documents(folder, False)}
    for name, documents in texts.items():
        path = os.path.join(directory, name + ".txt")
        with open(path, "wb") as out:
            out.writelines(d.decode("utf-8", "replace").encode() for d in documents)
        yield path


def main():
    with tempfile.TemporaryDirectory() as directory:
        interop.tiktoken_cache(directory)
        os.environ["TIKTOKEN_CACHE_DIR"] = directory
        peers = {}
        try:
            peers["tiktoken"] = Tiktoken()
            ranks = os.path.join(directory, "r50k_base.tiktoken")
            write_ranks(ranks)
            peers["gigatoken"] = Gigatoken(ranks)
        except ImportError as error:
            print(f"{error}: not compared")
        try:
            paths = sys.argv[1:] or list(default_texts(os.environ.get("TEXTS", directory), directory))
        except subprocess.CalledProcessError:
            print("no Debian packages to be had here: name the texts")
            return 0
        columns = ["ferry cold", "ferry warm", "ferry u16", "ferry two", "gigatoken cold", "gigatoken warm", "tiktoken cold"]
        print(f"{'MB/s':20}", *(f"{c:>14}" for c in columns), f"{'x cold':>7} {'x warm':>7} {'x two':>7}")
        for path in paths:
            text, best = open(path, "rb").read(), {}
            for _ in range(ROUNDS):
                turns = {"ferry": ferry_rates(path), **{name: peer.rates(text) for name, peer in peers.items()}}
                for name, rates in turns.items():
                    for kind, rate in rates.items():
                        best[f"{name} {kind}"] = max(best.get(f"{name} {kind}", 0), rate)
            ratio = lambda a, b: f"{best[a] / best[b]:7.2f}" if best.get(b) else "      -"
            print(f"{os.path.basename(path):20}", *(f"{best.get(c, 0):14.0f}" for c in columns),
                  ratio("ferry cold", "gigatoken cold"), ratio("ferry warm", "gigatoken warm"), ratio("ferry two", "ferry warm"),
                  flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
