#!/usr/bin/env python3
"""ferry convert beside the programs whose files it reads and writes: Megatron-LM's own builder and reader
(megatron-core), and llm.c's and nanoGPT's formats as their data scripts write them, in numpy.

    python3 tests/interop/token_files.py [--ferry build/ferry]

Needs numpy, and for Megatron-LM megatron-core and torch. Exit status 0: no difference.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy

EOT = 50256


def run(ferry, *arguments, fails=None):
    done = subprocess.run([ferry, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if fails is not None:
        assert done.returncode == fails, (arguments, done.returncode, done.stderr)
        return done.stderr
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


def documents_of(corpus):
    """The documents of a corpus, from its files, in order: lists of ids without EOD."""
    with open(os.path.join(corpus, "corpus.json"), encoding="utf-8") as file:
        manifest = json.load(file)
    dtype = {"u16": numpy.uint16, "i32": numpy.int32}[manifest["dtype"]]
    documents = []
    for shard in manifest["shards"]:
        ids = numpy.fromfile(os.path.join(corpus, shard["name"] + ".bin"), dtype=dtype)
        ends = numpy.nonzero(ids == manifest["tokenizer"]["eod"])[0]
        documents += [tuple(part[:-1].tolist()) for part in numpy.split(ids, ends + 1)[:-1]]
    return documents


def make_documents(seed, count):
    """Random ids, so that some spell bytes that are no UTF-8; some documents twice, no two of one text."""
    chance = random.Random(seed)
    documents = [[chance.randrange(EOT) for _ in range(chance.randrange(1, 300))] for _ in range(count)]
    return documents + chance.sample(documents, count // 10)


def write_nanogpt(path, documents):  # data/openwebtext/prepare.py: ids.append(enc.eot_token), np.memmap uint16
    ids = [i for document in documents for i in document + [EOT]]
    numpy.array(ids, dtype=numpy.uint16).tofile(path)


def write_llmc(path, ids):  # dev/data/data_common.py: write_datafile
    header = numpy.zeros(256, dtype=numpy.int32)
    header[0], header[1], header[2] = 20240520, 1, len(ids)
    with open(path, "wb") as file:
        file.write(header.tobytes())
        file.write(numpy.array(ids, dtype=numpy.uint16).tobytes())


def read_llmc(path):  # dataloader.h, train_gpt2.py: _load_data_shard
    with open(path, "rb") as file:
        header = numpy.frombuffer(file.read(256 * 4), dtype=numpy.int32)
        assert header[0] == 20240520 and header[1] == 1
        ids = numpy.frombuffer(file.read(), dtype=numpy.uint16)
    assert len(ids) == header[2]
    return ids


def split_before(ids):
    """llm.c: EOT begins a document."""
    assert ids[0] == EOT
    return [tuple(part[1:].tolist()) for part in numpy.split(ids, numpy.nonzero(ids == EOT)[0])[1:]]


def expect(corpus, documents, what):
    found = documents_of(corpus)
    unique = {tuple(document) for document in documents}
    assert len(found) == len(unique) and set(found) == unique, what
    return found


def check_megatron(ferry, directory, documents):
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

    chance = random.Random(5)
    for dtype in (numpy.uint16, numpy.int32):
        for with_eod in (True, False):
            prefix = os.path.join(directory, "megatron_%s_%d" % (numpy.dtype(dtype).name, with_eod))
            builder = IndexedDatasetBuilder(prefix + ".bin", dtype=dtype)
            for document in documents:
                # Some documents are several sequences, as --split-sentences makes them.
                cut = chance.randrange(len(document) + 1)
                for part in (document[:cut], document[cut:] + [EOT] * with_eod):
                    builder.add_item(torch.tensor(part, dtype=torch.int32))
                builder.end_document()
            builder.finalize(prefix + ".idx")
            run(ferry, "convert", prefix, "--output", prefix + "_corpus", "--workers", "2")
            found = expect(prefix + "_corpus", documents, "from Megatron-LM")
            run(ferry, "verify", prefix + "_corpus")
            back = prefix + "_back"
            run(ferry, "convert", prefix + "_corpus", "--to", "megatron", "--output", back)
            dataset = IndexedDataset(back)
            assert len(dataset) == len(found)
            assert list(dataset.document_indices) == list(range(len(found) + 1))
            for i, document in enumerate(found):
                assert dataset[i].tolist() == list(document) + [EOT], "Megatron-LM reads other ids"
    return len(found)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ferry", default="build/ferry")
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--no-megatron", action="store_true", help="megatron-core is not there")
    arguments = parser.parse_args()
    ferry = arguments.ferry
    documents = make_documents(1, arguments.documents)
    with tempfile.TemporaryDirectory() as directory:
        path = lambda name: os.path.join(directory, name)

        write_nanogpt(path("train.bin"), documents)
        assert "--from" in run(ferry, "convert", path("train.bin"), "--output", path("no"), fails=2)
        run(ferry, "convert", path("train.bin"), "--from", "nanogpt", "--output", path("nano"))
        found = expect(path("nano"), documents, "from nanoGPT")
        run(ferry, "verify", path("nano"))
        run(ferry, "convert", path("nano"), "--to", "nanogpt", "--output", path("nano_back"))
        ids = numpy.memmap(path("nano_back.bin"), dtype=numpy.uint16, mode="r")
        assert ids.tolist() == [i for document in found for i in document + (EOT,)], "to nanoGPT"

        # llm.c cuts documents where a file is full: dev/data/fineweb.py.
        ids = [i for document in documents for i in [EOT] + document]
        for number, size in enumerate((1000, 7000, 250, 2, 1, 5000)):
            write_llmc(path("part_%06d.bin" % number), ids[:size])
            ids = ids[size:]
        write_llmc(path("part_%06d.bin" % 6), ids)
        parts = [path("part_%06d.bin" % i) for i in range(7)]
        run(ferry, "convert", *parts, "--output", path("llmc"))
        expect(path("llmc"), documents, "from llm.c")
        run(ferry, "convert", path("llmc"), "--to", "llmc", "--output", path("back"), "--file-tokens", "20000")
        written, number = [], 0
        while os.path.exists(path("back_%06d.bin" % number)):
            ids = read_llmc(path("back_%06d.bin" % number))
            assert len(ids) <= 20000
            written += split_before(ids)
            number += 1
        assert number > 1 and written == found, "to llm.c"
        for name in ("00000.bin", "00000.idx", "00000.key", "00000.sum"):
            with open(path("nano/" + name), "rb") as a, open(path("llmc/" + name), "rb") as b:
                assert a.read() == b.read(), "the same documents make the same bytes"
        sequences = 0 if arguments.no_megatron else check_megatron(ferry, directory, documents)
    print("token_files: %d documents from nanoGPT, llm.c (7 files) and Megatron-LM (%s) and back: the same"
          % (len(found), "u16, i32, with and without EOD" if sequences else "left out"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
