#!/bin/bash
# train_kill.sh [KILLS [mixed|ranks|offload]]: `ferry train`, ended with kill -9 at random moments and told to go on each time, must end in
# the bytes of a run that was never stopped: weights, moments, the rest of the state, and metrics without a gap or
# a repetition. mixed: of two corpora, one of them used up and begun again. ranks: two ranks under mpirun, of which one is
# killed, or mpirun itself. offload: the same on emulated devices, with the optimizer in the hosts' memory.
. "$(dirname "$0")/kill.bash"
. "$(dirname "$0")/../cli/mpirun.bash"
kills=${1:-50}
awk 'BEGIN { srand(3); for (d = 0; d < 200; d++) { s = ""; for (i = 0; i < 60 + d % 50; i++) s = s " w" int(rand() * 40); print "{\"text\": \"" s "\"}" } }' >"$dir/text.jsonl"
"$ferry" preprocess "$dir/text.jsonl" --output "$dir/corpus" >/dev/null 2>"$dir/err" || fail "preprocess"
data=("$dir/corpus")
if [ "${2:-}" = mixed ]; then
	sed -n '1,8s/w/v/gp' "$dir/text.jsonl" >"$dir/other.jsonl"
	"$ferry" preprocess "$dir/other.jsonl" --output "$dir/other" >/dev/null 2>"$dir/err" || fail "preprocess"
	data=(0.7 "$dir/corpus" 0.3 "$dir/other")
fi
launcher=()
if [ "${2:-}" = ranks ] || [ "${2:-}" = offload ]; then
	need_ranks
	launcher=(mpirun -n 2)
fi

# Dropout, accumulation, half precision with a scale that overflows: all that a resume must carry.
steps=60
flags="--num-layers 1 --hidden-size 16 --num-attention-heads 2 --seq-length 32 --max-position-embeddings 32 --batch-size 1
	--global-batch-size 2 --train-iters $steps --fp16 --initial-scale-power 22 --loss-scale-window 5 --hysteresis 1 --lr 1e-2
	--save-interval 3 --eval-interval 10 --eval-iters 1 --log-interval 7 --threads 1 --split 80,15,5"
if [ "${2:-}" = offload ]; then
	export FERRY_CUDA=${FERRY_CUDA:-build/emu/ferry-cuda.so} FERRY_NCCL=off FERRY_EMU_LEAKS=0
	flags+=" --device gpu --cpu-optimizer"
	[ -e "$FERRY_CUDA" ] || { echo "ok - training on emulated devices # SKIP make emu"; exit 0; }
fi
start() { # RUN FLAGS...: in the background; pid
	"${launcher[@]}" "$ferry" train --train-data "${data[@]}" --save "$1" $flags "${@:2}" >"$dir/out" 2>"$dir/err" </dev/null &
	pid=$!
}
train() { # RUN FLAGS...
	start "$@"
	wait $pid
}
losses() { sed -n 's/^{"step": \([0-9]*\), "type": "train", "loss": \([^,]*\), .*/\1 \2/p' "$1/metrics.jsonl"; }
last=$(printf 'step-%08d' $steps)
compare() { # RUN
	local file leftovers
	for file in model.safetensors optimizer.safetensors trainer.json config.json vocab.json; do
		[ -s "$dir/straight/$last/$file" ] || fail "$file is missing"
		cmp -s "$dir/straight/$last/$file" "$1/$last/$file" || fail "after $killed kills $file differs"
	done
	[ "$(readlink "$dir/straight/best")" = "$(readlink "$1/best")" ] || fail "after $killed kills best differs"
	cmp -s <(losses "$dir/straight") <(losses "$1") || fail "after $killed kills metrics.jsonl differs"
	leftovers=$(find "$1" -maxdepth 1 -name '*.tmp-*' | wc -l)
	[ "$leftovers" = 0 ] || fail "$leftovers temporaries are left"
}

killed=0 ended=0
milliseconds train "$dir/straight" || fail "a run that is not stopped"
[ "$(losses "$dir/straight" | wc -l)" = $steps ] || fail "metrics of the straight run"
grep -q '"skipped": 1' "$dir/straight/metrics.jsonl" || fail "no overflow was met: the test is too easy"

run=$dir/run
load_flags() { compgen -G "$run/step-????????" >/dev/null && echo "--load $run"; }
victim() { # a process of what was started
	local all
	mapfile -t all < <(echo $pid; [ ${#launcher[@]} = 0 ] || pgrep -P $pid)
	echo "${all[RANDOM % ${#all[@]}]}"
}
# Ranks that lost their launcher take a moment to end.
wait_for_ranks() {
	local i
	for i in $(seq 200); do
		[ ! -e "$run/lock" ] || flock -n "$run/lock" true && return
		sleep 0.05
	done
	fail "a rank goes on after its launcher was killed"
}
while [ $killed -lt "$kills" ]; do
	start "$run" $(load_flags)
	# In a quarter of a whole run's time: some starts die before the first step, some in a save, some late. (Of ranks,
	# which take a while to meet, in all of it.)
	wait_ms $((RANDOM % (span / (${#launcher[@]} ? 1 : 4) + 20) + 1))
	if kill -9 "$(victim)" 2>/dev/null; then
		{ wait $pid; } 2>/dev/null
		code=$?
		wait_for_ranks
		[ $code = 137 ] && killed=$((killed + 1)) && continue
		[ $code = 0 ] || fail "a start ends with exit code $code"
	else
		wait $pid || fail "a start that was not killed fails"
	fi
	ended=$((ended + 1))
	compare "$run"
	rm -rf "$run"
done
train "$run" $(load_flags) || fail "the last start fails"
compare "$run"
echo "ok - train${2:+, $2}: $killed times killed in $((ended + 1)) runs, each ended in the bytes of a run that was not"
