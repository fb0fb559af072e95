"""make_seeds.py: writes the hand-made seeds of tests/fuzz/seeds/ (run from the repository's root, with FERRY naming the
program). Inputs that fuzzing found lie beside them and stay."""
import gzip, json, os, random, shutil, struct, subprocess, tempfile

FERRY = os.environ.get("FERRY", "build/ferry")
SEEDS = "tests/fuzz/seeds"


def seed(target, name, data):
    folder = f"{SEEDS}/fuzz_{target}"
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/{name}", "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def dictionary(target, words):
    with open(f"{SEEDS}/fuzz_{target}.dict", "w") as file:
        for word in words:
            file.write('"' + "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in word) + '"\n')


def utf8():
    seed("utf8_repair", "valid", "plain, é, €, \U0001F600, \u2028, \uFFFD")
    seed("utf8_repair", "invalid", bytes.fromhex(
        "61c080c1bfc3e0a0e08080eda080edbfbff08080f0908080f48fbfbff4908080f5ff80bfe282f09f98e29f62"))
    seed("utf8_repair", "long", b"a" * 40 + b"\xe2\x82\xac" * 9 + b"\xff" + b"b" * 30 + b"\xf0\x9f")
    dictionary("utf8_repair", [b"\xe0\xa0", b"\xed\x9f\xbf", b"\xed\xa0\x80", b"\xf0\x90\x80\x80", b"\xf4\x8f\xbf\xbf", b"\xf4\x90",
                               b"\xc2\x80", b"\xef\xbf\xbd", b"aaaaaaaaaaaaaaaa"])


def jsonl():
    lines = ['{"text":"abc"}', ' { "id" : [1, {"text":"no"}, null], "text" : "yes" , "z":{} } \r',
             '{"text":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\u20AC\\ud83d\\ude00"}', '{"te\\u0078t":"escaped name"}',
             '{"text":"a\\ud800b\\udc00"}', '{"n":-0.5E-3,"m":1e999,"text":"huge","big":123456789012345678901234567890}',
             '{"text":null}', '{"text":"a",}', '{"a":true,"b":false,"text":"first","text":"second"}', '{"text":"a"} x',
             '{"meta":{"a":[[[[{}]]]]},"text":""}']
    for i, line in enumerate(lines):
        seed("jsonl_read", f"line{i:02}", line)
    seed("jsonl_read", "bad_utf8", b'{"x":"\xff","text":"\xe2\x82\\n\xc3\\ud800\xed\xa0\x80"}')
    seed("jsonl_read", "deep", '{"a":' + "[" * 1100 + "]" * 1100 + ',"text":"deep"}')
    dictionary("jsonl_read", [b'"text":', b'"text"', b'\\ud83d\\ude00', b'\\ud800', b'\\udc00', b'\\u0000', b'true', b'false', b'null',
                              b'1e5', b'-0.0', b'{}', b'[]', b'\\"', b'\\\\', b'te\\u0078t', b'\xff', b'\xef\xbf\xbd'])


def encoder():
    vectors = [json.loads(line) for line in open("tests/golden/tokenizer_vectors.jsonl", encoding="utf-8")]
    texts = [v["text"] for v in vectors if "text" in v]
    random.Random(1).shuffle(texts)
    for i in range(8):
        seed("encoder_encode", f"vectors{i}", "".join(texts[i::8])[:1500].encode("utf-8", "replace"))
    seed("encoder_encode", "english", "I'll say it's what they've done; we're done, he'd said: 'tis  a   test.\n\n\tIt cost $1,234.50 in 1999!\r\n"
         "don'T 'S 's've''re <|endoftext|> https://example.org/a_b?c=d#e ...!!!??? \u00a0\u2003x\u3000 \u0663\u00bd\u216b")
    seed("encoder_encode", "long_words", "a" * 300 + " " + "ab" * 200 + " " + "=" * 200 + " " * 100 + "x" + "\n" * 70 + "\u4f60\u597d" * 40)
    dictionary("encoder_encode", [b"'ll", b"'ve", b"'re", b"'s", b" the", b"  ", b"\n\n", b"\xc2\xa0", b"\xe3\x80\x80", b"\xcc\x81",
                                  b"\xd9\xa3", b"<|endoftext|>", b" 1999", b"\xf0\x9f\x98\x80", b"\xe4\xbd\xa0\xe5\xa5\xbd", b"aaaaaaaaaaaaaaaa"])


def tokenizer():
    merges = "#version: 0.2\nt h\nth e\n\u0120 the\n\u0120 t\ni n\nin g\na a\naa aa\n"
    text = "the thing then  theaaaaaaa in ing'll"
    tokens = ["th", "the", "\u0120the", "\u0120t", "in", "ing", "aa", "aaaa", "<|endoftext|>"]
    seed("tokenizer_open", "merges", b"\0" + merges.encode() + b"\0\0" + text.encode())
    vocabulary = json.dumps({t: 256 + i for i, t in enumerate(tokens)}, ensure_ascii=False)
    seed("tokenizer_open", "vocabulary", b"\1" + merges.encode() + b"\0" + vocabulary.encode() + b"\0" + text.encode())
    extra = json.dumps({t: 256 + i for i, t in enumerate(reversed(tokens + ["unmade", "aaa"]))}, ensure_ascii=False)
    seed("tokenizer_open", "unmade_tokens", b"\1" + merges.encode() + b"\0" + extra.encode() + b"\0unmade" + text.encode())
    rank = "a b\nb c\nab c\na bc\nc c\ncc c\nb b\nbb b\nab bb\n"
    seed("tokenizer_open", "crossing", b"\0" + rank.encode() + b"\0\0abcabbbbcccccabcbcbca")
    seed("tokenizer_open", "broken", b"\1a b\n\n\n\0{\"a\":0,\"a\":1}\0x")
    dictionary("tokenizer_open", [b"#version", b"\xc4\xa0", b"\xc4\x8a", b"\n", b" ", b"\0", b"<|endoftext|>", b"\":256", b",\"", b"{\"", b"}",
                                  b"t h\n", b"th e\n", b"a a\n"])


def corpus():
    with tempfile.TemporaryDirectory() as folder:
        # Two documents; what the target's own corpus has is not needed to parse, and its manifest is added below.
        with open(f"{folder}/a.jsonl", "w") as file:
            file.write('{"text": "one"}\n{"text": "two"}\n')
        subprocess.run([FERRY, "preprocess", f"{folder}/a.jsonl", "--output", f"{folder}/c"], check=True, capture_output=True)
        manifest = open(f"{folder}/c/corpus.json", "rb").read()
    seed("corpus_open", "raw", b"\0" + manifest)
    seed("corpus_open", "sealed", b"\1" + manifest[:manifest.rindex(b'"check"')])
    seed("corpus_open", "object", b"\2" + manifest)
    words = ["format", "ferry-corpus", "version", "tokenizer", "name", "hash", "vocabulary", "eod", "unicode", "dtype", "u16", "i32", "documents",
             "tokens", "bytes", "input", "dropped", "duplicates", "empty", "rejected", "repaired", "shards", "bin", "idx", "key", "check"]
    dictionary("corpus_open", [f'"{w}"'.encode() for w in words] + [b"9007199254740993", b"18446744073709551615", b'"18446744073709551615"', b"-1",
                               b"1e300", b"00000", b"00001", b"0000000000000000", b"null", b"[]", b"{}"])
    for file in range(4):
        for fit in (0, 8):
            seed("corpus_verify", f"same{file}{fit}", bytes([file | fit]))
            seed("corpus_verify", f"changed{file}{fit}", bytes([file | fit]) + bytes([9, 0, 1, 17, 0, 4, 34, 0, 7, 200, 0, 1, 100, 1, 255]))
    seed("corpus_verify", "empty_bin", bytes([0 | 4 | 8]))
    seed("corpus_verify", "small_bin", bytes([0 | 4 | 8]) + struct.pack("<6H", 1, 2, 50256, 3, 4, 50256))
    seed("corpus_verify", "small_key", bytes([2 | 4 | 8]) + struct.pack("<3Q", 1, 2, 3))
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 2, 3) + struct.pack("<2i2q3q", 3, 3, 0, 6, 0, 1, 2)
    seed("corpus_verify", "small_idx", bytes([1 | 4 | 8]) + index)


def spill():
    def segment(documents, sources):  # [(key high, key low, ids)]
        place = struct.pack("<IQQ", 0, 7, 70) if sources else b""
        headers = b"".join(struct.pack("<QQII", high, low, len(ids), 4 * len(ids)) + place for high, low, ids in documents)
        return headers + b"".join(struct.pack(f"<{len(ids)}H", *ids) for _, _, ids in documents)

    def whole(runs, rejects, lines, sources=False):
        body, segments = b"", [[], []]
        documents = tokens = 0
        for run in runs:
            for bucket in range(2):
                data = segment(run[bucket], sources) if run[bucket] else b""
                count = sum(len(d[2]) for d in run[bucket])
                segments[bucket].append(struct.pack("<5Q", len(body) if data else 0, len(data), count, 0, len(run[bucket])))
                body += data
                documents += len(run[bucket])
                tokens += count + len(run[bucket])
        blocks = b""
        if rejects:
            block = b"".join(struct.pack("<IIQQ", 0, len(r), i + 1, i * 10) + r for i, r in enumerate(rejects))
            blocks = struct.pack("<3Q", len(body), len(block), 0)
            body += block
        footer = struct.pack("<16Q", documents, tokens, tokens * 4, 0, len(rejects), *[0] * 11) + struct.pack("<Q", len(runs))
        footer += b"".join(b"".join(bucket) for bucket in segments)
        footer += struct.pack("<Q", len(blocks) // 24) + blocks + struct.pack("<Q", len(lines)) + struct.pack(f"<{len(lines)}Q", *lines)
        return struct.pack("<H", len(footer)) + body + footer

    low, high = 1 << 20, 1 << 63
    first = [[(low, 1, [1, 2, 3]), (low * 5, 2, [4])], [(high + 7, 3, [5] * 30)]]
    second = [[(low, 1, [1, 2, 3])], []]
    seed("spill_read", "one_run", b"\0" + whole([first], [b"bad line"], [4]))
    seed("spill_read", "two_runs", b"\0" + whole([first, second], [b"bad", b"worse"], [4, 0, 9]))
    seed("spill_read", "empty", b"\0" + whole([], [], []))
    seed("spill_read", "sources", b"\4" + whole([first, second], [b"bad line"], [4], sources=True))
    seed("spill_read", "raw", b"\2" + whole([first], [], [1])[2:] + bytes(40) + b"FERRYSPL")


def safetensors():
    small = {"b": {"dtype": "F16", "shape": [3], "data_offsets": [16, 22]}, "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
             "__metadata__": {"format": "pt"}, "empty": {"dtype": "BF16", "shape": [0, 5], "data_offsets": [22, 22]},
             "scalar": {"dtype": "BF16", "shape": [], "data_offsets": [22, 24]}, "ids": {"dtype": "I64", "shape": [1], "data_offsets": [24, 32]}}
    text = json.dumps(small).encode()
    seed("safetensors_open", "fitted", b"\0" + struct.pack("<H", 32) + text)
    seed("safetensors_open", "raw", b"\1" + struct.pack("<Q", len(text)) + text + bytes(range(32)))
    seed("safetensors_open", "empty", b"\0\0\0{}")
    dictionary("safetensors_open", [w.encode() for w in ['"dtype":', '"shape":', '"data_offsets":', '"__metadata__":', '"F32"', '"F16"', '"BF16"', '"I64"',
                                    '"U8"', "[0,0]", "[0,", "[]", "18446744073709551615", "4294967296", "9007199254740992", "-1", "1e19", '{"a":{']])


def token_files():
    def mode(kind, header=0, limit=0, meet=0, first=0):
        return bytes([kind | header << 2 | limit << 3]) + struct.pack("<2H", meet, first)

    ids = [1, 2, 50256, 3, 50256, 50256, 4, 5, 6]
    data = struct.pack(f"<{len(ids)}H", *ids)
    index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 3, 3) + struct.pack("<3i3q3q", 3, 2, 4, 0, 6, 10, 0, 2, 3)
    wide = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, 1, 2) + struct.pack("<1i1q2q", 3, 0, 0, 1)
    seed("token_reader", "megatron", mode(0, meet=1, first=len(index)) + index + data)
    seed("token_reader", "megatron_i32", mode(0, first=len(wide)) + wide + struct.pack("<3I", 7, 8, 50256))
    seed("token_reader", "llmc", mode(1, 1, meet=4, first=8) + struct.pack("<8H", 50256, 1, 2, 3, 4, 50256, 50256, 9))
    header = struct.pack("<3i", 20240520, 1, 2) + bytes(1012)
    seed("token_reader", "llmc_raw", mode(1, 0, first=1028) + header + struct.pack("<2H", 50256, 1) + header + struct.pack("<2H", 5, 6))
    seed("token_reader", "nanogpt", mode(2, meet=6) + data)
    seed("token_reader", "nanogpt_limit", mode(2, limit=2, meet=6) + struct.pack("<12H", *range(9), 50256, 4, 50256))
    dictionary("token_reader", [b"MMIDIDX\0\0", struct.pack("<H", 50256), struct.pack("<H", 50257), struct.pack("<i", 20240520), b"\1\0\0\0\0\0\0\0",
                                b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff\xff\xff\xff\xff"])


def inputs():
    def mode(text=0, packed=0, pack=0, far=0, limit=0, meet=0, separator=b""):
        return bytes([text | packed << 1 | pack << 3 | far << 4 | limit << 5]) + struct.pack("<HB", meet, len(separator)) + separator

    lines = b'{"text":"a"}\n\n{"text":"bb"}\r\n{"text":"last, without a newline"}'
    seed("input_reader", "lines", mode(meet=14) + lines)
    seed("input_reader", "far_lines", mode(far=1, meet=5000) + lines + b"\n")
    seed("input_reader", "limit", mode(limit=2, meet=3) + lines)
    seed("input_reader", "text", mode(text=1, separator=b"--") + b"one--two---three----\n--")
    seed("input_reader", "text_far", mode(text=1, far=1, limit=3, separator=b"\n\n") + b"one\n\n\ntwo " * 20)
    for kind in (1, 2):
        seed("input_reader", f"packed{kind}", mode(packed=kind, pack=1) + lines)
        seed("input_reader", f"packed_far{kind}", mode(packed=kind, pack=1, far=1) + lines + b"\n")
    seed("input_reader", "gzip", mode(packed=1) + gzip.compress(lines, mtime=0) + gzip.compress(b"more\n", mtime=0) + bytes(5))
    frames = b"".join(subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout for data in (lines, b"more\n"))
    seed("input_reader", "zstd", mode(packed=2) + frames)
    seed("input_reader", "gzip_cut", mode(packed=1) + gzip.compress(lines, mtime=0)[:-9])
    seed("input_reader", "zstd_window", mode(packed=2) + bytes.fromhex("28b52ffd00f8010000"))
    dictionary("input_reader", [b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18", b"\n", b"\n\n", b"--", b"\0"])


def options():
    for i, words in enumerate([["--layers", "12", "--seed=18446744073709551615", "--rate", "1e-3", "a", "-", "--", "--b"], ["--memory", "1.5G", "--style=linear"],
                               ["--data", "0.5", "A", "0.5", "B", "--flag", "--save="], ["--layer", "x"], ["949,50,1", "0.9/0.1", "1.000000001,2", "512M", "1e3K"]]):
        seed("options_parse", f"words{i}", "\0".join(words))
    dictionary("options_parse", [b"\0", b"--layers", b"--seed", b"--rate", b"--memory", b"--style", b"--save", b"--flag", b"--data", b"=", b"cosine",
                                 b"1.5G", b"512K", b"949,50,1", b"0.9/0.1", b"1e400", b"inf", b"nan", b"0x10", b"18446744073709551616", b".000000001"])


def checkpoint():
    # The seeds themselves are the files of the target's own checkpoint (as are corpus_open's small_*).
    keys = "n_layer n_embd n_head n_positions vocab_size embd_pdrop layer_norm_epsilon n_inner eos_token_id model_type gpt2 activation_function " \
           "gelu_new step updates skipped tokens data split seed window_tokens ordinal sources corpus share epoch epoch_window epoch_tokens " \
           "loss_scale dynamic scale minimum window hysteresis schedule style cosine learning_rate warmup decay_iters validation evaluations " \
           "train_loss made_with precision kernels threads ranks choices arguments files hash dtype shape data_offsets F32"
    dictionary("checkpoint_open", [f'"{key}"'.encode() for key in keys.split()] + [b"transformer.h.0.attn.c_attn.weight", b"18446744073709551615", b"-1", b"1e308",
                                                                                   b"9007199254740993", b"null", b"true", b"[]", b"{}"])


def records():
    def whole(width, lists):  # [(list, [numbers of its records])]
        body = index = b""
        for number, values in lists:
            body += struct.pack(f"<{len(values)}Q", *values)
            index += struct.pack("<5Q", number, values[0], values[-width], len(values) // width, 0)
        return struct.pack("<H", len(index)) + body + index

    seed("record_file", "one", b"\0" + whole(1, [(0, [1, 200, 3000]), (1, [5]), (0, [2, 1 << 61])]))
    seed("record_file", "pairs", b"\2" + whole(2, [(0, [1, 1, 200, 7]), (1, [150, 0, 160, 2])]))
    seed("record_file", "triples", b"\4" + whole(3, [(1, [1, 2, 3])]))
    seed("record_file", "empty", b"\0" + whole(1, []))
    seed("record_file", "raw", b"\1" + bytes(48) + b"FERRYREC")


def sources():
    def whole(records, paths):
        begins, text = b"", b""
        for path in paths:
            begins += struct.pack("<Q", len(text))
            text += path + b"\0"
        body = b"".join(struct.pack("<QQI", *record) for record in records)
        return b"FERRYSRC" + struct.pack("<Q", 1) + body + begins + text + struct.pack("<3Q", len(records), len(paths), len(text))

    forty = [(d, d * 100, d % 3) for d in range(40)]
    file = whole(forty, [b"a/one.jsonl", b"-", b"another \xff.txt"])
    seed("sources_get", "same", b"\0" + file)
    seed("sources_get", "fitting", b"\1" + file)
    seed("sources_get", "more_paths", b"\1" + whole(forty, [b"x", b"", b"y", b"unused"]))
    seed("sources_get", "fewer_paths", b"\1" + whole(forty, [b"x"]))
    seed("sources_get", "fewer", b"\1" + whole(forty[:3], [b"x", b"y", b"z"]))


if __name__ == "__main__":
    for make in [utf8, jsonl, encoder, tokenizer, corpus, spill, safetensors, token_files, inputs, options, checkpoint, records, sources]:
        make()
