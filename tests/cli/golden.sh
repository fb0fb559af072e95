#!/bin/bash
# What ferry 0.1.0 wrote (tests/golden/*_v1, made by make_v1.sh) stays readable, and means the same.
. "$(dirname "$0")/tap.bash"
root=$(cd "$(dirname "$0")/../.." && pwd)
case $ferry in /*) ;; *) ferry=$PWD/$ferry ;; esac
golden=$root/tests/golden
cp -r "$golden"/*_v1 "$dir" # so that nothing can write there
cd "$dir" || exit 1

# ---- corpora ----
bytes() { cksum <"$1"; }
is_as_it_was() { # CORPUS HASH DOCUMENTS TOKENS SHARDS
	run inspect "$1" --json
	for member in "\"hash\":\"$2\"" "\"documents\":$3" "\"tokens\":$4"; do
		tr -d ' \t' <out | grep -qF "$member" || return 1
	done
	[ "$(find "$1" -name '*.bin' | wc -l)" = "$5" ]
}
run verify corpus_v1
test_that "the u16 corpus verifies" [ $code -eq 0 ]
"$golden/pairs.sh" >pairs.txt
run preprocess "$golden/documents_v1.jsonl" --output wide --merge-file pairs.txt
test_that "the i32 corpus has the ids of its text" cmp -s corpus_wide_v1/00000.bin wide/00000.bin
cp wide/vocab.json wide/merges.txt corpus_wide_v1
run verify corpus_wide_v1
test_that "and verifies" [ $code -eq 0 ]
test_that "the u16 corpus is the one that was written" is_as_it_was corpus_v1 9cdc40224b9999b5abfa520f6bce7cdb 151 6743 4
test_that "the i32 corpus is the one that was written" is_as_it_was corpus_wide_v1 b2f7c8e08ecb3c459a5e4ee4e313a1e9 151 8902 1
# Tokenizing the same text now gives the same ids in the same order (of keys), whatever the shards.
run preprocess "$golden/documents_v1.jsonl" --output now --merge-file corpus_v1/merges.txt --vocab-file corpus_v1/vocab.json
cat corpus_v1/0000?.bin >ids
test_that "the u16 corpus has the ids of its text" cmp -s ids now/00000.bin
cat corpus_v1/0000?.key >keys
test_that "and the keys" cmp -s keys now/00000.key
run convert corpus_v1 --to nanogpt --output read
test_that "all of it is read" cmp -s ids read.bin
run merge corpus_v1 now --output merged
test_that "and merges with what is made now, all duplicates" [ $code -eq 0 -a "$(bytes merged/00000.bin)" = "$(bytes now/00000.bin)" ]
test_that "the i32 corpus has the same keys" cmp -s corpus_wide_v1/00000.key now/00000.key
run inspect corpus_wide_v1 --document 3 --ids
test_that "and ids of 32 bits" grep -qx '6421 25 220 16717 67 56737 25191 42743 121 220 21575 16723 13 56662 16722 56659 18500 220 18001 20300 220 65792' out
run inspect corpus_v1 --document 77
cp out text
run inspect now --document 77
test_that "a document's text" cmp -s text out
test_that "is not empty" [ -s text ]
cp corpus_v1/00002.bin damaged.bin
printf 'x' | dd of=corpus_v1/00002.bin bs=1 seek=100 conv=notrunc status=none
run verify corpus_v1
test_that "damage is found" [ $code -eq 3 ]
cp damaged.bin corpus_v1/00002.bin

# ---- checkpoints ----
losses() { sed -nE 's/^ iteration +([0-9]+)\/.*lm loss ([^ ]+) .*/\1 \2/p' out; }
near() { # FILE: the same iterations, and losses to within 1e-4
	losses >now.txt
	[ -s now.txt ] && paste -d ' ' "$1" now.txt | awk '$1 != $3 || ($2 - $4) ^ 2 > 1e-8 { bad = 1 } END { exit bad || NR != 3 }'
}
flags="--train-data corpus_v1 --split 80,20 --num-layers 1 --hidden-size 8 --num-attention-heads 2 --seq-length 16 --max-position-embeddings 16
	--batch-size 2 --threads 1 --train-iters 6 --lr 1e-2 --log-interval 1 --eval-interval 3 --eval-iters 2 --save-interval 3"
for isa in base avx2 avx512; do
	grep -qw "${isa/avx512/avx512f}" /proc/cpuinfo || [ $isa = base ] || continue
	rm -rf run && mkdir run && cp -r checkpoint_v1/step-00000003 run
	FERRY_ISA=$isa run train $flags --load run --save run
	test_that "training goes on from step 3, $isa" [ $code -eq 0 ]
	test_that "with the losses of that time" near "$golden/losses_v1.txt"
done
for model in checkpoint_v1 run; do
	run evaluate --load $model --data corpus_v1 --json
	test_that "the model of step 6 has its loss ($model)" awk -F '"loss":' '{ exit ($2 - 5.513561) ^ 2 > 1e-8 }' out
done
run generate --load checkpoint_v1 --prompt "the" --out-seq-length 5
test_that "it generates" [ $code -eq 0 -a -s out ]
exit $status
