#!/bin/bash
# ferry train-tokenizer: its files, that they do not depend on order or threads, and that corpora, training, checkpoints
# and generation work with them, with vocabularies on both sides of 65,536 ids.
. "$(dirname "$0")/tap.bash"

# Words of random letters: enough different ones that a large vocabulary can be learned.
mkdir "$dir/in"
for part in 1 2 3; do
	awk -v seed=$part 'BEGIN {
		srand(seed)
		for (d = 0; d < 400; d++) {
			text = ""
			for (w = 0; w < 70; w++) {
				word = ""
				for (l = 3 + int(rand() * 9); l > 0; l--)
					word = word sprintf("%c", 97 + int(rand() * 26))
				text = text " " (rand() < 0.3 ? "the" : word)
			}
			printf "{\"text\": \"Line %d.%s\"}\n", d, text
		}
		print "{\"text\": "
	}' >"$dir/in/$part.jsonl"
done
cat "$dir"/in/[321].jsonl >"$dir/all.json"

run train-tokenizer "$dir/in" --vocab-size 600 --output "$dir/t" --workers 2
test_that "train-tokenizer: exit 0" [ $code -eq 0 ]
test_that "says how many ids" out_has "600 ids"
test_that "says how much text" out_has "1,200 documents"
test_that "says what it passed over" out_has "3 bad lines"
for name in merges.txt vocab.json tokenizer.json tokenizer_config.json special_tokens_map.json; do
	test_that "writes $name" [ -s "$dir/t/$name" ]
done
test_that "merges.txt has the merges" [ "$(wc -l <"$dir/t/merges.txt")" = 344 ]
test_that "the most frequent comes first" [ "$(sed -n 2,4p "$dir/t/merges.txt" | tr -d '\n' | grep -c 'h e')" = 1 ]
run train-tokenizer "$dir/all.json" --vocab-size 600 --output "$dir/t2" --workers 1
test_that "the same files from the same text in another order, by one thread" diff -r "$dir/t" "$dir/t2"
run train-tokenizer "$dir/in" --vocab-size 600 --output "$dir/t"
test_that "a tokenizer is not replaced unasked: exit 2" [ $code -eq 2 ]
test_that "and says how" err_has "--overwrite"
touch "$dir/t/vocab.json.tmp-1-2" "$dir/t/other.bin.tmp-1-2" # a run's that was cut off; another program's, at work
run train-tokenizer "$dir/in" --vocab-size 700 --output "$dir/t" --overwrite
test_that "--overwrite replaces it" [ $code -eq 0 -a "$(wc -l <"$dir/t/merges.txt")" = 444 ]
test_that "and removes what is left of its own files alone" [ ! -e "$dir/t/vocab.json.tmp-1-2" -a -e "$dir/t/other.bin.tmp-1-2" ]
run train-tokenizer "$dir/in" --vocab-size 256 --output "$dir/x"
test_that "too small a vocabulary: exit 2" [ $code -eq 2 ]
run train-tokenizer "$dir/in" --text-key body --output "$dir/x"
test_that "no text: exit 2" [ $code -eq 2 ]
test_that "and says where it looked" err_has "body"
echo "aaaa aaaa bbbb" >"$dir/few.txt"
run train-tokenizer "$dir/few.txt" --vocab-size 1000 --output "$dir/few"
test_that "little text: fewer ids, and it says so" out_has "fewer than asked for"

use() { # NAME DTYPE: a corpus, a model and text with the tokenizer in $dir/NAME
	run preprocess "$dir/in" --output "$dir/$1.corpus" --merge-file "$dir/$1/merges.txt" --vocab-file "$dir/$1/vocab.json"
	test_that "$1: preprocess" [ $code -eq 0 ]
	test_that "$1: its ids are $2" grep -q "\"dtype\":.*\"$2\"" "$dir/$1.corpus/corpus.json"
	run inspect "$dir/$1.corpus" --document 3
	test_that "$1: a document's text" grep -q '^Line [0-9]*\. ' "$dir/out"
	run train --train-data "$dir/$1.corpus" --split 90,10,0 --save "$dir/$1.run" --num-layers 1 --hidden-size 16 \
		--num-attention-heads 2 --seq-length 32 --batch-size 2 --train-iters 3 --eval-iters 1
	test_that "$1: train" [ $code -eq 0 ]
	test_that "$1: the checkpoint has the tokenizer" cmp -s "$dir/$1/merges.txt" "$dir/$1.run/best/merges.txt"
	run generate --load "$dir/$1.run" --prompt "Line" --out-seq-length 10
	test_that "$1: generate" [ $code -eq 0 ]
	run train --load "$dir/$1.run" --train-iters 4
	test_that "$1: goes on from the checkpoint" [ $code -eq 0 ]
}
use t u16
run train-tokenizer "$dir/in" --vocab-size 66000 --min-count 1 --output "$dir/big"
test_that "a large vocabulary" out_has "66,000 ids"
use big i32
exit $status
