#!/bin/bash
# make_v1.sh: made tests/golden/*_v1, corpora and a checkpoint of format version 1, as ferry 0.1.0 wrote them. They stay as
# they are: every later version must read them (tests/cli/golden.sh). Run once; kept to tell how.
# Hugging Face's tokenizers gave the same ids for every document from the checkpoint's tokenizer.json; transformers the same
# loss of step 6 on the validation split, 5.513561 (ferry evaluate: 5.513561).
#   documents_v1.jsonl   the text
#   corpus_v1            u16, four shards, with a tokenizer of its own (300 ids)
#   corpus_wide_v1       i32: a token for every two bytes, 65,793 ids; its vocab.json and merges.txt (2 MB) are
#                        left out: pairs.sh makes them
#   checkpoint_v1        steps 3 and 6 of a run on corpus_v1, and losses_v1.txt, "iteration loss" of 4 to 6
set -eu
cd "$(dirname "$0")/../.."
ferry=$PWD/build/ferry
golden=tests/golden
make -s build/opt/tests/golden/make_corpus
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for made in documents_v1.jsonl corpus_v1 corpus_wide_v1 checkpoint_v1; do
	[ ! -e "$golden/$made" ] || { echo "$golden/$made is there and stays" >&2; exit 1; }
done
awk 'BEGIN {
	srand(5)
	n = split("the of and to in is that it was for on are with his they at be this have from caf\303\251 \345\244\252\351\231\275 don\047t 1999 \360\237\230\200 \\n\\n \\t", word, " ")
	for (d = 0; d < 150; d++) {
		text = ""
		for (i = int(rand() * 40) + 1; i > 0; i--)
			text = text word[int(rand() * n) + 1] (rand() < 0.1 ? ". " : " ")
		print "{\"text\": \"" d ": " text "\"}"
	}
	print "{\"text\": \"\"}"
	print "{\"text\": \"0: twice\"}\n{\"text\": \"0: twice\"}"
	print "not JSON"
}' >"$golden/documents_v1.jsonl"
"$ferry" train-tokenizer "$golden/documents_v1.jsonl" --output "$work/tokenizer" --vocab-size 300 >/dev/null
build/opt/tests/golden/make_corpus "$work/tokenizer/merges.txt" "$golden/documents_v1.jsonl" "$golden/corpus_v1" 5000
"$golden/pairs.sh" >"$work/pairs.txt"
"$ferry" preprocess "$golden/documents_v1.jsonl" --output "$golden/corpus_wide_v1" --merge-file "$work/pairs.txt" >/dev/null
rm "$golden"/corpus_wide_v1/{vocab.json,merges.txt}
flags="--train-data $golden/corpus_v1 --split 80,20 --num-layers 1 --hidden-size 8 --num-attention-heads 2 --seq-length 16 --max-position-embeddings 16
	--batch-size 2 --threads 1 --train-iters 6 --lr 1e-2 --log-interval 1 --eval-interval 3 --eval-iters 2 --save-interval 3"
"$ferry" train $flags --save "$work/run" >"$work/log"
mkdir "$golden/checkpoint_v1"
# (The files that are checked in name the corpus /data/corpus_v1, so that they name no machine of ours; their hashes follow.)
cp -r "$work/run/step-00000003" "$work/run/step-00000006" "$golden/checkpoint_v1"
sed -nE 's/^ iteration +([456])\/.*lm loss ([^ ]+) .*/\1 \2/p' "$work/log" >"$golden/losses_v1.txt"
du -sh --apparent-size "$golden"/*_v1*
