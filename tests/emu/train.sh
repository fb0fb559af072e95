#!/bin/bash
# train.sh: whole training runs on the emulated device, through the program: 200 steps follow the CPU's in fp32,
# bf16 and fp16 with overflows; kill -9 and resume end in a straight run's bytes; a run moves between CPU and GPU;
# the optimizer on the host, wholly or in part, leaves the same bytes; no thread of it races; evaluate and generate give
# the CPU's answers; every allocation that fails ends in one message.
#
# FERRY is the program, FERRY_CUDA the emulated backend, B where both are built under the thread sanitizer. GPU_FLAGS
# are added to each run on the GPU.
source tests/cli/tap.bash
export FERRY_CUDA=${FERRY_CUDA:-build/emu/ferry-cuda.so}

source tests/emu/corpus.bash

steps=200
shape="--num-layers 1 --hidden-size 16 --num-attention-heads 2 --seq-length 16 --max-position-embeddings 16 --batch-size 2
	--lr 1e-2 --split 80,15,5 --threads 1 --log-interval 50"
train() { # NAME FLAGS...: a run in $dir/NAME
	"$ferry" train --train-data "$dir/corpus" --save "$dir/$1" $shape "${@:2}" >"$dir/$1.out" 2>&1 </dev/null
}
on_gpu() { # NAME FLAGS...
	train "$@" --device gpu $GPU_FLAGS
}
losses() { sed -n 's/^{"step": \([0-9]*\), "type": "train", "loss": \([^,]*\), .*/\1 \2/p' "$dir/$1/metrics.jsonl"; }
# The losses of two runs, step by step: as many as wanted, nowhere further apart than a share, and lower at the end.
follows() { # RUN REFERENCE STEPS SHARE
	paste -d ' ' <(losses "$1") <(losses "$2") | awk -v steps="$3" -v share="$4" -v name="$1" '
		$1 == $3 { n++; d = ($2 - $4) / $4; d = d < 0 ? -d : d; if (!(d <= worst)) worst = d; if (n == 1) first = $2; last = $2 }
		END { printf "# %s: %d losses, %.4f to %.4f, worst difference %.2g (at most %.2g)\n", name, n, first, last, worst, share
			exit !(n == steps && worst <= share && last < first * 0.7) }'
}
same_bytes() { # RUN REFERENCE STEP
	local file
	for file in model.safetensors optimizer.safetensors trainer.json; do
		cmp "$dir/$1/$3/$file" "$dir/$2/$3/$file" >"$dir/err" 2>&1 || return 1
	done
}

same_tensors() { # RUN REFERENCE STEP
	cmp "$dir/$1/$3/model.safetensors" "$dir/$2/$3/model.safetensors" >"$dir/err" 2>&1 &&
		cmp "$dir/$1/$3/optimizer.safetensors" "$dir/$2/$3/optimizer.safetensors" >>"$dir/err" 2>&1
}

# ---- the CPU's curves, in each type, and the GPU's ----

# A scale so high that it overflows at first, and again each time that it has grown.
fp16="--fp16 --initial-scale-power 20 --loss-scale-window 25 --hysteresis 1"
curve() { shape=${shape/--batch-size 2/--batch-size 1} train "$@" --train-iters $steps --eval-interval 0 --save-interval 0; }
gpu_curve() { curve "$@" --device gpu $GPU_FLAGS; }
curve cpu-fp32 --device cpu
curve cpu-bf16 --device cpu --bf16
curve cpu-fp16 --device cpu $fp16
gpu_curve gpu-fp32
gpu_curve gpu-bf16 --bf16
gpu_curve gpu-fp16 $fp16
skips() { grep -c '"skipped": 1' "$dir/$1/metrics.jsonl"; }
test_that "fp32: $steps steps follow the CPU's" follows gpu-fp32 cpu-fp32 $steps 1e-5
test_that "bf16: $steps steps follow the CPU's" follows gpu-bf16 cpu-bf16 $steps 1e-2
test_that "fp16: steps overflowed and were skipped on the GPU" [ "$(skips gpu-fp16)" -ge 5 ]
test_that "fp16 with overflows: $steps steps follow the CPU's" follows gpu-fp16 cpu-fp16 $steps 2e-3

# ---- 30 steps at once, and some, kill -9, and the rest ----

short="--train-iters 30 --eval-interval 6 --eval-iters 1 --save-interval 6 $fp16 --global-batch-size 4
	--hidden-dropout 0.1 --attention-dropout 0.1"
on_gpu straight $short &
"$ferry" train --train-data "$dir/corpus" --save "$dir/killed" $shape $short --device gpu $GPU_FLAGS >"$dir/killed.out" 2>&1 </dev/null &
victim=$!
until [ -d "$dir/killed/step-00000006" ] || ! kill -0 $victim 2>/dev/null; do sleep 0.01; done
kill -9 $victim 2>/dev/null
wait 2>/dev/null
test_that "killed between iterations 6 and 30" [ -d "$dir/killed/step-00000006" -a ! -d "$dir/killed/step-00000030" ]
run train --load "$dir/killed" --device gpu $GPU_FLAGS
test_that "it goes on" [ $code = 0 ]
test_that "weights, moments and state are a straight run's, byte for byte" same_bytes killed straight step-00000030
test_that "its losses too" cmp <(losses killed) <(losses straight)

# ---- the algorithms of matrix products: chosen once, recorded, used again ----

choices() { grep -o '"gemm-1 [^"]*"' "$dir/$1/step-00000012/trainer.json"; }
# Runs to step 6 and goes on to step 12, in an environment of NAME=VALUE words, as another library would have it.
goes_on() { # NAME WORDS...
	on_gpu "$1" --bf16 --train-iters 12 --eval-interval 0 --save-interval 0 --exit-interval 6
	FERRY_EMU_LT_FIRST=1 env "${@:2}" "$ferry" train --load "$dir/$1" --device gpu $GPU_FLAGS >"$dir/$1.out" 2>"$dir/err" </dev/null
}
algorithms="--bf16 --train-iters 12 --eval-interval 0 --save-interval 0 --exit-interval 12"
on_gpu first-choice $algorithms &
FERRY_EMU_LT_FIRST=1 on_gpu second-choice $algorithms
wait
goes_on recorded &
goes_on lacking FERRY_EMU_LT_LACKS=0 &
goes_on elsewhere FERRY_EMU_LT_VERSION=7
wait
test_that "other algorithms, other bits" eval '! same_tensors first-choice second-choice step-00000012'
test_that "a run goes on with the algorithms that it began with, though others rank first now" \
	same_tensors recorded first-choice step-00000012
test_that "and records the same" cmp <(choices recorded) <(choices first-choice)
test_that "$(choices recorded | wc -l) of them" [ "$(choices recorded | wc -l)" -gt 10 ]
test_that "algorithms that are not to be had are said to be chosen anew" \
	grep -q "of the [0-9]* algorithms .* not to be had here" "$dir/lacking.out"
test_that "with another library none are taken over, and that is said" \
	grep -q "cuBLASLt 7\".*is not used" "$dir/elsewhere.out"
test_that "its bits are others" eval '! same_tensors elsewhere first-choice step-00000012'

# ---- the optimizer on the GPU, on the host, and on both ----

# Steps whose update was begun before the norm was known; done over of them, dropped of them: as the run's log says.
outcomes() { sed -n 's/.*on the host: \([0-9]*\) updates begun .*known, \([0-9]*\) of them .*clipping, \([0-9]*\) dropped.*/\1 \2 \3/p' "$dir/$1.out"; }
# NAME OUTCOME FLAGS...: the same checkpoint wherever the optimizer is; OUTCOME (1 begun, 2 done over, 3 dropped) came.
same_anywhere() {
	local name=$1 outcome=$2 place shape=${shape/--threads 1/--threads 3} # two of them the optimizer's
	shift 2
	set -- "$@" --train-iters 16 --eval-interval 0 --save-interval 0
	for place in gpu cpu 0.4; do on_gpu "$name-$place" "$@" --optimizer-on $place; done
	for place in cpu 0.4; do
		test_that "$name, --optimizer-on $place: the GPU's weights and moments, byte for byte" \
			same_tensors "$name-$place" "$name-gpu" step-00000016
		set -- $(outcomes "$name-$place")
		test_that "$name, --optimizer-on $place: begun early $1, done over $2, dropped $3" [ "${!outcome:-0}" -gt 0 ]
		test_that "$name, --optimizer-on $place: some is updated on the GPU all the same" \
			grep -q '; [1-9][0-9.]*% of what was to be lent to the GPU was updated there' "$dir/$name-$place.out"
	done
}
same_anywhere committed 1 --clip-grad 0
same_anywhere clipped 2 --bf16 --clip-grad 2.23 --hidden-dropout 0.1
same_anywhere overflown 3 --fp16 --clip-grad 0 --initial-scale-power 20 --loss-scale-window 5 --hysteresis 1 \
	--global-batch-size 4 --checkpoint-activations

# The optimizer's timers: each at work in the offloaded run, none for longer than it lasted; nothing crosses the link of
# the other.
timers() { # RUN AWK-CONDITION: on the run's sums, in ms
	sed -n '/"type": "train"/s/.*"ms": \([^,]*\),.*_gradients": \([^,]*\), .*_step": \([^,]*\), .*_allgather": \([^}]*\)}/\1 \2 \3 \4/p' \
		"$dir/$1/metrics.jsonl" | awk '{ wall += $1; gradients += $2; step += $3; allgather += $4; n++ }
		END { printf "# '"$1"': %.1f ms, gradients %.2f, step %.2f, allgather %.2f\n", wall, gradients, step, allgather
			exit !(n == 16 && gradients > 0 && step > 0 && '"$2"') }'
}
test_that "timers of the optimizer on the host" timers committed-cpu 'allgather > 0 && gradients < wall && step < wall && allgather < wall'
test_that "... and on the GPU" timers committed-gpu 'allgather == 0 && gradients + step < wall'

# ---- layers' inputs on the host; the GPU's memory is what was said ----

inputs="--fp16 --num-layers 4 --checkpoint-activations --global-batch-size 4 --train-iters 3 --eval-interval 2 --eval-iters 1 --save-interval 0"
shape=${shape/--num-layers 1/} on_gpu inputs-there $inputs
shape=${shape/--num-layers 1/} on_gpu inputs-here $inputs --cpu-checkpointing --cpu-optimizer
test_that "--cpu-checkpointing: the same weights and moments, byte for byte" same_tensors inputs-here inputs-there step-00000003
said=$(sed -n 's/^ > memory of the GPU: \([0-9]*\)\.[0-9] MiB .*/\1/p' "$dir/inputs-here.out")
shape=${shape/--num-layers 1/} FERRY_FORECAST_FROM=0 FERRY_EMU_MEMORY=$((said + 2)) on_gpu inputs-tight $inputs --cpu-checkpointing --cpu-optimizer
test_that "$said MiB were said to be needed: a GPU of 2 more is enough" same_tensors inputs-tight inputs-there step-00000003
test_that "... for what is measured at the end too: $(sed -n 's/^a step took.*foretells/a step is foretold to take/p' "$dir/inputs-tight.out")" \
	grep -qE '^a step took [0-9.]+ ms .mean of 1.; `ferry plan` foretells [0-9]*[1-9.]+[0-9]* ms, bound by ' "$dir/inputs-tight.out"
shape=${shape/--num-layers 1/} FERRY_EMU_MEMORY=$((said - 1)) on_gpu inputs-lack $inputs --cpu-checkpointing --cpu-optimizer
test_that "one of 1 less is refused at once" grep -q "of the GPU's memory and .* are free" "$dir/inputs-lack.out"
shape=${shape/--num-layers 1/} on_gpu inputs-limited $inputs --cpu-checkpointing --cpu-optimizer --device-memory $((said + 1))M
test_that "--device-memory, 1 more on a GPU that has plenty: no more is planned with, in the same bytes" eval 'same_tensors inputs-limited inputs-there step-00000003 &&
	grep -qE "memory of the GPU: [0-9.]+ MiB .*; $((said + 1)).0 MiB available" "$dir/inputs-limited.out"'
shape=${shape/--num-layers 1/} on_gpu inputs-denied $inputs --cpu-checkpointing --cpu-optimizer --device-memory $((said - 1))M
test_that "... and 1 less is refused at once" grep -q "of the GPU's memory and .* are allowed by --device-memory" "$dir/inputs-denied.out"
test_that "the log has the moments where they are" eval 'grep -q "memory of the GPU: .*moments" "$dir/inputs-there.out" &&
	! grep -q "memory of the GPU: .*moments" "$dir/inputs-here.out" && grep -q "memory of the host: .*moments" "$dir/inputs-here.out"'

shape=${shape/--num-layers 1/} on_gpu pieces-there $inputs --layer-batch-size 1 &
shape=${shape/--num-layers 1/} FERRY_EMU_MEMORY=$((said + 2)) on_gpu pieces-here $inputs --layer-batch-size 1 --cpu-checkpointing --cpu-optimizer
wait
test_that "--layer-batch-size: offloaded or not, the same weights and moments" same_tensors pieces-here pieces-there step-00000003
close() { awk -v a="$(losses "$1" | tail -n 1)" -v b="$(losses "$2" | tail -n 1)" 'BEGIN { split(a, x); split(b, y)
	exit !(x[1] == 3 && x[1] == y[1] && (x[2] - y[2]) ^ 2 < (1e-3 * y[2]) ^ 2) }'; }
test_that "... and the losses of all windows at a time" close pieces-here inputs-there

# Every flag that moves or shrinks something, at once (test_offload_training has each by itself).
wide="--num-layers 6 --hidden-size 128 --batch-size 1 --fp16 --eval-interval 0 --save-interval 0"
all="$wide --train-iters 2 --checkpoint-activations --cpu-checkpointing --optimizer-on 0.4 --delayed-update --half-gradients --logits-memory 1M"
without() { shape=$(sed -E 's/--(num-layers|hidden-size|batch-size) [0-9]+//g' <<<"$shape") on_gpu "$@"; }
without all-said $all
said=$(sed -n 's/^ > memory of the GPU: \([0-9]*\)\.[0-9] MiB .*/\1/p' "$dir/all-said.out")
FERRY_EMU_MEMORY=$((said + 2)) without all-tight $all
test_that "all of them: $said MiB were said to be needed, 2 more are enough" same_tensors all-tight all-said step-00000002
FERRY_EMU_MEMORY=$((said - 1)) without all-lack $all
test_that "... and 1 less is refused at once" grep -q "of the GPU's memory and .* are free" "$dir/all-lack.out"
logits="--num-layers 1 --hidden-size 16 --batch-size 128 --train-iters 1 --eval-interval 0 --save-interval 0"
FERRY_EMU_MEMORY=68 without logits-lack $logits
test_that "a batch that is too large is refused" grep -q "of the GPU's memory and .* are free" "$dir/logits-lack.out"
FERRY_EMU_MEMORY=68 without logits-less $logits --logits-memory 1M
test_that "... and fits with --logits-memory" [ $? = 0 ]

# ---- what the GPU's attention does not take is refused at once ----

without wide-heads --num-layers 1 --hidden-size 514 --batch-size 1 --train-iters 1
test_that "heads of more than 256 elements, before anything is made" [ $? = 1 -a ! -e "$dir/wide-heads" ]
test_that "... with what to do" grep -q "heads of 257 elements .* --device cpu" "$dir/wide-heads.out"
shape=${shape/--hidden-size 16/--hidden-size 514} train wide-heads --device cpu --train-iters 1 --eval-interval 0
run evaluate --load "$dir/wide-heads" --data "$dir/corpus" --device gpu
test_that "... nor does evaluate take them there" eval '[ $code = 1 ] && err_has "heads of 257 elements"'
shape=${shape/--max-position-embeddings 16/} train long --device cpu --max-position-embeddings 10250 --train-iters 1 --eval-interval 0
run generate --load "$dir/long" --device gpu --out-seq-length 10241
test_that "a text of more than 10,240 tokens, before the first of them" [ $code = 1 -a ! -s "$dir/out" ]
test_that "... with what to do" err_has "smaller --out-seq-length"
run generate --load "$dir/long" --device gpu --out-seq-length 5
test_that "... and a shorter one by that model is written" [ $code = 0 ]

# ---- auto ----

auto() { sed -n "s/^ > --optimizer-on auto: //p" "$dir/$1.out"; }
without auto-all $wide --train-iters 3
test_that "auto: all on the GPU where it fits" [ "$(auto auto-all)" = "on the GPU, where all of it fits" ]
FERRY_EMU_TAKEN=4016 without auto-some $wide --train-iters 3
test_that "auto where it does not: $(auto auto-some)" grep -q 'auto: .*% on the GPU, .* ms a step foretold' "$dir/auto-some.out"
test_that "... which shows in no bit" same_tensors auto-some auto-all step-00000003
without auto-delayed $wide --train-iters 3 --delayed-update
test_that "... and is not left to it with a delay, where it would" grep -q -- "--delayed-update .* --optimizer-on SHARE" "$dir/auto-delayed.out"
run train --load "$dir/all-said" --train-iters 3 --device gpu $GPU_FLAGS
test_that "a delayed run goes on with the optimizer where it was" [ $code = 0 -a -d "$dir/all-said/step-00000003" ]
run train --load "$dir/all-said" --train-iters 4 --optimizer-on gpu --device gpu $GPU_FLAGS
test_that "... not elsewhere, for a flag that nobody typed now: where it comes from, and the cure" [ $code = 2 -a \
	"$(grep -c -- '--delayed-update is not on this command line: .*step-00000003/trainer.json.*--finetune' "$dir/err")" = 1 ]

# ---- races ----

# NAME FLAGS...: on the device and in the program that the thread sanitizer watches.
races_not() {
	local shape=${shape/--threads 1/--threads 3} ferry=$B/tsan/ferry FERRY_CUDA=$B/emu/tsan/ferry-cuda.so
	TSAN_OPTIONS=halt_on_error=1 on_gpu "$@" --train-iters 6 --eval-interval 3 --eval-iters 1 --save-interval 3
	code=$?
	cp "$dir/$1.out" "$dir/err"
	test_that "$1: no race ($(outcomes "$1"))" [ $code = 0 -a -d "$dir/$1/step-00000006" ]
}
B=${B:-build}
if [ -x "$B/tsan/ferry" ] && [ -e "$B/emu/tsan/ferry-cuda.so" ]; then
	races_not watched-fp16 --optimizer-on 0.4 --clip-grad 0 --fp16 --initial-scale-power 20 --loss-scale-window 2 --hysteresis 1 \
		--global-batch-size 4 --checkpoint-activations --layer-batch-size 1
	races_not watched-delayed --cpu-optimizer --delayed-update --bf16
else
	echo "ok - # SKIP races: the program is not built under the thread sanitizer"
fi

# ---- CPU, GPU, CPU ----

moved="--train-iters 30 --eval-interval 0 --save-interval 0"
train whole $moved --device cpu
train moved $moved --device cpu --exit-interval 10
run train --load "$dir/moved" --device gpu --exit-interval 20 $GPU_FLAGS
test_that "a run of the CPU goes on on the GPU" [ $code = 0 ]
run train --load "$dir/moved" --device cpu
test_that "and on the CPU again" [ $code = 0 ]
test_that "with the losses of the CPU alone" follows moved whole 30 1e-5

# ---- evaluate, generate ----

for device in cpu gpu; do
	run evaluate --load "$dir/cpu-fp32" --data "$dir/corpus" --on valid --device $device --json
	test_that "evaluate on the $device" [ $code = 0 ]
	cp "$dir/out" "$dir/evaluated-$device"
	run generate --load "$dir/cpu-fp32" --device $device --prompt "w1 w2" --out-seq-length 12 --temperature 0
	test_that "generate on the $device" [ $code = 0 ]
	cp "$dir/out" "$dir/text-$device"
done
loss() { grep -o '"loss": *[0-9.]*' "$dir/evaluated-$1" | grep -o '[0-9.]*$'; }
test_that "evaluate: the CPU's loss, $(loss cpu), on the GPU $(loss gpu)" \
	awk -v a="$(loss cpu)" -v b="$(loss gpu)" 'BEGIN { exit !(a > 0 && (a - b) ^ 2 <= (1e-5 * a) ^ 2) }'
test_that "generate: the CPU's text" cmp "$dir/text-cpu" "$dir/text-gpu"

# ---- each allocation fails once ----

failures=0 allocation=1
while :; do
	FERRY_CUDNN=$FERRY_CUDA FERRY_EMU_CAPABILITY=90 FERRY_EMU_FAIL_ALLOC=$allocation run train --train-data "$dir/corpus" --save none $shape \
		--train-iters 1 --eval-interval 0 --attention-dropout 0 --device gpu --bf16 $GPU_FLAGS
	[ $code = 0 ] && break
	err_has emulator && break # a leak, or worse
	grep -qi 'memory' "$dir/err" || break
	failures=$((failures + 1)) allocation=$((allocation + 1))
done
test_that "$failures allocations failed, each with a message and nothing leaked" [ $code = 0 -a $failures -ge 10 ]

exit $status
