#!/bin/bash
# train_ranks.sh: two ranks of `ferry train`, each with an emulated device of its own, train as one does: the same losses
# but for rounding, and the same bytes when they go on, by NCCL (its stand-in, tests/emu/nccl.cc) and through the host; their
# run moves to the processor of one process. What fails in NCCL on one of them ends both, with its message.
source tests/cli/tap.bash
source tests/cli/mpirun.bash
need_ranks
export FERRY_CUDA=${FERRY_CUDA:-build/emu/ferry-cuda.so}
export FERRY_NCCL=$FERRY_CUDA FERRY_EMU_DEVICES=2
source tests/emu/corpus.bash
shape="--train-data $dir/corpus --num-layers 1 --hidden-size 16 --num-attention-heads 2 --seq-length 16 --max-position-embeddings 16 --batch-size 2
	--global-batch-size 4 --lr 1e-2 --split 80,15,5 --threads 1 --train-iters 20 --eval-interval 10 --eval-iters 1 --device gpu --save-interval 0"
ranks() { # ARGUMENTS...: code, out, err
	timeout -k 5 60 mpirun -n 2 "$ferry" train "$@" >"$dir/out" 2>"$dir/err" </dev/null
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
test_that "... by NCCL, as the log says" out_has "gradients and weights go from GPU to GPU by NCCL 2."
test_that "... overflows are skipped by both" grep -q '"skipped": 1' "$dir/two-fp16/metrics.jsonl"
ranks $shape --fp16 --initial-scale-power 20 --loss-scale-window 5 --hysteresis 1 --save "$dir/half" --exit-interval 9
cp -r "$dir/half" "$dir/moved"
FERRY_EMU_DEVICES=1 ranks --load "$dir/half" --device gpu
test_that "with one GPU they exchange through the host, and that is said once" [ "$(grep -c 'through host memory (ranks 0 and 1 have one GPU between them)' "$dir/out")" -eq 1 ]
same() { # RUN
	local file
	for file in model.safetensors optimizer.safetensors trainer.json; do
		cmp "$dir/two-fp16/step-00000020/$file" "$dir/$1/step-00000020/$file" || return 1
	done
}
test_that "... and go on so from what they did by NCCL, to the same bytes" same half
run train --load "$dir/moved" --device cpu
test_that "their run goes on in one process, on the processor" follows moved one-fp16 1e-2
ranks $shape --fp16 --initial-scale-power 20 --loss-scale-window 5 --hysteresis 1 --save "$dir/host" --optimizer-on cpu --exit-interval 9
cp -r "$dir/host" "$dir/back"
timeout -k 5 60 mpirun -n 1 "$ferry" train --load "$dir/host" --optimizer-on 0.4 : -n 1 env FERRY_NCCL=off "$ferry" train --load "$dir/host" --optimizer-on 0.4 \
	>"$dir/out" 2>"$dir/err" </dev/null
test_that "where one of them has no NCCL, both go through the host" out_has "through host memory (rank 1: no NCCL: FERRY_NCCL=off)"
test_that "the optimizer in the host's memory, all of it and then a part, is said" grep -qE "optimizer: 60(\.[0-9])?% of a rank's parameters on the host" "$dir/out"
test_that "... and gives the same bytes" same host
run train --load "$dir/back"
test_that "what two left there goes on in one process" follows back one-fp16 1e-3
halves="$shape --fp16 --half-gradients --initial-scale-power 12"
run train $halves --save "$dir/one-halves"
ranks $halves --save "$dir/halves"
test_that "gradients in fp16: two devices train as one" follows halves one-halves 2e-3
test_that "... by NCCL" out_has "from GPU to GPU by NCCL 2."
FERRY_NCCL=off ranks $halves --cpu-optimizer --save "$dir/halves-host"
test_that "... through the host, with the optimizer there: the same bytes" \
	cmp "$dir/halves/step-00000020/model.safetensors" "$dir/halves-host/step-00000020/model.safetensors"

# ---- what one stream leaves to another, between the model, the exchange and the offload ----
B=${B:-build}
if [ -x "$B/tsan/ferry" ] && [ -e "$B/emu/tsan/ferry-cuda.so" ]; then
	watched=$(realpath "$B/emu/tsan/ferry-cuda.so")
	shorter=${shape/--train-iters 20 --eval-interval 10/--train-iters 9 --eval-interval 5}
	# MPI takes its locks in several orders.
	FERRY_CUDA=$watched FERRY_NCCL=$watched FERRY_MPI=${FERRY_MPI:-$(realpath "$(dirname "$ferry")/ferry-mpi.so")} \
		TSAN_OPTIONS="halt_on_error=1 detect_deadlocks=0" ferry=$B/tsan/ferry \
		ranks ${shorter/--num-layers 1/--num-layers 2} --bf16 --optimizer-on 0.4 --save "$dir/watched"
	test_that "no thread of two ranks races" [ $code -eq 0 -a -d "$dir/watched/step-00000009" ]
	test_that "... by NCCL" out_has "from GPU to GPU by NCCL 2."
else
	echo "ok - # SKIP races of ranks: the program is not built under the thread sanitizer"
fi

# ---- what fails in NCCL ----
fail() { # NAME WHAT: in the background; NAME.code, NAME.err
	FERRY_EMU_NCCL_FAIL=$2 timeout -k 5 60 mpirun -n 2 "$ferry" train $shape --save "$dir/$1" >/dev/null 2>"$dir/$1.err" </dev/null
	echo $? >"$dir/$1.code"
}
ends_all() { # NAME TEXT: it ended by itself, with an error that has the text
	local code
	code=$(<"$dir/$1.code")
	cp "$dir/$1.err" "$dir/err"
	[ "$code" -gt 0 ] && [ "$code" -lt 124 ] && grep -qE "^ferry train: $2" "$dir/err"
}
fail send send:1:40 & fail link link:0:9 & fail init init:1:1 &
wait
test_that "a send that fails on one rank ends both" ends_all send 'rank 1: GPU 1: NCCL [0-9.]*: a[n]? .*: unhandled system error: .*; with FERRY_NCCL=off'
test_that "... so do broken connections, which the waits find" ends_all link 'rank [01]: GPU [01]: NCCL [0-9.]*: gradients and weights on their way: remote process exited'
test_that "... and a rank that cannot join" ends_all init 'rank 1: GPU 1: NCCL [0-9.]*: ncclCommInitRank: unhandled system error'

# ---- NCCL itself, as far as it comes without a GPU: it loads and invites, and says what it lacks ----
real=$(ldconfig -p 2>/dev/null | sed -n 's/.*libnccl\.so\.2 .*=> //p' | head -n 1)
[ -n "$real" ] || real=$(ls /usr/local/cuda/lib64/libnccl.so.2 2>/dev/null)
if [ -z "$real" ] || [ -e /dev/nvidiactl ]; then
	echo "ok - the real NCCL # SKIP it is not here, or a GPU is, which the emulated device is not"
else
	FERRY_NCCL=$real ranks $shape --save "$dir/real"
	test_that "the real NCCL is found, and its word that there is no driver ends all" \
		[ $code -eq 1 -a "$(grep -cE 'GPU [01]: NCCL 2\.[0-9.]*: ncclCommInitRank: unhandled cuda error.*driver' "$dir/err")" -ge 1 ]
fi
exit $status
