#!/bin/bash
# train_ranks.sh: two ranks of `ferry train`, each with an emulated device of its own, train as one does: the same losses
# but for rounding, and the same bytes when they go on; their run moves to the processor of one process.
source tests/cli/tap.bash
source tests/cli/mpirun.bash
need_ranks
export FERRY_CUDA=${FERRY_CUDA:-build/emu/ferry-cuda.so}
awk 'BEGIN { srand(3); for (d = 0; d < 120; d++) { s = ""; for (i = 0; i < 40 + d % 50; i++) s = s " w" int(rand() * 12); print "{\"text\": \"" s "\"}" } }' >"$dir/text.jsonl"
"$ferry" train-tokenizer "$dir/text.jsonl" --output "$dir/tokenizer" --vocab-size 290 >/dev/null 2>&1
"$ferry" preprocess "$dir/text.jsonl" --output "$dir/corpus" --vocab-file "$dir/tokenizer/vocab.json" --merge-file "$dir/tokenizer/merges.txt" >/dev/null 2>&1
shape="--train-data $dir/corpus --num-layers 1 --hidden-size 16 --num-attention-heads 2 --seq-length 16 --max-position-embeddings 16 --batch-size 2
	--global-batch-size 4 --lr 1e-2 --split 80,15,5 --threads 1 --train-iters 20 --eval-interval 10 --eval-iters 1 --device gpu --save-interval 0"
ranks() { # ARGUMENTS...: code, out, err
	mpirun -n 2 "$ferry" train "$@" >"$dir/out" 2>"$dir/err" </dev/null
	code=$?
}
losses() { sed -n 's/^{"step": \([0-9]*\), "type": "[a-z]*", "loss": \([^,]*\), .*/\1 \2/p' "$dir/$1/metrics.jsonl"; }
follows() { # RUN RUN SHARE
	paste <(losses "$1") <(losses "$2") | awk -v share="$3" '$1 != $3 || ($2 / $4 - 1) ^ 2 > share ^ 2 { bad++ } END { exit bad > 0 || NR != 23 }'
}
types=("fp32 1e-6" "bf16 1e-3 --bf16" "fp16 1e-4 --fp16 --initial-scale-power 20 --loss-scale-window 5 --hysteresis 1")
for type in "${types[@]}"; do
	read -r name share flags <<<"$type"
	run train $shape $flags --save "$dir/one-$name"
	ranks $shape $flags --save "$dir/two-$name"
	test_that "$name: two devices train as one" follows "two-$name" "one-$name" "$share"
done
test_that "... overflows are skipped by both" grep -q '"skipped": 1' "$dir/two-fp16/metrics.jsonl"
ranks $shape --fp16 --initial-scale-power 20 --loss-scale-window 5 --hysteresis 1 --save "$dir/half" --exit-interval 9
cp -r "$dir/half" "$dir/moved"
ranks --load "$dir/half" --device gpu
same() { # RUN
	local file
	for file in model.safetensors optimizer.safetensors trainer.json; do
		cmp "$dir/two-fp16/step-00000020/$file" "$dir/$1/step-00000020/$file" || return 1
	done
}
test_that "two devices go on, to the same bytes" same half
run train --load "$dir/moved" --device cpu
test_that "their run goes on in one process, on the processor" follows moved one-fp16 1e-2
ranks $shape --fp16 --initial-scale-power 20 --loss-scale-window 5 --hysteresis 1 --save "$dir/host" --optimizer-on cpu --exit-interval 9
cp -r "$dir/host" "$dir/back"
ranks --load "$dir/host" --optimizer-on 0.4
test_that "the optimizer in the host's memory, all of it and then a part, is said" out_has "optimizer: 60% of a rank's parameters on the host"
test_that "... and gives the same bytes" same host
run train --load "$dir/back"
test_that "what two left there goes on in one process" follows back one-fp16 1e-3
exit $status
