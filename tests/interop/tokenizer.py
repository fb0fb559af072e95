#!/usr/bin/env python3
"""ferry encode against tiktoken 0.14 (gpt2, encode_ordinary): the number of documents whose ids differ must be 0.

usage: tests/interop/tokenizer.py [--quick] [PART...]          prints TAP; needs the Python package tiktoken
    FERRY   the program (build/ferry)
    TEXTS   a folder to keep the Debian packages in (a temporary one)

Parts: unicode (every scalar value in 16 contexts), random (10 MB made to be hard), bytes (invalid UTF-8),
english (20 MB) and languages (5 MB of eight), the last two from the text of Debian's documentation packages.
tiktoken needs no network: its cache is written from tokenizer/vocab.bpe.
"""
import array, base64, gzip, hashlib, html, json, os, random, re, subprocess, sys, tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FERRY = os.environ.get("FERRY", os.path.join(ROOT, "build", "ferry"))
SEPARATOR = b"\n--7c6f21d09b35 next document--\n"
EOD = 50256
BATCH = 8 << 20  # bytes of text in one comparison


def tiktoken_cache(directory):
    """tiktoken looks for its two files under the SHA-1 of their addresses, and checks their SHA-256 itself."""
    merges = open(os.path.join(ROOT, "tokenizer", "vocab.bpe"), "rb").read()
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order = printable + [b for b in range(256) if b not in printable]
    letters = {b: chr(b) if b in printable else chr(256 + order.index(b) - len(printable)) for b in order}
    words = [letters[b] for b in order]
    words += ["".join(line.split()) for line in merges.decode().split("\n")[1:50001]]
    encoder = json.dumps({**{w: i for i, w in enumerate(words)}, "<|endoftext|>": EOD}).encode()
    for name, content in (("6d1cbeee0f20b3d9449abfede4726ed8212e3aee", merges),
                          ("6c7ea1a7e38e3a7f062df639a5b80947f075ffe6", encoder)):
        with open(os.path.join(directory, name), "wb") as out:
            out.write(content)


def ferry_ids(documents):
    """The ids of each document (bytes), through one process."""
    run = subprocess.run([FERRY, "encode", "--format", "i32", "--document-separator", SEPARATOR.decode()],
                         input=b"".join(d + SEPARATOR for d in documents), stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL, check=True)
    ids = array.array("i", run.stdout)
    start, result = 0, []
    for end, token in enumerate(ids):
        if token == EOD:
            result.append(ids[start:end].tolist())
            start = end + 1
    return result


class Comparison:
    def __init__(self, encoding):
        self.encoding = encoding
        self.documents = self.bytes = self.tokens = self.different = 0
        self.pending, self.pending_bytes = [], 0

    def add(self, document):
        """`document`: bytes, of which tiktoken gets what Python's decode makes."""
        self.pending.append(document)
        self.pending_bytes += len(document)
        if self.pending_bytes >= BATCH:
            self.flush()

    def flush(self):
        theirs = self.encoding.encode_ordinary_batch([d.decode("utf-8", "replace") for d in self.pending])
        ours = ferry_ids(self.pending)
        if len(ours) != len(theirs):
            raise SystemExit(f"ferry made {len(ours)} documents of {len(theirs)}")
        for document, a, b in zip(self.pending, ours, theirs):
            self.tokens += len(b)
            if a != b:
                self.different += 1
                if self.different <= 3:
                    print(f"# {document[:200]!r}\n#   ferry    {a[:40]}\n#   tiktoken {b[:40]}")
        self.documents += len(self.pending)
        self.bytes += self.pending_bytes
        self.pending, self.pending_bytes = [], 0


# ---- texts -----------------------------------------------------------------------------------------------------------


def unicode_documents(quick):
    for code_point in range(0, 0x110000, 61 if quick else 1):
        if 0xD800 <= code_point < 0xE000:
            continue
        c = chr(code_point)
        yield (f"{c}a{c}1{c}!{c} {c}  {c}x {c}\n{c} \n{c}y'{c}'s{c}'ll\u00e9{c}\u4e00{c}\u00a0{c}\u00b2{c}{c}9 {c} "
               f"{c}z\t{c}").encode()


def random_documents(quick):
    generate = random.Random(20)
    spaces = " \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u205f\u3000"
    nearly = "\x00\x1c\x1d\x1e\x1f\u180e\u200b\u2060\ufeff\x7f"  # not space
    kinds = [spaces, " ", " \n", nearly, "'", "'sdmtlrve", "\u2019sTLD", "abcdefghij", "ABCXYZ", "0123456789", ".,;:!?-_#",
             "\u00e9\u00df\u0142\u043f\u0440\u03b1\u05d0\u0639", "\u4e2d\u6587\u3042\ud55c", "\u0661\u00bd\u2167\u00b2", "\u0301\u093e\u200d",
             "\U0001f600\U0001f44d\U0001f3fd", "\U00010400\U0001e900\U00010d4e\U0001ccf0", "\ufffd\uffff\U0010ffff"]
    words = ["'s", "'re", "'ve", "'ll", "'S", " the", " don't", "<|endoftext|>", "----------------", "ha", "aaaaaaaa", "=" * 80]
    total = 0
    while total < (500_000 if quick else 10_000_000):
        length, parts = int(generate.expovariate(1 / 3000)), []
        while length > 0:
            choice = generate.random()
            if choice < 0.08:
                part = generate.choice(words)
            elif choice < 0.12:
                part = chr(generate.choice([generate.randrange(0xD800), generate.randrange(0xE000, 0x110000)]))
            elif choice < 0.14:
                part = generate.choice(generate.choice(kinds)) * generate.choice([5, 17, 64, 300, 4090 + generate.randrange(20)])
            else:
                part = "".join(generate.choices(generate.choice(kinds), k=1 + int(generate.expovariate(0.4))))
            parts.append(part)
            length -= len(part)
        document = "".join(parts).encode()
        total += len(document)
        yield document


def bytes_documents(quick):
    generate = random.Random(21)
    pieces = [bytes([b]) for b in (*range(0x7E, 0x100), 0x20, 0x41)] + [
        b"\xe0\x80", b"\xe0\xa0", b"\xed\xa0\x80", b"\xf0\x80", b"\xf0\x90\x80", b"\xf4\x90\x80\x80", b"\xc3\xa9", b"\xe4\xb8\xad",
        b"\xf0\x9f\x98\x80", b"plain text ", b"\xe2\x80", b"\xc0\xaf"]
    for _ in range(200 if quick else 4000):
        yield b"".join(generate.choices(pieces, k=generate.randrange(400)))


def folder_texts(folder):
    """The text of every file below: plain, POD, man pages (.gz), HTML without its marks."""
    for directory, below, files in os.walk(folder):
        below.sort()
        for name in sorted(files):
            path = os.path.join(directory, name)
            if os.path.islink(path) or not re.search(r"\.(txt|pod|html|[1-9])(\.gz)?$", name) or "changelog" in name:
                continue
            data = (gzip.open if name.endswith(".gz") else open)(path, "rb").read()
            if ".html" in name:
                text = re.sub(r"(?s)<(script|style).*?</\1>|<[^>]*>", " ", data.decode("utf-8", "replace"))
                data = html.unescape(text).encode("utf-8", "replace")
            yield data


def package_documents(folder, packages, below, limit):
    """About `limit` bytes of a Debian package's text, cut at the first newline after every 8192 bytes."""
    total = 0
    for package in packages:
        unpacked = os.path.join(folder, package)
        if not os.path.isdir(unpacked):
            subprocess.run(["apt-get", "-q", "download", package], cwd=folder, check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            deb = [f for f in os.listdir(folder) if f.startswith(package + "_") and f.endswith(".deb")][0]
            subprocess.run(["dpkg-deb", "-x", os.path.join(folder, deb), unpacked], check=True)
        for text in folder_texts(os.path.join(unpacked, below)):
            start = 0
            while start < len(text) and total < limit:
                newline = text.find(b"\n", start + 8192)
                end = newline + 1 if newline >= 0 else len(text)
                yield text[start:end]
                total += end - start
                start = end


LANGUAGES = {"ru": "manpages-ru", "zh": "manpages-zh", "ja": "manpages-ja", "fr": "manpages-fr", "pl": "manpages-pl",
             "el": "", "ko": "", "vi": ""}  # "": of the installation guide
GUIDE = "installation-guide-amd64"


def english_documents(folder, quick):
    limit = 500_000 if quick else 20_000_000
    yield from package_documents(folder, ["perl-doc", "python3.11-doc"], "", limit)


def language_documents(folder, quick):
    for language, package in LANGUAGES.items():
        below = "" if package else f"usr/share/doc/{GUIDE}/{language}"
        yield from package_documents(folder, [package or GUIDE], below, 50_000 if quick else 640_000)


def main():
    arguments = [a for a in sys.argv[1:] if a != "--quick"]
    quick = "--quick" in sys.argv
    with tempfile.TemporaryDirectory() as directory:
        tiktoken_cache(directory)
        os.environ["TIKTOKEN_CACHE_DIR"] = directory
        try:
            import tiktoken
        except ImportError:
            print("ok - ids equal tiktoken's # SKIP the Python package tiktoken is not installed")
            return 0
        encoding = tiktoken.get_encoding("gpt2")
        texts = os.environ.get("TEXTS", directory)
        parts = {"unicode": lambda: unicode_documents(quick), "random": lambda: random_documents(quick),
                 "bytes": lambda: bytes_documents(quick), "english": lambda: english_documents(texts, quick),
                 "languages": lambda: language_documents(texts, quick)}
        failed = False
        for part in arguments or parts:
            comparison = Comparison(encoding)
            try:
                for document in parts[part]():
                    comparison.add(document)
            except subprocess.CalledProcessError as error:
                if error.cmd[0] != "apt-get":
                    raise
                print(f"ok - {part}: ids equal tiktoken's # SKIP no Debian packages to be had here")
                continue
            comparison.flush()
            failed |= comparison.different > 0
            print(f"{'not ' if comparison.different else ''}ok - {part}: {comparison.different} of {comparison.documents} documents "
                  f"differ from tiktoken {tiktoken.__version__} ({comparison.bytes} bytes, {comparison.tokens} tokens)", flush=True)
        return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
