#!/bin/sh
# pairs.sh: merges.txt of a tokenizer that has a token for every two bytes (65,793 ids with bytes and EOD: more than 16 bits
# hold), for corpora of i32. Bytes are written as GPT-2's letters: U+0021..7E, A1..AC, AE..FF, and 0100..0143.
echo '#version: 0.2'
LC_ALL=C awk 'BEGIN {
	for (c = 33; c < 324; c++)
		if (c < 127 || (c > 160 && c != 173))
			letter[n++] = c < 128 ? sprintf("%c", c) : sprintf("%c%c", 192 + int(c / 64), 128 + c % 64)
	for (i = 0; i < n; i++)
		for (j = 0; j < n; j++)
			print letter[i] " " letter[j]
}'
