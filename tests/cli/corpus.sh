#!/bin/bash
# ferry inspect and ferry verify on a small corpus: what they say, and that damage is named.
. "$(dirname "$0")/tap.bash"
flip() { # FILE OFFSET: inverts a byte, in place
	local byte
	byte=$(od -An -tu1 -j"$2" -N1 "$1")
	printf "\\x$(printf %02x $((255 - byte)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# 60 different documents, one of them twice, one empty.
mkdir "$dir/text"
for ((i = 0; i < 60; i++)); do
	printf 'Document number %d.\nIts lines are %d: %s\n' $i $((i * i)) "$(printf 'word%.0s ' $(seq 1 $((i % 90 + 1))))" >"$dir/text/$i.txt"
done
cp "$dir/text/7.txt" "$dir/text/copy.txt"
: >"$dir/text/empty.txt"
corpus=$dir/corpus
run preprocess "$dir/text" --output "$corpus" --workers 2
test_that "preprocess makes a corpus" [ $code -eq 0 ]

run inspect "$corpus"
test_that "inspect: exit 0, nothing on standard error" [ $code -eq 0 -a ! -s "$dir/err" ]
test_that "inspect counts documents" grep -qE '^documents +60$' "$dir/out"
test_that "inspect counts what was dropped" out_has "1 duplicates, 1 empty, 0 rejected, of 62 documents"
bytes=$(cat "$dir"/text/[0-9]*.txt | wc -c)
test_that "inspect counts bytes" grep -qE "^text +${bytes:0:-3},${bytes: -3} bytes" "$dir/out"
test_that "inspect shows the splits" out_has "split 949,50,1"

run inspect "$corpus" --json --split 1/1 --seq-length 16
cp "$dir/out" "$dir/json"
number() { grep -m1 "\"$1\"" "$dir/json" | tr -dc '0-9'; }
test_that "inspect --json: documents" [ "$(number documents)" = 60 ]
test_that "inspect --json: bytes" [ "$(number bytes)" = "$bytes" ]
if command -v python3 >/dev/null; then
	test_that "inspect --json: parts and lengths add up" python3 - "$dir/json" <<'END'
import json, sys
c = json.load(open(sys.argv[1]))
s = c["split"]
assert s["train"]["documents"] + s["valid"]["documents"] == 60 and s["test"]["documents"] == 0
assert s["train"]["tokens"] + s["valid"]["tokens"] == c["tokens"]
assert s["train"]["windows"] == (s["train"]["tokens"] - 1) // 16
assert 12 < s["train"]["documents"] < 48
assert sum(b["documents"] for b in c["lengths"]) == 60
END
fi

# Every document once, as it was.
for ((i = 0; i < 60; i++)); do
	"$ferry" inspect "$corpus" --document $i | md5sum
done | sort >"$dir/have"
for ((i = 0; i < 60; i++)); do
	md5sum <"$dir/text/$i.txt"
done | sort >"$dir/want"
test_that "inspect --document prints each text, byte for byte" cmp -s "$dir/have" "$dir/want"
run inspect "$corpus" --document 0 --ids
test_that "inspect --document --ids ends in EOD" grep -qE '^[0-9 ]+ 50256$' "$dir/out"
run inspect "$corpus" --document 60
test_that "inspect --document past the end is a usage error" [ $code -eq 2 ]
test_that "... which says how many there are" err_has "has 60"
run inspect "$corpus" --split 1,x
test_that "a bad split is a usage error" [ $code -eq 2 ]
run inspect "$corpus" --ids
test_that "--ids without --document is a usage error" [ $code -eq 2 ]
run inspect "$dir/text"
test_that "inspect of what is not a corpus says so" err_has "is not a corpus"

run verify "$corpus" --workers 2
test_that "verify: exit 0" [ $code -eq 0 ]
test_that "verify says what it verified" out_has "verified: 60 documents"
for suffix in bin idx key sum; do
	file=$corpus/00000.$suffix
	offset=$(($(stat -c %s "$file") / 2))
	flip "$file" $offset
	run verify "$corpus"
	test_that "verify: a damaged .$suffix is exit 3" [ $code -eq 3 ]
	test_that "... and is named" err_has "$file"
	test_that "... with its documents" err_has "document"
	flip "$file" $offset
done
flip "$corpus/corpus.json" 400
run verify "$corpus"
test_that "verify: a damaged manifest is exit 3" [ $code -eq 3 ]
test_that "... and is named" err_has "corpus.json: "
flip "$corpus/corpus.json" 400
mv "$corpus/00000.idx" "$dir/idx"
run verify "$corpus"
test_that "verify: a missing file is an I/O error that names it" [ $code -eq 1 ]
test_that "... by name" err_has "00000.idx"
mv "$dir/idx" "$corpus/00000.idx"
run verify "$corpus"
test_that "verify: whole again" [ $code -eq 0 ]
exit $status
