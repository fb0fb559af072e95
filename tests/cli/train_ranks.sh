#!/bin/bash
# `ferry train` under mpirun: the log, files and losses of one process, whatever the number of ranks; what ends one rank
# ends all, and harms nothing.
. "$(dirname "$0")/tap.bash"
. "$(dirname "$0")/mpirun.bash"
root=$(cd "$(dirname "$0")/../.." && pwd)
case $ferry in /*) ;; *) ferry=$root/$ferry ;; esac
need_ranks
cd "$dir" || exit 1
awk 'BEGIN { srand(3); for (d = 0; d < 200; d++) { s = ""; for (i = 0; i < 60 + d % 50; i++) s = s " w" int(rand() * 40); print "{\"text\": \"" s "\"}" } }' >text.jsonl
"$ferry" preprocess text.jsonl --output text >/dev/null 2>&1
tiny="--num-layers 1 --hidden-size 16 --num-attention-heads 2 --seq-length 32 --max-position-embeddings 32 --batch-size 1 --global-batch-size 4
	--threads 1 --split 80,15,5 --lr 1e-2"
quick="--train-data text $tiny --train-iters 12 --eval-iters 1 --eval-interval 6 --log-interval 3 --save-interval 0"
ranks() { # RANKS ARGUMENTS...: code, out, err
	timeout -k 5 60 mpirun -n "$1" "$ferry" "${@:2}" >out 2>err </dev/null
	code=$?
}
losses() { sed -n 's/^{"step": \([0-9]*\), "type": "\(train\|valid\|test\)", "loss": \([^,]*\), .*/\1 \2 \3/p' "$1/metrics.jsonl"; }
like() { # RUN RUN: the same lines, losses within rounding
	paste <(losses "$1") <(losses "$2") | awk '$1 != $4 || $2 != $5 || ($3 - $6) ^ 2 > 1e-10 { bad++ } END { exit bad > 0 || NR != 15 }'
}
same() { # RUN RUN: the same bytes
	local file
	for file in model.safetensors optimizer.safetensors trainer.json; do
		cmp "$1/step-00000012/$file" "$2/step-00000012/$file" || return 1
	done
}

# ---- the same run, on one rank, on two, and on other numbers from the middle ----
"$ferry" train $quick --save alone >alone.log 2>/dev/null
ranks 2 train $quick --save two
test_that "two ranks train" [ $code -eq 0 ]
cp out two.log
test_that "... with the losses of one process, validation's too" like alone two
shape() { grep -vE 'memory|on the CPU|ranks on|^  (device|save) |^saved' "$1" | sed -E 's/[0-9.]+(E[-+][0-9]+)?/N/g; s/^ > CPU.*/CPU/; s/(alone|two)/RUN/g'; }
test_that "... and the log of one process, once" diff <(shape alone.log) <(shape two.log)
test_that "... which says how many they are" grep -qE '^ > 2 ranks on 1 host, MPI \(.*\); a step is 2 windows on each$' two.log
test_that "... as the checkpoint does" grep -qE '"ranks":\s*2' two/step-00000012/trainer.json
ranks 2 train $quick --save half --exit-interval 5
test_that "--exit-interval ends all at one step" [ $code -eq 0 -a -d half/step-00000005 ]
cp -r half other && cp -r half single
ranks 2 train --load half
test_that "two ranks go on, to the same bytes" same two half
ranks 4 train --load other
test_that "four ranks go on from what two saved" [ $code -eq 0 -a "$(grep -c 'made by 2 ranks, this is 4' out)" -eq 1 ]
test_that "... with the same losses" like alone other
run train --load single
test_that "and so does one process" like alone single
test_that "ranks that may run on all processors are told nothing of them" [ "$(grep -c 'has bound' two.log)" -eq 0 ]
if [ "$(nproc)" -gt 1 ]; then
	timeout -k 5 60 mpirun -n 2 taskset -c "$(taskset -cp $$ | sed 's/.*: *\([0-9]*\).*/\1/')" "$ferry" train $quick --save none >out 2>err </dev/null
	test_that "... but of a launcher that binds them to one" [ "$(grep -c "bound the ranks of this host to 1 of $(nproc) processors" out)" -eq 1 ]
fi

# ---- evaluate ----
run evaluate --load alone --data text --on all --batch-size 3 --threads 1 --json
result() { sed 's/"ranks.*//' "$1"; }
result out >one
for n in 2 3; do
	ranks $n evaluate --load alone --data text --on all --batch-size 3 --threads 1 --json
	test_that "$n ranks evaluate, to the same bits, told once" eval '[ $code -eq 0 -a -s one ] && diff one <(result out) && grep -q "\"ranks\":'$n'," out'
done
cp -r alone damaged && printf x | dd of=damaged/step-00000012/model.safetensors bs=1 seek=5000 conv=notrunc status=none
ranks 2 evaluate --load damaged --data text
test_that "... what they pass over is said once" [ "$(grep -c 'step-00000012: passed over' err)" -eq 1 ]
ranks 2 evaluate --load nowhere --data text
test_that "... and fail alike" [ $code -eq 1 -a "$(grep -c '^ferry evaluate: .*nowhere' err)" -eq 1 ]
ranks 2 generate --load alone
test_that "what ranks do not share out is refused once" [ $code -eq 2 -a "$(grep -c '^ferry generate: 2 processes' err)" -eq 1 -a ! -s out ]

# ---- what is wrong is said once, and ends all ----
ranks 3 train $quick --save none
test_that "a global batch that the ranks do not divide" [ $code -eq 2 -a "$(grep -c '^ferry train: the global batch.*multiple of 3' err)" -eq 1 ]
ranks 2 train --no-such-flag
test_that "a flag that is none: without a rank, for it is everyone's" [ $code -eq 2 -a "$(grep -c '^ferry train: there is no flag --no-such-flag' err)" -eq 1 -a "$(grep -c 'no-such-flag' err)" -eq 1 ]
timeout -k 5 60 mpirun -n 1 "$ferry" train $quick --save a : -n 1 "$ferry" train $quick --save b >out 2>err </dev/null
test_that "ranks started with different flags" [ $? -eq 2 -a ! -e a -a ! -e b -a "$(grep -c 'one command line' err)" -eq 1 ]
mkdir here there && cp -r text here/text && head -n 100 text.jsonl >half.jsonl && "$ferry" preprocess half.jsonl --output there/text >/dev/null 2>&1
timeout -k 5 60 mpirun -n 1 -wdir "$PWD/here" "$ferry" train $quick --save none : -n 1 -wdir "$PWD/there" "$ferry" train $quick --save none \
	>out 2>err </dev/null
test_that "ranks that find another corpus of that name" [ $? -eq 3 -a "$(grep -c 'rank 1: .*there/text: is another one than rank 0' err)" -eq 1 ]
FERRY_MPI=/nowhere ranks 2 train $quick --save a
test_that "without MPI they do not train each for itself" [ $code -eq 1 -a ! -e a ]
test_that "... and are told what is missing" grep -q "/nowhere" err
OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 run train $quick --save a
test_that "... nor where MPI knows nothing of the others" [ $code -eq 1 -a ! -e a ]
SLURM_PTY_PORT=7 SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=4 script -qec "$ferry train --train-data text --save a" /dev/null >out 2>err </dev/null
test_that "in a shell of srun --pty they are told what to do" [ $? -eq 2 -a ! -e a -a "$(grep -c 'env -u SLURM_PROCID .*srun --overlap' out)" -eq 1 ]
cp -r text bad && printf x | dd of=bad/00000.bin bs=1 seek=9000 conv=notrunc status=none
ranks 2 train --train-data bad $tiny --train-iters 500 --eval-interval 0 --log-interval 100 --save none
test_that "a damaged page, on whichever rank" [ $code -eq 3 -a "$(grep -c 'ferry train: rank .*bad/00000.bin' err)" -eq 1 ]
ranks 2 train --train-data text $tiny --fp16 --initial-scale-power 40 --min-scale 1e12 --train-iters 100 --eval-interval 0 --save none
test_that "a run that has diverged, on all" [ $code -eq 3 -a "$(grep -c 'has diverged' err)" -eq 1 -a "$(grep -c MPI_ABORT err)" -eq 0 ]

# ---- signals ----
begin() { # a long run of two ranks; both: their processes
	rm -rf sig
	: >out
	mpirun -n 2 "$ferry" train --train-data text $tiny --train-iters 100000 --eval-interval 0 --log-interval 1 --save-interval 1 --keep 2 --save sig \
		>out 2>err </dev/null &
	pid=$!
	local i
	for i in $(seq 200); do
		[ "$(grep -c '^ iteration' out)" -ge 3 ] && break
		sleep 0.05
	done
	mapfile -t both < <(pgrep -P $pid)
}
begin
kill -TERM "${both[1]}"
wait $pid
test_that "SIGTERM to one rank: all finish the step, save, exit 0" [ $? -eq 0 -a "$(grep -c 'To go on:' out)" -eq 1 ]
begin
kill -9 "${both[1]}"
wait $pid
code=$?
for i in $(seq 100); do # the other may still be dying
	[ -e "/proc/${both[0]}" ] || break
	sleep 0.05
done
test_that "kill -9 of one rank ends the others, with an error" [ $code -ne 0 -a ! -e "/proc/${both[0]}" ]
newest=$(ls sig | grep '^step-........$' | tail -n 1)
last=$((10#${newest#step-}))
ranks 2 train --load sig --train-iters $((last + 2))
test_that "... and no half checkpoint: two ranks go on from the newest" [ $code -eq 0 -a -d "$(printf 'sig/step-%08d' $((last + 2)))" ]
test_that "... which was whole" grep -q "going on from .*/$newest" out
test_that "... and nothing else is left" [ -z "$(compgen -G 'sig/*.tmp-*')" ]
exit $status
