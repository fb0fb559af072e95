#!/usr/bin/env python3
"""Golden values of data/sampler.h, from its definition, written apart from the C (needs libxxhash.so.0).

Prints the arrays that tests/unit/data/test_sampler.c holds. The order of training is part of the format: these never change.
"""
import ctypes
import struct

LIBRARY = ctypes.CDLL("libxxhash.so.0")
LIBRARY.XXH3_64bits.restype = ctypes.c_uint64
LIBRARY.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
M64 = (1 << 64) - 1


def hash_numbers(*numbers):
    data = struct.pack("<%dQ" % len(numbers), *numbers)
    return LIBRARY.XXH3_64bits(data, len(data))


def mix(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & M64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & M64
    return z ^ z >> 31


def permute(index, count, key):
    half = 0
    while 4**half < count:
        half += 1
    size = 2**half
    x = index
    while True:
        left, right = divmod(x, size)
        for r in range(6):
            left, right = right, left ^ mix((right + key + (r + 1) * 0x9E3779B97F4A7C15) & M64) % size
        x = left * size + right
        if x < count:
            return x


def window(tokens, first, part, length, seed, ordinal):
    epoch = 0
    while True:
        offset = hash_numbers(seed, epoch) * min(length, tokens - length) >> 64
        windows = (tokens - 1 - offset) // length
        if ordinal < windows:
            place = permute(ordinal, windows, hash_numbers(seed, epoch, part))
            return epoch, first + offset + place * length
        ordinal -= windows
        epoch += 1


for count, key in ((1, 0), (2, 1), (10, 42), (1000, 7), (2**40 + 1, 0x0123456789ABCDEF)):
    places = [i * (count // 10 or 1) % count for i in range(10)]
    print("{UINT64_C(%d), UINT64_C(%d), {%s}}," % (count, key, ", ".join("UINT64_C(%d)" % permute(i, count, key) for i in places)))
for tokens, first, part, length, seed in ((1025, 0, 0, 1024, 1234), (5000, 77, 0, 100, 1234), (10**9, 10**10, 1, 1024, 0)):
    for ordinal in (0, 1, 2, 10, 100, 1000):
        epoch, token = window(tokens, first, part, length, seed, ordinal)
        print("{%d, UINT64_C(%d), %d, %d, %d, %d, %d, UINT64_C(%d)}," % (tokens, first, part, length, seed, ordinal, epoch, token))
