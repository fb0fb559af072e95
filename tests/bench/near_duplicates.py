"""near_duplicates.py --ferry FERRY [--pairs N] [--background N]: what `ferry preprocess --dedup near` finds.

Pairs of documents of a known similarity (Jaccard, of their sets of five words in a row) are planted among unrelated
documents that share boilerplate. For each similarity: how many pairs lost one, beside what MinHash of 14 bands of 8
promises, 1 - (1 - s^8)^14; ends with exit code 1 where chance does not explain the difference (4.5 sigma) or an
unrelated document was dropped. Then precision (how similar what was dropped is), and what it costs: the same input
with exact duplicates only, in turns. Nothing but Python's own library.
"""
import argparse
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile
import time

BANDS, ROWS = 14, 8


def shingles(words):
    return {tuple(words[i:i + 5]) for i in range(len(words) - 4)}


def similarity(a, b):
    a, b = shingles(a), shingles(b)
    return len(a & b) / len(a | b)


def curve(s):
    return 1 - (1 - s ** ROWS) ** BANDS


class Words:
    """Words of an English-like vocabulary: frequencies fall with rank, common words are short."""

    def __init__(self, generator):
        self.generator = generator
        letters = "etaoinshrdlucmfwypvbgkjqxz"
        self.words = ["".join(generator.choices(letters, range(26, 0, -1), k=2 + int(math.log2(i + 2) / 2)))
                      for i in range(30000)]
        weights, total = [], 0
        for i in range(len(self.words)):
            total += 1 / (i + 3)
            weights.append(total)
        self.weights = weights

    def draw(self, count):
        return self.generator.choices(self.words, cum_weights=self.weights, k=count)


def edited(words, wanted, generator, vocabulary):
    """A copy of about the similarity wanted: words are exchanged here and there, each in five shingles."""
    # n shingles of which 5k are lost: s = (n - 5k) / (n + 5k)
    n = len(words) - 4
    changes = round(n * (1 - wanted) / (1 + wanted) / 5)
    copy = list(words)
    for at in generator.sample(range(0, len(words), 5), min(changes, len(words) // 5)):
        copy[min(at + generator.randrange(5), len(words) - 1)] = vocabulary.draw(1)[0] + "x"
    return copy


def dressed(words, generator):
    """The same words for the search: capitals and punctuation do not count."""
    text = []
    for word in words:
        if generator.random() < 0.1:
            word = word.capitalize()
        text.append(word + generator.choice(["", "", "", "", "", "", ",", "."]))
    return " ".join(text)


def make(path, pairs, background, generator):
    """Writes the documents; returns each pair's (target, similarity, line, line) and the background's lines."""
    vocabulary = Words(generator)
    boilerplate = vocabulary.draw(30)
    documents, planted = [], []
    for target in (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        for _ in range(pairs):
            words = vocabulary.draw(generator.randrange(200, 500))
            other = edited(words, target, generator, vocabulary)
            planted.append([target, similarity(words, other), len(documents), len(documents) + 1])
            documents += [words, other]
    first = len(documents)
    for _ in range(background):
        documents.append(vocabulary.draw(generator.randrange(100, 500)) + boilerplate)
    order = list(range(len(documents)))
    generator.shuffle(order)
    line_of = {}
    with open(path, "w") as file:
        for line, number in enumerate(order, 1):
            line_of[number] = line
            file.write(json.dumps({"text": dressed(documents[number], generator)}) + "\n")
    planted = [(target, s, line_of[a], line_of[b]) for target, s, a, b in planted]
    return planted, [line_of[i] for i in range(first, len(documents))]


def kept_lines(corpus):
    """Lines of the documents of a corpus, by its .src files (data/sources.h)."""
    lines = set()
    for name in sorted(os.listdir(corpus)):
        if not name.endswith(".src"):
            continue
        data = open(os.path.join(corpus, name), "rb").read()
        documents, = struct.unpack_from("<Q", data, len(data) - 24)
        for i in range(documents):
            lines.add(struct.unpack_from("<Q", data, 16 + 20 * i)[0])
    return lines


def run(ferry, *arguments):
    start = time.perf_counter()
    subprocess.run([ferry, "preprocess", *arguments], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ferry", default="build/ferry")
    parser.add_argument("--pairs", type=int, default=1000, help="of each similarity")
    parser.add_argument("--background", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    bad = False
    with tempfile.TemporaryDirectory() as folder:
        path, corpus = os.path.join(folder, "all.jsonl"), os.path.join(folder, "corpus")
        planted, background = make(path, arguments.pairs, arguments.background, random.Random(arguments.seed))
        run(arguments.ferry, path, "--output", corpus, "--dedup", "near", "--sources")
        kept = kept_lines(corpus)
        print(f"{len(planted)} pairs, {len(background)} unrelated documents, {os.path.getsize(path) / 1e6:.0f} MB")
        print("similarity   pairs   found  recall  promised  sigma")
        similar = {0.5: 0, 0.6: 0, 0.7: 0, 0.8: 0}
        dropped = 0
        for target in sorted({target for target, *_ in planted}):
            group = [pair for pair in planted if pair[0] == target]
            found = [pair for pair in group if not (pair[2] in kept and pair[3] in kept)]
            promised = [curve(s) for _, s, _, _ in group]
            sigma = math.sqrt(sum(p * (1 - p) for p in promised)) or 1e-9
            off = (len(found) - sum(promised)) / sigma
            # Near certainty one missing pair is many sigma: chance allows a few.
            bad |= abs(off) > 4.5 and abs(len(found) - sum(promised)) > 3
            for _, s, a, b in found:
                bad |= a not in kept and b not in kept
                dropped += 1
                for limit in similar:
                    similar[limit] += s >= limit
            mean = sum(s for _, s, _, _ in group) / len(group)
            print(f"{mean:10.3f} {len(group):7} {len(found):7} {len(found) / len(group):7.4f} "
                  f"{sum(promised) / len(group):9.4f} {off:6.1f}")
        wrong = sum(line not in kept for line in background)
        bad |= wrong > 0
        print(f"dropped {dropped + wrong} documents, {wrong} of them unrelated to any other")
        for limit in sorted(similar):
            print(f"  similarity with the one kept at least {limit}: {100 * similar[limit] / (dropped + wrong):.1f}%")
        megabytes = os.path.getsize(path) / 1e6
        best = {"exact": 1e9, "near": 1e9}
        for _ in range(3):
            for how in best:
                seconds = run(arguments.ferry, path, "--output", corpus, "--dedup", how, "--overwrite",
                              "--workers", "1")
                best[how] = min(best[how], seconds)
        for how, seconds in best.items():
            print(f"--dedup {how}, one worker: {seconds:.2f} s, {megabytes / seconds:.0f} MB/s")
    return bad


if __name__ == "__main__":
    sys.exit(main())
