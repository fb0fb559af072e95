#!/bin/bash
# ferry convert: a corpus to Megatron-LM's, llm.c's and nanoGPT's files and back; what it refuses; going on after kill -9.
. "$(dirname "$0")/tap.bash"
same() { diff -r -x corpus.json "$1" "$2" >/dev/null; }
u16() { # NUMBERS: their bytes
	local n
	for n in "$@"; do printf "\\x$(printf %02x $((n % 256)))\\x$(printf %02x $((n / 256)))"; done
}

awk 'BEGIN {
	srand(3)
	for (d = 0; d < 3000; d++) {
		text = "Document " d ":"
		for (w = int(rand() * 60); w > 0; w--)
			text = text " word" int(rand() * 500)
		printf "{\"text\": \"%s\"}\n", text
	}
}' >"$dir/in.jsonl"
run preprocess "$dir/in.jsonl" --output "$dir/corpus"
test_that "a corpus" [ $code -eq 0 ]

for format in megatron llmc nanogpt; do
	run convert "$dir/corpus" --to $format --output "$dir/$format" --file-tokens 100000
	test_that "to $format" [ $code -eq 0 ]
	test_that "to $format: says what was written" out_has "3,000 documents"
	files=("$dir/$format"*.bin)
	run convert "${files[@]}" --from $format --output "$dir/back_$format"
	test_that "from $format" [ $code -eq 0 ]
	test_that "from $format: the corpus's bytes" same "$dir/corpus" "$dir/back_$format"
	run convert "$dir/corpus" --to $format --output "$dir/$format"
	test_that "to $format: nothing is replaced unasked" [ $code -eq 2 ]
done
test_that "to llmc: several files" [ -e "$dir/llmc_000001.bin" ]
test_that "to megatron: one shard's own .bin and .idx" cmp -s "$dir/corpus/00000.idx" "$dir/megatron.idx"
run verify "$dir/back_llmc"
test_that "verify agrees" [ $code -eq 0 ]
run convert "$dir/megatron" --output "$dir/auto1"
test_that "Megatron-LM's are known by their index" [ $code -eq 0 ]
run convert "$dir/llmc"*.bin --output "$dir/auto2"
test_that "llm.c's by their magic number" same "$dir/auto1" "$dir/auto2"
run convert "$dir/nanogpt.bin" --output "$dir/auto3"
test_that "nanoGPT's must be said: exit 2" [ $code -eq 2 ]
test_that "and the message says so" err_has "--from"
run convert "$dir/auto1" --output "$dir/auto4"
test_that "a corpus is no file of ids: what to say instead" err_has "auto1: is a corpus; --to megatron|llmc|nanogpt"
run convert "$dir" --output "$dir/auto4"
test_that "nor is a folder" err_has "$dir: is a folder; name the files"

{ u16 15496 11 995 50256 50256 40 716 50256 15496 11 995; } >"$dir/n.bin"
run convert "$dir/n.bin" --from nanogpt --output "$dir/n"
test_that "nanoGPT's: documents, one twice, one empty" out_has "dropped     1 duplicates, 1 empty, 0 rejected"
run inspect "$dir/n" --document 0
cp "$dir/out" "$dir/first"
run inspect "$dir/n" --document 1
test_that "and their text" [ "$(cat "$dir/first" "$dir/out" | tr -d '\n')" = "Hello, worldI am" -o "$(cat "$dir/out" "$dir/first" | tr -d '\n')" = "Hello, worldI am" ]
u16 1 2 60000 >"$dir/high.bin"
run convert "$dir/high.bin" --from nanogpt --output "$dir/high"
test_that "an id that is none: exit 3" [ $code -eq 3 ]
test_that "with file and byte" err_has "high.bin: byte 4: id 60000"
head -c 100 "$dir/megatron.idx" >"$dir/cut.idx"
cp "$dir/megatron.bin" "$dir/cut.bin"
run convert "$dir/cut" --output "$dir/cut_corpus"
test_that "an index cut short: exit 3" [ $code -eq 3 ]
test_that "named" err_has "cut.idx"

# Killed: the same command goes on, and ends in the same bytes.
bad=0
for i in 1 2 3 4; do
	"$ferry" convert "$dir/megatron" --output "$dir/k" --workers $((i % 2 + 1)) >/dev/null 2>&1 &
	pid=$!
	sleep 0.0$((RANDOM % 10))
	kill -9 $pid 2>/dev/null
	wait $pid 2>/dev/null
	if [ ! -e "$dir/k/corpus.json" ] || [ -e "$dir/k/work" ] || [ -e "$dir/k/next" ]; then
		run convert "$dir/megatron" --output "$dir/k"
		# Finished but for an empty work/: it is said, and tidied.
		[ $code = 0 ] || err_has "already holds a corpus" || bad=1
	fi
	rm -f "$dir/k/.lock"
	diff -r "$dir/auto1" "$dir/k" >/dev/null || bad=1
	rm -rf "$dir/k"
done
test_that "kill -9: the same command goes on" [ $bad = 0 ]
exit $status
