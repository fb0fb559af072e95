#!/usr/bin/env python3
"""ferry train-tokenizer beside Hugging Face tokenizers: the same merges as its BpeTrainer, from the same text, and its
Tokenizer and transformers' AutoTokenizer load the files and give the same ids.

    python3 tests/interop/train_tokenizer.py [--ferry build/ferry] [--text FOLDER]

Needs tokenizers; transformers is used if it is there. Exit status 0: no difference.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def texts_of(folder):
    """The repository's own text, a few MB of it: code, prose, and tables of Unicode."""
    texts, most = [], 2_000_000
    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "build")
        for name in sorted(names):
            try:
                with open(os.path.join(directory, name), encoding="utf-8") as file:
                    text = file.read(100_000)
            except (UnicodeDecodeError, OSError):
                continue
            most -= len(text)
            if most > 0:
                texts.append(text)
    # Words that end in a letter of another script, contractions, spaces of all kinds.
    texts += ["It's we're they'll I'd don't 'quoted' ab\u0301c \u65e5\u672c\u8a9e \u043f\u0440\u0438\u0432\u0435\u0442  \t x\n\n y\u00a0z \U0001F600\U0001F600 123\u0663"] * 3
    # Its Tokenizer reads the special token in a text as one; to ferry it is text.
    return [text.replace("<|endoftext|>", "") for text in texts if text]


def merges_of(tokenizer):
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ferry", default="build/ferry")
    parser.add_argument("--text", default=ROOT)
    arguments = parser.parse_args()
    texts = texts_of(arguments.text)
    compared = 0
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "text.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            for text in texts:
                file.write(json.dumps({"text": text}) + "\n")
        for vocabulary in (300, 8000):
            output = os.path.join(directory, str(vocabulary))
            subprocess.run([arguments.ferry, "train-tokenizer", path, "--vocab-size", str(vocabulary), "--output", output],
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            theirs = Tokenizer(models.BPE())
            theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
            theirs.train_from_iterator(texts, trainers.BpeTrainer(
                vocab_size=vocabulary - 1, min_frequency=2, show_progress=False,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
            with open(os.path.join(output, "merges.txt"), encoding="utf-8") as file:
                merges = file.read().splitlines()[1:]
            expected = merges_of(theirs)
            for number, (ours, other) in enumerate(zip(merges, expected)):
                assert ours == other, "vocabulary %d: merge %d is %r, not %r" % (vocabulary, number, ours, other)
            assert len(merges) == len(expected)
            loaded = Tokenizer.from_file(os.path.join(output, "tokenizer.json"))
            assert loaded.get_vocab_size() == len(merges) + 257
            subprocess.run([arguments.ferry, "preprocess", path, "--output", output + "_corpus",
                            "--merge-file", os.path.join(output, "merges.txt")],
                           check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            compared = compare_ids(output + "_corpus", loaded, texts)
            try:
                from transformers import AutoTokenizer
            except ImportError:
                continue
            auto = AutoTokenizer.from_pretrained(output)
            for text in texts[:: len(texts) // 20 + 1]:
                assert auto(text)["input_ids"] == loaded.encode(text).ids, "AutoTokenizer gives other ids"
            assert auto.eos_token_id == len(merges) + 256
    print("train_tokenizer: %d texts, vocabularies of 300 and 8,000: the merges of Hugging Face's BpeTrainer, and "
          "its ids of %d documents" % (len(texts), compared))
    return 0


def compare_ids(corpus, tokenizer, texts):
    """Every document of the corpus has the ids that tokenizers gives its text."""
    import numpy

    with open(os.path.join(corpus, "corpus.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    found = set()
    for shard in manifest["shards"]:
        ids = numpy.fromfile(os.path.join(corpus, shard["name"] + ".bin"), dtype=numpy.uint16)
        ends = numpy.nonzero(ids == manifest["tokenizer"]["eod"])[0]
        found |= {tuple(part[:-1].tolist()) for part in numpy.split(ids, ends + 1)[:-1]}
    expected = {tuple(tokenizer.encode(text).ids) for text in texts}
    assert found == expected, "the ids of %d documents differ" % len(found ^ expected)
    return len(found)


if __name__ == "__main__":
    sys.exit(main())
