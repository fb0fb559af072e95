#!/usr/bin/env python3
"""Writes unicode_tables.c: the class of every code point of Unicode 16.0.0 (letter, number, space, other).

usage: python3 tokenizer/unicode_tables.py > tokenizer/unicode_tables.c

Needs a Unicode 16.0.0 database: the package unicodedata2, version 16.0.0 (or a Python whose unicodedata is that
version). The counts are checked: they are those of the classes in tiktoken 0.14's regular expressions.
"""
import sys

try:
    import unicodedata2 as database
except ImportError:
    import unicodedata as database

if database.unidata_version != "16.0.0":
    sys.exit(f"unicode_tables.py: needs Unicode 16.0.0, this database is {database.unidata_version}; "
             "install unicodedata2==16.0.0")

# White_Space=yes of PropList.txt; it has not changed since Unicode 6.3.
SPACE = {*range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}


def class_of(code_point):
    category = database.category(chr(code_point))[0]
    return 1 if category == "L" else 2 if category == "N" else 3 if code_point in SPACE else 0


classes = [class_of(c) for c in range(0x110000)]
counts = [classes.count(k) for k in range(4)]
assert counts[1:] == [141028, 1911, 25], counts

blocks, block_of = [], []
for start in range(0, 0x110000, 256):
    packed = bytes(sum(classes[start + i + k] << 2 * k for k in range(4)) for i in range(0, 256, 4))
    if packed not in blocks:
        blocks.append(packed)
    block_of.append(blocks.index(packed))
assert len(blocks) <= 256


def rows(values, indent):
    for i in range(0, len(values), 24):
        print(indent + ",".join(str(v) for v in values[i:i + 24]) + ",")


print(f"""/*
 * Unicode {database.unidata_version}: {counts[1]} letters, {counts[2]} numbers, {counts[3]} spaces (tokenizer/unicode.h).
 * Generated: python3 tokenizer/unicode_tables.py > tokenizer/unicode_tables.c
 */
#include "tokenizer/unicode.h"

/* clang-format off */
const uint8_t unicode_block_of[0x1100] = {{""")
rows(block_of, "\t")
print("};\n\nconst uint8_t unicode_blocks[][64] = {")
for block in blocks:
    print("\t{")
    rows(block, "\t\t")
    print("\t},")
print("};\n/* clang-format on */")
