#!/usr/bin/env python3
"""Writes tokenizer_vectors.jsonl: texts and their ids by tiktoken 0.14 (gpt2, encode_ordinary), and bytes and what
Python's bytes.decode("utf-8", "replace") makes of them.

usage: TIKTOKEN_CACHE_DIR=DIR python3 tests/golden/make_tokenizer_vectors.py > tests/golden/tokenizer_vectors.jsonl

Lines: {"text": STRING, "ids": [...]}, {"bytes": HEX, "text": STRING, "replaced": N}, and one
{"exhaustive": CRC-32, "bytes": [...]}: the repair of every sequence of 1 to 4 of these bytes, in order of length and
then of the list, each followed by "|", all together.
"""
import itertools, json, random, zlib

import tiktoken

gpt2 = tiktoken.get_encoding("gpt2")
generate = random.Random(7)

TEXTS = r"""
Hello world|Hello, world!|I'm you're we've they'll he'd it's don't|I'M YOU'RE IT'S|'s|''s|'s's't| 's|!'s|x's|\n's|'sd|'llama|'lx|'r|'re|'rex
 | a|a |  a|   a| \na|\n a|\n\na|a\n\n\nb|a  \n  b|\t\tx|a\t b|\r\n\r\nx| \u00a0x|\u00a0\u00a0x|\u3000\u3000x|x\u3000|\u0085x|\u2028 x
123|1 2  3|a1b2|12345678901234567890|\u0661\u0662\u0663|\u00bd\u00b2\u2167|3.14159|1,000,000|0x1F
\u00e9t\u00e9 na\u00efve|\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!|\u4e2d\u6587\u5b57\u7b26\u3002|\u3053\u3093\u306b\u3061\u306f|\ud55c\uad6d\uc5b4 \ubb38\uc7a5|\u0627\u0644\u0639\u0631\u0628\u064a\u0629|\u05e2\u05d1\u05e8\u05d9\u05ea|\u0928\u092e\u0938\u094d\u0924\u0947
\U0001f600\U0001f44d\U0001f3fd|a\u0301e\u0301|\ufeffx|\u200b\u200d|\u180e|\u001c\u001dx|\U00010d4e\U0001ccf0\U000105c0|\ufffd\ufffd|\U0010ffff
<|endoftext|>|a<|endoftext|>b|<|endoftext|><|endoftext|>| SolidGoldMagikarp|----------------------------------------------------------------
for (int i = 0; i < n; i++) {\n\tif (x[i] != y)\n\t\treturn -1;\n}\n|https://example.com/a?b=c&d=%20e#f|==== Title ====|...|!!!???|@#$%^&*()
""".strip("\n").split("\n")


def text_case(text):
    print(json.dumps({"text": text, "ids": gpt2.encode_ordinary(text)}))


for line in TEXTS:
    for text in line.split("|") if "endoftext" not in line else [line, "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|>"]:
        text_case(text.encode().decode("unicode_escape"))

ALPHABET = " \n\t'sdtmlrve aZ09.,-\u00e9\u00a0\u3000\u4e2d\u0301\u0416\U0001f600\ufeff\u0085"
for _ in range(150):
    text_case("".join(generate.choices(ALPHABET, k=generate.randrange(1, 40))))
for _ in range(20):
    text_case("".join(gpt2.decode([generate.randrange(50256)]) for _ in range(10)))
for letter in "a =\u4e2d":
    text_case(letter * 300)


def repair(data):
    return data.decode("utf-8", "replace")


def bytes_case(data):
    text = repair(data)
    # U+FFFD that stood in the bytes is not a replacement.
    print(json.dumps({"bytes": data.hex(), "text": text, "replaced": text.count("\ufffd") - data.count(b"\xef\xbf\xbd")}))


for data in (b"", b"\x80", b"\xc3", b"\xc3\xa9", b"\xc0\x80", b"\xe0\x80\x80", b"\xed\xa0\x80", b"\xed\x9f\xbf", b"\xf0\x80\x80\x80",
             b"\xf0\x90\x80", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80", b"\xff\xfe", b"a\xe2\x82b", b"\xe2\x82\xac\xe2\x82",
             b"\xef\xbf\xbd\xff", b"0123456789abcdef\xc3", b"0123456789abcdefghij\x80klmnopqrstuvwxyz012345", b"\xf0\x9f\x98\x80\xf0\x9f\x98"):
    bytes_case(data)
for _ in range(60):
    bytes_case(bytes(generate.choice((generate.randrange(1, 256), 0x41, 0xE2, 0x82, 0xF0, 0x9F)) for _ in range(generate.randrange(1, 50))))

# The edges of every byte class of UTF-8's table of well-formed sequences.
EDGES = [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3,
         0xF4, 0xF5, 0xFF]
crc = 0
for length in range(1, 5):
    for sequence in itertools.product(EDGES, repeat=length):
        crc = zlib.crc32(repair(bytes(sequence)).encode() + b"|", crc)
print(json.dumps({"exhaustive": crc, "bytes": EDGES}))
