#!/bin/bash
# `ferry train`: its log in the reference's form, flags and their errors, runs that go on, signals, fine-tuning.
. "$(dirname "$0")/tap.bash"
root=$(cd "$(dirname "$0")/../.." && pwd)
refused() { # NAME WORDS FLAGS...: exit code 2, and a message with these words
	local name=$1 words=$2
	shift 2
	run train "$@"
	test_that "$name" [ $code -eq 2 ]
	test_that "$name: says \"$words\"" err_has "$words"
}
corpus() { # NAME SEED: text enough for a validation and a test split
	awk -v seed="$2" 'BEGIN { srand(seed); for (d = 0; d < 200; d++) { s = ""; for (i = 0; i < 60 + d % 50; i++) s = s " w" int(rand() * 40); print "{\"text\": \"" s "\"}" } }' >"$dir/$1.jsonl"
	"$ferry" preprocess "$dir/$1.jsonl" --output "$dir/$1" >/dev/null 2>&1
}
corpus text 3
corpus other 4
cd "$dir" || exit 1
case $ferry in /*) ;; *) ferry=$root/$ferry ;; esac
tiny="--num-layers 1 --hidden-size 16 --num-attention-heads 2 --seq-length 32 --max-position-embeddings 32 --batch-size 2 --threads 1 --split 80,15,5 --lr 1e-2"
quick="--train-data text $tiny --train-iters 20 --eval-iters 1 --eval-interval 10 --log-interval 5 --save-interval 8 --keep 5"

# ---- a run, and its log ----
run train $quick
test_that "trains and saves to ./run" [ $code -eq 0 -a -d run/step-00000020 -a -L run/best -a -s run/metrics.jsonl -a -s run/log.txt ]
cp out log
test_that "log.txt has what was printed" cmp -s log run/log.txt
test_that "a short run foretells nothing at its end" eval '! out_has foretells'
FERRY_FORECAST_FROM=0 run train $quick --save forecast
took=$(sed -nE 's/^a step took ([0-9.]+) ms \(mean of ([0-9]+)\); `ferry plan` foretells ([0-9.]+) ms, bound by .*/\1 \2 \3/p' out)
test_that "... a longer one what its steps took, and should have ($took)" awk '{ exit !($1 > 0 && $2 == 18 && $3 < 20 * $1 && $1 < 20 * $3) }' <<<"$took"
test_that "... by the metrics' times but for the first two steps" awk -F'[:,]' -v took="${took%% *}" '
	/"type": "train"/ && $2 > 2 { for (i = 1; i < NF; i++) if ($i ~ /"ms"/) { sum += $(i + 1); n++ } }
	END { exit !(n == 18 && (sum / n - took) ^ 2 < .06 ^ 2) }' forecast/metrics.jsonl
[ -e /dev/nvidiactl -o -e /dev/dxg -o -n "$FERRY_CUDA" ] ||
	test_that "where there is no GPU, it does not say how to build for one" out_has "on the CPU: this machine has no NVIDIA GPU"
number='[-+0-9.]+E[-+][0-9]+'
iteration="^ iteration +([0-9]+)/ *([0-9]+) \| elapsed time per iteration \(ms\): ([0-9.]+) \| learning rate ($number) \| lm loss ($number) \| loss scale ([0-9.]+) \|"
validation="^ validation loss at iteration ([0-9]+) \| LM loss: ($number) \| LM PPL: ($number)\$"
argument='^  [a-z_0-9]+ \.* .+$'
# Expressions that read the reference's log must read ferry's: each is tried on a sample of that log too.
reads() { # NAME EXPRESSION LINES-OF-FERRY'S
	test_that "$1: the expression reads the reference's lines" grep -qE "$2" "$root/tests/golden/seed_log_sample.txt"
	test_that "$1: and $3 of ferry's" [ "$(grep -cE "$2" log)" -eq "$3" ]
}
reads "iteration" "$iteration" 4
reads "validation" "$validation" 2
reads "timers" '^time \(ms\) \| forward: [0-9.]+ \| backward: [0-9.]+ \|.* optimizer: [0-9.]+ \| batch generator: [0-9.]+' 4
reads "the optimizer's timers" '^rank=0 time \(ms\) \| optimizer_gradients: [0-9.]+ \| optimizer_step: [0-9.]+ \| optimizer_allgather: [0-9.]+$' 4
test_that "they stand before the iteration's line, and are within the optimizer's time" awk -F'[:|]' '
	/^rank=0 time/ { sum += $3 + $5 + $7; parts++; if ($7 != 0) bad++ }
	/^ iteration/ && ++lines != parts { bad++ }
	/^time \(ms\)/ { whole += $7 }
	END { exit bad > 0 || sum <= 0 || sum > whole + 0.08 }' log
# The time of an iteration has validations and checkpoints too.
test_that "the timers are within the iteration" awk -F'[:|]' '
	/^ iteration/ { step = $3 }
	/^time \(ms\)/ { sum = $3 + $5 + $7 + $9; if ($3 <= 0 || $5 <= 0 || sum > step * 1.01 + 0.5) bad++ }
	END { exit bad > 0 }' log
reads "parameters" '^ > number of parameters on model parallel rank 0: [0-9]+$' 1
reads "vocabulary" '^> padded vocab \(size: 50257\) with 47 dummy tokens \(new size: 50304\)$' 1
reads "end of document" '^> found end-of-document token: 50256$' 1
reads "decay" '^learning rate decaying cosine$' 1
reads "layers" '^  num_layers \.{19} [0-9]+$' 1
reads "vocabulary's divisor" '^  make_vocab_size_divisible_by \. 128$' 1
reads "LayerNorm's epsilon" '^  layernorm_epsilon \.{12} 1e-05$' 1
test_that "arguments stand in the reference's columns" [ "$(sed -n '/^arguments:/,/^configuring/p' log | grep -E '^  ' | grep -cvE '^  ([a-z0-9_]+ \.+ |[a-z0-9_]{29,}  ).*$')" -eq 0 ]
test_that "their values start in one column" [ "$(sed -n '/^arguments:/,/^configuring/p' log | sed -nE 's/^(  [a-z0-9_]+ \.+ ).*/\1/p' | awk '{ print length }' | sort -u | wc -l)" -eq 1 ]
dashes=$(grep -nE "$validation" log | head -n 1 | cut -d: -f1)
line=$(sed -n "${dashes}p" log)
test_that "dashes around a validation as long as the reference's" [ "$(sed -n "$((dashes - 2))p" log | awk '{ print length }')" -eq 100 -a \
	"$(sed -n "$((dashes - 1))p" log | awk '{ print length }')" -eq $((${#line} + 1)) -a "$(sed -n "$((dashes + 1))p" log | awk '{ print length }')" -eq $((${#line} + 1)) ]
test_that "validates on the test split at the end" grep -qE "^ validation loss at the end of training for test data \| LM loss: $number \| LM PPL: $number\$" log

# ---- where the optimizer is ----
refused "a place for the optimizer that is none" "'there' is none of cpu, gpu, auto" $quick --save none --device cpu --optimizer-on there
refused "the host twice and not" "exclude each other" $quick --save none --device cpu --cpu-optimizer --optimizer-on gpu
run train $quick --save none --device cpu --checkpoint-activations --cpu-checkpointing
test_that "on the CPU --cpu-checkpointing changes nothing, and the log says so" [ $code -eq 0 -a "$(grep -c 'cpu-checkpointing has no effect' out)" -eq 1 ]
run train $quick --save none --device cpu --cpu-optimizer
test_that "on the CPU --cpu-optimizer changes nothing, and the log says so" [ $code -eq 0 -a "$(grep -c 'have no effect' out)" -eq 1 -a \
	"$(grep '^ validation' out | tail -n 1)" = "$(grep '^ validation' log | tail -n 1)" ]

# ---- metrics ----
check_metrics() { # STEPS: every step once, in order, and each line is JSON
	[ "$(grep -c '"type": "train"' run/metrics.jsonl)" -eq "$1" ] || return 1
	[ "$(sed -n 's/^{"step": \([0-9]*\), "type": "train".*/\1/p' run/metrics.jsonl | uniq | sort -n | uniq | wc -l)" -eq "$1" ] || return 1
	[ "$(sed -n 's/^{"step": \([0-9]*\), "type": "train".*/\1/p' run/metrics.jsonl | tail -n 1)" -eq "$1" ] || return 1
	! command -v python3 >/dev/null || python3 -c 'import json,sys
for line in open("run/metrics.jsonl"): json.loads(line)'
}
test_that "metrics.jsonl has every step once" check_metrics 20
losses() { sed -n 's/^{"step": \([0-9]*\), "type": "train", "loss": \([^,]*\), .*/\1 \2/p' "$1"; }
losses run/metrics.jsonl >straight

# ---- going on ----
refused "an existing run is not overwritten" "ferry train --load run" $quick
# A directory holds one thing.
refused "a run in a corpus" "--save text: holds a corpus" $quick --save text
refused "a run in a checkpoint" "--save run/best: holds a model" $quick --save run/best --overwrite
mkdir begun && : >begun/metrics.jsonl # of a run without a checkpoint yet
for where in "run:a run" "run/best:a model" "begun:a run"; do
	for command in "preprocess text.jsonl" "merge text other" "train-tokenizer text.jsonl" "convert text/00000.bin --from megatron"; do
		run $command --output ${where%:*} --overwrite
		test_that "${command%% *}: not into ${where#*:}" eval '[ $code -eq 2 ] && err_has "holds ${where#*:}"'
	done
done
run train-tokenizer text.jsonl --output text
test_that "train-tokenizer: not into a corpus" eval '[ $code -eq 2 ] && err_has "holds a corpus"'
test_that "... and nothing was written" [ ! -e text/vocab.json -a ! -e run/corpus.json -a ! -e text/lock ]
mkdir run/step-00000016.tmp-1-1 && rm run/best # as a kill after the last checkpoint leaves it
run train --load run
test_that "a finished run: nothing to do, and says how to go on" [ $code -eq 0 ]
test_that "... what a kill left is tidied up" [ ! -e run/step-00000016.tmp-1-1 -a -L run/best ]
test_that "... with --train-iters" out_has "--train-iters"
rm -rf part && run train $quick --save part --exit-interval 12
test_that "--exit-interval saves and stops" [ $code -eq 0 -a -d part/step-00000012 ]
run train --load part
test_that "goes on by --load alone, its flags remembered" [ $code -eq 0 -a -d part/step-00000020 ]
losses part/metrics.jsonl >resumed
test_that "a resumed run has the losses of a straight one, to the last digit" cmp -s straight resumed
same_checkpoint() {
	cmp run/step-00000020/model.safetensors part/step-00000020/model.safetensors &&
		cmp run/step-00000020/optimizer.safetensors part/step-00000020/optimizer.safetensors
}
test_that "and its weights and moments, to the bit" same_checkpoint
run train --load run --train-iters 25
test_that "trains for longer" [ $code -eq 0 -a -d run/step-00000025 ]
test_that "metrics have no gap and no repetition" check_metrics 25
run train --load part/step-00000012 --train-iters 30
test_that "newer checkpoints are not overwritten from an older one" [ $code -eq 2 ]
test_that "... and the message names --overwrite" err_has "--overwrite"
kept() { ls part && cat part/metrics.jsonl; }
kept >before
run train --load part/step-00000012 --train-iters 14 --overwrite --seed 5
test_that "--overwrite deletes nothing where the run is refused" eval '[ $code -eq 3 ] && kept | cmp - before'
run train --train-data text ${tiny/80,15,5/0,50,50} --save part --overwrite --train-iters 2
test_that "... nor where a new one is" eval '[ $code -eq 2 ] && kept | cmp - before'
run train --load part/step-00000012 --train-iters 14 --overwrite
test_that "--overwrite goes on from an older one" [ $code -eq 0 -a -d part/step-00000014 -a ! -e part/step-00000020 ]
run train --load part --train-iters 1000015 --exit-interval 15 --save-interval 1 --keep 1000000
test_that "checkpoints that no disk has room for are warned of, and begun with" [ $code -eq 0 -a "$(grep -c 'WARNING: part: the disk has room for .*\(999,99\|1,000,00\)[0-9] checkpoints of 9.3 MiB' "$dir/out")" = 1 ]
refused "a size that is not the checkpoint's" "--hidden-size 32" --load run --hidden-size 32 --train-iters 40
mismatch() { # NAME WORDS FLAGS...
	run train --load run --train-iters 40 "${@:3}"
	test_that "$1 on resume is refused" [ $code -eq 3 ]
	test_that "$1: both values are named" err_has "$2"
}
mismatch "another corpus" "is the corpus" --train-data other
mismatch "another split" "80,15,5, not 8,1,1" --split 8,1,1
mismatch "another window" "--seq-length 24 must wait for the next epoch: this one began with 32" --seq-length 24
mismatch "another seed" "--seed 1234, not 5" --seed 5

# ---- corpora that are mixed, windows that are cut ----
run train --train-data 0.75 text 0.25 other $tiny --train-iters 8 --eval-interval 4 --eval-iters 1 --log-interval 4 --save mixed
test_that "two corpora are mixed" [ $code -eq 0 ]
test_that "... each with its share of the epochs" out_has "0.25 of 8 iterations of 2 windows"
test_that "... which the log counts" [ "$(grep -cE ' epochs: [0-9.]+ [0-9.]+ \|' out)" -eq 2 ]
test_that "... by largest deficit" [ "$(tr -d ' \n\t' <mixed/step-00000008/trainer.json | grep -oE '"share":[0-9]+,"ordinal":[0-9]+' | tr '\n' ' ')" = '"share":3,"ordinal":12 "share":1,"ordinal":4 ' ]
run train --load mixed --train-iters 9 --seq-length 16
test_that "... and go on, with windows cut in half" [ $code -eq 0 -a -d mixed/step-00000009 ]
refused "a share without a corpus" "0.7 DIR-A 0.3 DIR-B" --train-data 0.5 text 0.5 --save none $tiny
refused "a share of nothing" "the share \"x\"" --train-data x text 0.5 other --save none $tiny

# ---- what cannot be read, and damage ----
newest=run/$(ls run | grep '^step-' | tail -n 1)
mv "$newest/optimizer.safetensors" aside
ln -s optimizer.safetensors "$newest/optimizer.safetensors" # a loop: not even root can read it
before=$(ls run)
run train --load run --train-iters 26
test_that "a newest checkpoint that cannot be read is not passed over" [ $code -eq 1 -a "$(ls run)" = "$before" ]
test_that "... and it says which, why and what to do" grep -q "optimizer.safetensors: .*symbolic links.*move it out of the run" err
mv aside "$newest/optimizer.safetensors"
printf x | dd of="$newest/model.safetensors" bs=1 seek=5000 conv=notrunc status=none
run train --load run --train-iters 26
test_that "a damaged newest checkpoint is passed over" [ $code -eq 0 ]
test_that "... and it says which and why" grep -q "step-00000025: passed over: .*model.safetensors.*hash" out
test_that "... and goes on from the one before" grep -q "going on from .*/run/step-00000024: iteration 24" out
test_that "metrics end with the new run" check_metrics 26

# ---- signals ----
signal() { # SIGNAL: sent once a checkpoint's worth of steps has begun
	rm -rf sig
	: >out # not the lines of the run before
	"$ferry" train --train-data text $tiny --load run --finetune --train-iters 100000 --eval-interval 0 --log-interval 1 --save-interval 0 --save sig \
		>out 2>err </dev/null &
	local pid=$! i
	for i in $(seq 2000); do
		# SIGUSR1 again and again, whatever the step is at: oneDNN's products were harmed by some.
		[ "$1" != USR1 ] || [ ! -s out ] || kill -s USR1 $pid
		[ "$(grep -c '^ iteration' out)" -ge 4 ] && break
		sleep 0.005
	done
	ls -l /proc/$pid/fd >opened
	known_as=$(cat /proc/$pid/comm)
	kill -s "$1" $pid
	if [ "$1" = USR1 ]; then
		for i in $(seq 200); do
			compgen -G 'sig/step-????????' >/dev/null && break
			sleep 0.05
		done
		kill -0 $pid 2>/dev/null && still=yes || still=no
		kill -s INT $pid
	fi
	wait $pid
	code=$?
}
hangs_up=HUP # under nohup it is ignored, and stays so
[ $((0x$(awk '/^SigIgn/ { print $2 }' /proc/self/status) & 1)) = 0 ] || hangs_up=
for name in INT TERM $hangs_up; do
	signal $name
	test_that "SIG$name finishes the step, saves, exits 0" [ $code -eq 0 -a -n "$(compgen -G 'sig/step-????????')" ]
	test_that "SIG$name: says how to go on" out_has "ferry train --load sig"
done
test_that "ps and killall know it by its name" [ "$known_as" = "$(basename "$ferry")" ]
signal USR1
test_that "SIGUSR1 saves and goes on" [ $still = yes -a $code -eq 0 ]
test_that "what it started from is closed by then (NFS could not delete it)" [ "$(grep -c sig/metrics opened)" -eq 1 -a "$(grep -c /run/step opened)" -eq 0 ]

# ---- fine-tuning ----
cp -rL run/best model && rm model/trainer.json model/optimizer.safetensors
run train --train-data other $tiny --train-iters 2 --load model --save tuned
test_that "a plain model is not resumed" [ $code -eq 2 ]
test_that "... --finetune is named" err_has "--finetune"
run train --train-data other --split 80,15,5 --threads 1 --batch-size 2 --train-iters 2 --load model --finetune --save tuned
test_that "--finetune starts from a model's weights, with its sizes" [ $code -eq 0 -a -d tuned/step-00000002 ]
test_that "... at the loss that it left off, not at a guess" [ "$(awk '/^ validation loss/ { print ($10 + 0 < 8) ? "low" : "high"; exit }' out)" = low ]

# `ferry train | tee log`, when Ctrl-C has ended tee.
{
	timeout -k 5 60 "$ferry" train --train-data text $tiny --train-iters 100000 --eval-interval 0 --log-interval 1 --save-interval 0 --save piped 2>err
	echo $? >piped.code
} | awk '/^ iteration/ { exit }'
test_that "a pipe that nobody reads any more: saves and ends" [ "$(cat piped.code)" = 1 -a -n "$(compgen -G 'piped/step-????????')" ]
test_that "... and says so where it is seen" grep -q 'stopped at iteration [0-9]*; checkpoints in piped' err

# ---- values that cannot be ----
refused "no corpus" "--train-data is missing" --num-layers 2
refused "heads that do not divide" "heads" --train-data text --num-attention-heads 7
refused "a window longer than the positions" "--max-position-embeddings" --train-data text --seq-length 2048
refused "a global batch that is no multiple" "not a multiple" --train-data text --batch-size 3 --global-batch-size 4
refused "threads that would only wait" "--threads 4096: there" --train-data text --threads 4096
refused "two precisions" "exclude each other" --train-data text --bf16 --fp16
refused "a loss scale without --fp16" "--fp16" --train-data text --loss-scale 128
refused "a model that is not known" "gpt2-medium" --train-data text --model gpt5
refused "a preset that is not known" "reference" --train-data text --preset nothing
refused "a style that is not known" "cosine" --train-data text --lr-decay-style exponential
refused "more memory than there is" "--checkpoint-activations" --train-data text --model gpt2-xl --batch-size 4096 --seq-length 64
refused "a split of nothing" "80,x" --train-data text --split 80,x
run train --train-data nowhere
test_that "a corpus that is not there" [ $code -ne 0 ]
run train --train-data text $tiny --train-iters 1 --eval-interval 0 --save none --lazy-loader --num-workers 2 --no-load-optim
test_that "flags of the reference without meaning here are taken" [ $code -eq 0 ]
test_that "... and named" out_has "ignored: --lazy-loader, --no-load-optim, --num-workers"
test_that "--save none saves nothing" [ ! -e none ]
run train --preset reference --help
test_that "help" [ $code -eq 0 ]

# ---- kills ----
FERRY=$ferry bash "$root/tests/faults/train_kill.sh" 3 || status=1
exit $status
