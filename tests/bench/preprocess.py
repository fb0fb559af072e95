#!/usr/bin/env python3
"""ferry preprocess: how fast, in what memory, and beside Megatron-LM's way on the same files, in turns.

usage: tests/bench/preprocess.py [PART...]     parts: speed memory linear peers (all)
    FERRY      the program (build/ferry)
    PYTHON     the Python that has the peers (this one)
    MEGABYTES  of JSONL (320)
    ROUNDS     turns (3); the median of each counts
    TEXTS      a folder for the Debian packages that the texts are made of (a temporary one)
    WORK       a folder for inputs and corpora (a temporary one)

The texts are Perl's, Python's and Linux's manuals, cut into documents of some 4 KB; what is more than they have is
the same texts cut elsewhere. Inputs are read once before, so that they are in the page cache; MB is a million
bytes of JSONL, also where the input is compressed. "wall" is from the start of the process to its end, fsync
included; "a core" is MB for each second of processor time, user and system, which a busy machine changes less.

Megatron-LM's way is its tools/preprocess_data.py (a pool of processes that each parse and encode lines, one writer)
with Hugging Face's tokenizers, and its tools/preprocess_data_fast.py (gigatoken reads and encodes the whole file in
memory), both into megatron-core's IndexedDatasetBuilder. Their imports are not counted, nor do they fsync.
"""
import gzip, json, os, resource, shutil, statistics, subprocess, sys, tempfile, time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "interop"))
import tokenizer as interop

FERRY = os.path.abspath(os.environ.get("FERRY", os.path.join(ROOT, "build", "ferry")))
PYTHON = os.environ.get("PYTHON", sys.executable)
MEGABYTES = int(os.environ.get("MEGABYTES", "320"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
PACKAGES = [("perl-doc",), ("python3.11-doc", "python3.13-doc"), ("linux-doc-6.1", "linux-doc-6.12")]  # what the release has
SLICE = 8  # MB for Hugging Face's tokenizer


# ---- inputs ------------------------------------------------------------------------------------------------------


class NoTexts(Exception):
    pass


def unpack(folder, names):
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            return path
        if shutil.which("apt-get") and subprocess.run(["apt-get", "-q", "download", name], cwd=folder,
                                                      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0:
            deb = [f for f in os.listdir(folder) if f.startswith(name + "_") and f.endswith(".deb")][0]
            subprocess.run(["dpkg-deb", "-x", os.path.join(folder, deb), path], check=True)
            return path
    raise NoTexts(f"none of {', '.join(names)} is to be had as a Debian package here")


def lines(folder):
    folders = [unpack(folder, names) for names in PACKAGES]
    size = 4096
    while True:
        for below in folders:
            for text in interop.folder_texts(below):
                start = 0
                while start < len(text):
                    newline = text.find(b"\n", start + size)
                    end = newline + 1 if newline >= 0 else len(text)
                    document = text[start:end].decode("utf-8", "replace")
                    yield (json.dumps({"text": document}, ensure_ascii=False) + "\n").encode()
                    start = end
        size += 700


def write_inputs(folder, texts, sizes):
    """{MB: path of so many MB of JSONL}; the smaller ones are the beginnings of the largest."""
    paths = {size: os.path.join(folder, f"{size}.jsonl") for size in sizes}
    if all(os.path.exists(p) for p in paths.values()):
        return paths
    outputs = {size: open(path, "wb") for size, path in paths.items()}
    total = 0
    for line in lines(texts):
        total += len(line)
        for size in list(outputs):
            outputs[size].write(line)
            if total >= size * 1e6:
                outputs.pop(size).close()
        if not outputs:
            return paths


def read_once(path):
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass


# ---- runs --------------------------------------------------------------------------------------------------------


def processor_seconds():
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


class Run:
    """One run of ferry: wall and processor seconds, and the peak of its memory in MB."""

    def __init__(self, path, work, workers, *options):
        output = os.path.join(work, "corpus")
        shutil.rmtree(output, ignore_errors=True)
        before, started = processor_seconds(), time.time()
        child = subprocess.Popen([FERRY, "preprocess", path, "--output", output, "--workers", str(workers), *options],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.peak = 0
        # Not the kernel's count at the end (ru_maxrss): that has this interpreter's memory in it.
        while child.poll() is None:
            try:
                status = open(f"/proc/{child.pid}/status").read()
                self.peak = max(self.peak, int(status.split("VmHWM:")[1].split()[0]) / 1000)
            except (OSError, IndexError):
                pass
            time.sleep(0.005)
        self.wall = time.time() - started
        self.cpu = processor_seconds() - before
        if child.returncode != 0:
            raise SystemExit(child.stderr.read().decode())


def median(runs, field):
    return statistics.median(getattr(run, field) for run in runs)


def speed(paths, work):
    path = paths[MEGABYTES]
    size = os.path.getsize(path) / 1e6
    inputs = {"plain": path, "zst": path + ".zst", "gz": path + ".gz"}
    if not os.path.exists(inputs["zst"]):
        subprocess.run(["zstd", "-q", "-k", path], check=True)
    if not os.path.exists(inputs["gz"]):
        with open(path, "rb") as file, gzip.open(inputs["gz"], "wb", 6) as out:
            while data := file.read(1 << 20):
                out.write(data)
    runs = {(kind, workers): [] for kind in inputs for workers in (1, 2)}
    for kind in inputs.values():
        read_once(kind)
    for _ in range(ROUNDS):
        for kind, workers in runs:
            runs[kind, workers].append(Run(inputs[kind], work, workers))
    print(f"{size:.0f} MB of JSONL; medians of {ROUNDS} turns, MB/s")
    print(f"{'input':8} {'1 worker':>9} {'2 workers':>10} {'x':>5} {'a core':>8} {'of plain, 1':>12} {'2':>5} {'peak MB':>8}")
    plain = {w: median(runs["plain", w], "wall") for w in (1, 2)}
    for kind in inputs:
        wall = {w: median(runs[kind, w], "wall") for w in (1, 2)}
        print(f"{kind:8} {size / wall[1]:9.0f} {size / wall[2]:10.0f} {wall[1] / wall[2]:5.2f} "
              f"{size / median(runs[kind, 1], 'cpu'):8.0f} {plain[1] / wall[1]:12.0%} {plain[2] / wall[2]:5.0%} {max(r.peak for r in runs[kind, 2]):8.0f}")
    print()
    profile = subprocess.run([FERRY, "preprocess", path, "--output", os.path.join(work, "corpus"), "--overwrite", "--workers", "2",
                              "--profile"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    print(profile.stderr.decode())


def memory(paths, work):
    path = paths[MEGABYTES]
    size = os.path.getsize(path)
    print(f"{'--memory':>9} {'input':>7} {'workers':>8} {'peak MB':>8} {'above --memory':>15}")
    for workers in (1, 2):
        limit = size // 20 // (1 << 20)
        run = Run(path, work, workers, "--memory", f"{limit}M")
        print(f"{limit:8}M {size / limit / (1 << 20):6.1f}x {workers:8} {run.peak:8.0f} {run.peak - limit * 1.048576:12.0f} MB",
              flush=True)
    print()


def linear(paths, work):
    print(f"{'MB':>5} {'seconds':>8} {'MB/s':>6} {'a core':>7}    2 workers, medians of {ROUNDS}")
    runs = {size: [] for size in sorted(paths)}
    for _ in range(ROUNDS):
        for size in runs:
            read_once(paths[size])
            runs[size].append(Run(paths[size], work, 2))
    for size, own in runs.items():
        wall = median(own, "wall")
        print(f"{size:5} {wall:8.2f} {size / wall:6.0f} {size / median(own, 'cpu'):7.0f}", flush=True)
    print()


# ---- peers -------------------------------------------------------------------------------------------------------


def builder(prefix):
    import numpy
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
    return IndexedDatasetBuilder(prefix + ".bin", dtype=numpy.uint16)


def gigatoken_way(path, prefix, vocabulary, workers):
    """preprocess_data_fast.py's; the documents are appended at once, which is faster than one by one."""
    import awkward, gigatoken, numpy
    out = builder(prefix)
    opened = gigatoken.Tokenizer.from_tiktoken(os.path.join(vocabulary, "r50k_base.tiktoken"), "gpt2",
                                               {"<|endoftext|>": interop.EOD})
    started = time.time()
    documents = opened.encode_files(gigatoken.JsonlFileSource([path]))
    lengths = awkward.to_numpy(awkward.num(documents))
    ids = awkward.to_numpy(awkward.flatten(documents))
    ends = numpy.cumsum(lengths)
    out.add_document(numpy.insert(ids, ends, interop.EOD), (lengths + 1).tolist())
    out.document_indices = list(range(len(lengths) + 1))
    out.finalize(prefix + ".idx")
    return time.time() - started


class Encoder:
    """preprocess_data.py's, one a process."""
    tokenizer = None

    @classmethod
    def open(cls, vocabulary):
        import tokenizers
        names = ["6c7ea1a7e38e3a7f062df639a5b80947f075ffe6", "6d1cbeee0f20b3d9449abfede4726ed8212e3aee"]
        cls.tokenizer = tokenizers.ByteLevelBPETokenizer(*(os.path.join(vocabulary, n) for n in names))

    @classmethod
    def encode(cls, line):
        text = json.loads(line)["text"]
        return cls.tokenizer.encode(text).ids + [interop.EOD], len(text)


def huggingface_way(path, prefix, vocabulary, workers):
    import multiprocessing
    out = builder(prefix)
    with multiprocessing.Pool(workers, initializer=Encoder.open, initargs=(vocabulary,)) as pool:
        pool.map(len, [[]] * workers * 4)  # their tokenizers are open
        started = time.time()
        with open(path, encoding="utf-8") as file:
            for ids, _ in pool.imap(Encoder.encode, file, 32):
                out.add_document(ids, [len(ids)])
        out.finalize(prefix + ".idx")
        return time.time() - started


PEERS = {"gigatoken": gigatoken_way, "huggingface": huggingface_way}


def write_ranks(directory):
    import base64, tiktoken
    os.environ["TIKTOKEN_CACHE_DIR"] = directory
    encoding = tiktoken.get_encoding("gpt2")
    with open(os.path.join(directory, "r50k_base.tiktoken"), "w") as out:
        for rank in range(interop.EOD):
            out.write(f"{base64.b64encode(encoding.decode_single_token_bytes(rank)).decode()} {rank}\n")


def peer_seconds(name, path, work, workers):
    command = [PYTHON, os.path.abspath(__file__), "--peer", name, path, os.path.join(work, "peer"), work, str(workers)]
    limits = {"RAYON_NUM_THREADS": str(workers), "TOKENIZERS_PARALLELISM": "false"}
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **limits})
    if run.returncode != 0:
        raise SystemExit(run.stderr.decode()[-2000:])
    return [float(word) for word in run.stdout.split()[-2:]]


def peers(paths, work):
    interop.tiktoken_cache(work)
    if subprocess.run([PYTHON, "-c", "import gigatoken, tiktoken, tokenizers, megatron.core"], stdout=subprocess.DEVNULL,
                      stderr=subprocess.DEVNULL).returncode != 0:
        print("peers: PYTHON=... names a Python that has gigatoken, tiktoken, tokenizers and megatron-core; not compared")
        return
    subprocess.run([PYTHON, os.path.abspath(__file__), "--ranks", work], check=True)
    print(f"{'':34} {'MB':>5} {'1 worker':>9} {'2 workers':>10}    MB/s, medians of {ROUNDS}; peak MB of memory with 2")
    rates = {}
    for name in ("ferry", "gigatoken", "huggingface"):
        size = SLICE if name == "huggingface" else MEGABYTES
        read_once(paths[size])
        rates[name] = {1: [], 2: []}
    peak = {}
    for _ in range(ROUNDS):
        for name, own in rates.items():
            size = SLICE if name == "huggingface" else MEGABYTES
            for workers in (1, 2):
                if name == "ferry":
                    run = Run(paths[size], work, workers)
                    seconds, peak[name] = run.wall, run.peak
                else:
                    seconds, peak[name] = peer_seconds(name, paths[size], work, workers)
                own[workers].append(size / seconds)
    titles = {"ferry": "ferry preprocess", "gigatoken": "megatron-core with gigatoken",
              "huggingface": "megatron-core with Hugging Face"}
    for name, own in rates.items():
        print(f"{titles[name]:34} {SLICE if name == 'huggingface' else MEGABYTES:5} {statistics.median(own[1]):9.1f} "
              f"{statistics.median(own[2]):10.1f}    {peak[name]:.0f}")


def main():
    if sys.argv[1:2] == ["--ranks"]:
        return write_ranks(sys.argv[2])
    if sys.argv[1:2] == ["--peer"]:
        name, path, prefix, vocabulary, workers = sys.argv[2:]
        seconds = PEERS[name](path, prefix, vocabulary, int(workers))
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
        return 0
    parts = {"speed": speed, "memory": memory, "linear": linear, "peers": peers}
    wanted = sys.argv[1:] or list(parts)
    sizes = {MEGABYTES // n for n in (1, 2, 4, 8)} | {SLICE}
    with tempfile.TemporaryDirectory() as own:
        texts, work = os.environ.get("TEXTS", own), os.environ.get("WORK", own)
        try:
            paths = write_inputs(work, texts, sizes)
        except NoTexts as error:
            print(f"preprocess: {error}")
            return 0
        for part in wanted:
            parts[part]({s: p for s, p in paths.items() if part == "peers" or s != SLICE}, work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
