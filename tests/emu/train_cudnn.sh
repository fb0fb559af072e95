#!/bin/bash
# train_cudnn.sh: `ferry train` without dropout in attention, on an emulated device that cuDNN (its stand-in,
# tests/emu/cudnn.cc) has attention for: it follows the CPU; its checkpoint says which way attention took, and a run goes on
# so, whatever ranks first now; where that way is not to be had, it says so; what fails in cuDNN before a step is no harm, and
# in a step ends in a message; no thread of it races.
source tests/cli/tap.bash
export FERRY_CUDA=${FERRY_CUDA:-build/emu/ferry-cuda.so}
export FERRY_CUDNN=$FERRY_CUDA FERRY_EMU_CAPABILITY=90
source tests/emu/corpus.bash
shape="--train-data $dir/corpus --num-layers 1 --hidden-size 16 --num-attention-heads 2 --seq-length 16 --max-position-embeddings 16
	--batch-size 2 --lr 1e-2 --split 80,15,5 --threads 1 --attention-dropout 0 --eval-interval 0 --save-interval 0"
train() { # NAME FLAGS...: a run in $dir/NAME
	"$ferry" train $shape --save "$dir/$1" "${@:2}" >"$dir/$1.out" 2>&1 </dev/null
}
losses() { sed -n 's/^{"step": \([0-9]*\), "type": "train", "loss": \([^,]*\), .*/\1 \2/p' "$dir/$1/metrics.jsonl"; }
follows() { # RUN REFERENCE STEPS SHARE: nowhere further apart, and it has learned
	paste -d ' ' <(losses "$1") <(losses "$2") | awk -v steps="$3" -v share="$4" '
		$1 == $3 { n++; d = ($2 / $4 - 1) ^ 2; if (!(d <= worst)) worst = d; if (n == 1) first = $2; last = $2 }
		END { exit !(n == steps && worst <= share ^ 2 && last < first * 0.9) }'
}
same() { # RUN REFERENCE STEP: the same weights and moments
	local file
	for file in model.safetensors optimizer.safetensors; do
		cmp "$dir/$1/$3/$file" "$dir/$2/$3/$file" >"$dir/err" 2>&1 || return 1
	done
}
ways() { grep -o '"attention-1 [^"]*"' "$dir/$1/$2/trainer.json"; } # RUN STEP

# ---- it follows the CPU ----

fp16="--fp16 --initial-scale-power 20 --loss-scale-window 10 --hysteresis 1"
for type in "bf16 1e-2 --bf16" "fp16 2e-3 $fp16"; do
	read -r name share flags <<<"$type"
	train "cpu-$name" $flags --train-iters 40 --device cpu &
	train "gpu-$name" $flags --train-iters 40 --device gpu
	wait
	test_that "$name: 40 steps by cuDNN follow the CPU's" follows "gpu-$name" "cpu-$name" 40 "$share"
	test_that "... forward and backward, as the checkpoint says" [ "$(ways "gpu-$name" step-00000040 | grep -c ' cudnn 91900 ')" = 2 ]
done
test_that "... as the log says" grep -q 'cuDNN 9\.19\.0' "$dir/gpu-bf16.out"
test_that "fp16 overflowed, and steps were skipped" grep -q '"skipped": 1' "$dir/gpu-fp16/metrics.jsonl"

# ---- the way is chosen once ----

steps="--bf16 --device gpu --train-iters 8"
train straight $steps &
FERRY_EMU_CUDNN_FIRST=2 train second $steps
wait
test_that "another of cuDNN's engines, other bits" eval '! same second straight step-00000008'
goes_on() { # NAME WORD...: to step 4, and on in an environment
	train "$1" $steps --exit-interval 4
	env "${@:2}" "$ferry" train --load "$dir/$1" --device gpu >"$dir/$1.out" 2>&1 </dev/null
}
goes_on recorded FERRY_EMU_CUDNN_FIRST=2 &
goes_on without FERRY_CUDNN=off &
goes_on lacking FERRY_EMU_CUDNN_LACKS=0 &
goes_on newer FERRY_EMU_CUDNN_VERSION=92000
wait
test_that "a run goes on with the engine that it began with, though another ranks first now" same recorded straight step-00000008
test_that "... and says the same of it" cmp <(ways recorded step-00000008) <(ways straight step-00000008)
for run in without lacking newer; do
	test_that "$run: what is not to be had is said to be chosen anew" grep -q 'of the [0-9]* algorithms .* not to be had here' "$dir/$run.out"
	test_that "... and the run goes on, in other bits" [ -d "$dir/$run/step-00000008" ]
	test_that "... which are near" follows "$run" straight 8 1e-2
done
test_that "... by ferry's own kernels where cuDNN is off" [ "$(ways without step-00000008 | grep -c cudnn)" = 0 ]

# ---- where cuDNN is not taken ----

FERRY_EMU_CAPABILITY=80 train older $steps &
shape=${shape/--attention-dropout 0/--attention-dropout 0.1} train dropping $steps &
FERRY_CUDNN=$dir/nothing train absent $steps &
FERRY_EMU_CUDNN_VERSION=90000 train old $steps
wait
FERRY_CUDNN=off train off $steps
for run in older absent old; do
	test_that "$run: the bits of ferry's own kernels" same $run off step-00000008
done
test_that "... which are not cuDNN's" eval '! same off straight step-00000008'
test_that "with dropout nothing is by cuDNN" [ -d "$dir/dropping/step-00000008" -a "$(ways dropping step-00000008 | grep -c cudnn)" = 0 ]
test_that "the log says why there is no cuDNN" grep -q "no cuDNN: .*nothing: cannot open" "$dir/absent.out"
test_that "... or that it is too old" grep -q "attention by .*cuDNN 9.0.0 is too old" "$dir/old.out"

# ---- what fails ----

failed="create:0 graph:0 heuristic:0 plan:0"
steps="--bf16 --device gpu --train-iters 2"
for what in $failed; do
	FERRY_EMU_CUDNN_FAIL=$what train "fail-$what" $steps &
done
wait
for what in $failed; do
	test_that "cuDNN fails at first ($what): ferry's own kernels do it" [ -d "$dir/fail-$what/step-00000002" ]
	test_that "... and the checkpoint says so" [ "$(ways "fail-$what" step-00000002 | grep -c ' cudnn ')" = 0 ]
done
test_that "... and the log why, where there is no handle" grep -q "cuDNN 9.19.0 does not start: CUDNN_STATUS_NOT_INITIALIZED" "$dir/fail-create:0.out"
said() { # RUN DIRECTION REASON: once, that this direction is not by cuDNN
	[ "$(grep -c "the $2 of attention, .* is by ferry's own kernels and not by cuDNN 9.19.0: $3" "$dir/$1.out")" = 1 ]
}
for what in graph heuristic plan; do
	test_that "... or no plan ($what)" eval 'said fail-$what:0 forward ".*as it was told to" && said fail-$what:0 backward ".*as it was told to"'
done
FERRY_CUDA_ATTENTION_KB=4 train too-little $steps &
FERRY_EMU_CUDNN_WORKSPACE=200000 train too-much $steps &
shape=${shape/--hidden-size 16/--hidden-size 24} train odd-heads $steps &
FERRY_EMU_CAPABILITY=100 train later-gpu $steps &
wait
test_that "a backward that may take no memory: ferry's own kernels, and the log says why" said too-little backward "no number of sequences .* 4096 bytes"
test_that "... or that takes more than is counted for this shape" said too-much backward "a plan takes [0-9]* bytes of workspace, [0-9]* are allowed"
test_that "... and nobody says that of the forward" eval '! said too-little forward && ! said too-much forward'
test_that "heads of 12 elements are not cuDNN's, and the log says so" said odd-heads forward "12 is no multiple of 8"
FERRY_CUDNN=off train own $steps --exit-interval 1
"$ferry" train --load "$dir/own" --device gpu >"$dir/own.out" 2>&1 </dev/null
test_that "on compute capability 10.0 the backward is not cuDNN's, and the log says why" said later-gpu backward "it is not known to give the same bits"
test_that "... and the forward is" [ "$(ways later-gpu step-00000002 | grep -c ' cudnn ')" = 1 ]
test_that "a run by ferry's own kernels goes on so where cuDNN is found now, and the log says so" said own forward "so it was in the run that goes on"
test_that "where all is by cuDNN nothing is said" eval '! grep -q "own kernels" "$dir/straight.out"'
FERRY_EMU_CUDNN_FAIL=plan:1 train next-engine $steps
test_that "a plan that cannot be made: the engine that ranks next" [ "$(ways next-engine step-00000002 | grep -c ' cudnn 91900 [02] ')" = 2 ]
FERRY_EMU_CUDNN_FAIL=execute:3 train fail-execute $steps
test_that "cuDNN fails in a step: the run ends with what cuDNN says, and the cure" [ $? -ne 0 -a \
	"$(grep -c '^ferry train: .*cuDNN .*CUDNN_STATUS_EXECUTION_FAILED: an execution fails.*FERRY_CUDNN=off' "$dir/fail-execute.out")" = 1 ]
test_that "... and nothing is left behind" eval '! grep -q "emulator:" "$dir/fail-execute.out"'

# ---- races ----

B=${B:-build}
if [ -x "$B/tsan/ferry" ] && [ -e "$B/emu/tsan/ferry-cuda.so" ]; then
	watched=$(realpath "$B/emu/tsan/ferry-cuda.so")
	FERRY_CUDA=$watched FERRY_CUDNN=$watched TSAN_OPTIONS=halt_on_error=1 ferry=$B/tsan/ferry shape=${shape/--threads 1/--threads 3} \
		train watched --bf16 --device gpu --train-iters 4 --optimizer-on 0.4 --clip-grad 0 --checkpoint-activations
	test_that "no thread of it races" [ $? = 0 -a -d "$dir/watched/step-00000004" ]
	test_that "... by cuDNN" [ "$(ways watched step-00000004 | grep -c ' cudnn ')" = 2 ]
else
	echo "ok - # SKIP races: the program is not built under the thread sanitizer"
fi
exit $status
