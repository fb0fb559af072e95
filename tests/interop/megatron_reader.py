#!/usr/bin/env python3
"""Megatron-LM's own reader on a ferry corpus: every shard's documents are what `ferry inspect` says.

    python3 tests/interop/megatron_reader.py CORPUS [--ferry build/ferry] [--text N]

Needs megatron-core (megatron.core.datasets.indexed_dataset.IndexedDataset) and numpy; --text compares the decoded
text of N documents with tiktoken's, which it then needs too. Exit status 0: no difference.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy
from megatron.core.datasets.indexed_dataset import IndexedDataset


def inspect(ferry, corpus, *flags):
    return subprocess.run([ferry, "inspect", corpus, *flags], check=True, stdout=subprocess.PIPE).stdout


def gpt2_encoding():
    import tiktoken
    from tokenizer import tiktoken_cache  # tests/interop/tokenizer.py: tiktoken without a network

    with tempfile.TemporaryDirectory() as directory:
        tiktoken_cache(directory)
        os.environ["TIKTOKEN_CACHE_DIR"] = directory
        return tiktoken.get_encoding("gpt2")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus")
    parser.add_argument("--ferry", default="build/ferry")
    parser.add_argument("--ids", type=int, default=50, help="documents whose ids are compared with ferry inspect's")
    parser.add_argument("--text", type=int, default=50, help="documents whose text is compared with tiktoken's decoding")
    arguments = parser.parse_args()

    with open(os.path.join(arguments.corpus, "corpus.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    eod = manifest["tokenizer"]["eod"]
    documents = []  # (dataset, number within it)
    tokens = 0
    for shard in manifest["shards"]:
        dataset = IndexedDataset(os.path.join(arguments.corpus, shard["name"]))
        assert len(dataset) == shard["documents"], (shard["name"], len(dataset))
        assert list(dataset.document_indices) == list(range(shard["documents"] + 1))
        assert dataset.index.dtype == {"u16": numpy.uint16, "i32": numpy.int32}[manifest["dtype"]]
        assert int(dataset.sequence_lengths.sum()) == shard["tokens"]
        for i in range(len(dataset)):
            ids = dataset[i]
            assert ids[-1] == eod and not (ids[:-1] == eod).any(), (shard["name"], i)
            assert int(ids.max()) < manifest["tokenizer"]["vocabulary"]
            tokens += len(ids)
            documents.append((dataset, i))
    assert len(documents) == manifest["documents"] and tokens == manifest["tokens"]

    picks = random.Random(1).sample(range(len(documents)), min(len(documents), max(arguments.ids, arguments.text)))
    for number in picks[: arguments.ids]:
        dataset, i = documents[number]
        ids = [int(x) for x in inspect(arguments.ferry, arguments.corpus, "--document", str(number), "--ids").split()]
        assert ids == [int(x) for x in dataset[i]], "document %d: ferry's ids differ" % number
    compared = picks[: arguments.text]
    if compared:
        encoding = gpt2_encoding()
        for number in compared:
            dataset, i = documents[number]
            text = inspect(arguments.ferry, arguments.corpus, "--document", str(number))
            assert encoding.decode_bytes([int(x) for x in dataset[i][:-1]]) == text, "document %d: text differs" % number
    print("megatron_reader: %d documents, %d tokens in %d shards read by Megatron-LM; ids of %d and text of %d the same"
          % (len(documents), tokens, len(manifest["shards"]), len(picks[: arguments.ids]), len(compared)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
