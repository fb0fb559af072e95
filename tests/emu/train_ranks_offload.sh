#!/bin/bash
# train_ranks_offload.sh: two ranks, each with an emulated device of its own, exchange by NCCL's stand-in while they compute,
# and their hosts' optimizers begin with a layer's sums before the norm is known: whatever copy is late, the bytes are those
# of ranks that exchange through the host and have the optimizer on the device.
source tests/cli/tap.bash
source tests/cli/mpirun.bash
need_ranks
export FERRY_CUDA=${FERRY_CUDA:-build/emu/ferry-cuda.so} FERRY_EMU_DEVICES=2
source tests/emu/corpus.bash
shape="--train-data $dir/corpus --num-layers 3 --hidden-size 64 --num-attention-heads 2 --seq-length 16 --max-position-embeddings 16 --batch-size 2
	--global-batch-size 4 --lr 1e-2 --split 80,15,5 --threads 1 --train-iters 16 --eval-interval 0 --device gpu --save-interval 0 --bf16 --clip-grad 5"
ranks() { # RUN ARGUMENTS...: code, out, err
	mpirun -n 2 "$ferry" train $shape --save "$dir/$1" "${@:2}" >"$dir/out" 2>"$dir/err" </dev/null
	code=$?
}
same() { # RUN
	local file
	for file in model.safetensors optimizer.safetensors trainer.json; do
		cmp "$dir/plain/step-00000016/$file" "$dir/$1/step-00000016/$file" || return 1
	done
}
FERRY_NCCL=off ranks plain
for seed in 1 2; do
	FERRY_NCCL=$(realpath "$FERRY_CUDA") FERRY_EMU_SEED=$seed ranks $seed --cpu-optimizer
	test_that "seed $seed: by NCCL, with the optimizer on the hosts: the same bytes" same $seed
	test_that "... by NCCL, as the log says, and it ends well" eval '[ $code -eq 0 ] && out_has "from GPU to GPU by NCCL 2."'
done
test_that "... and it had begun before the norm was known" grep -q 'host: [1-9][0-9]* updates begun before the norm' "$dir/out"
exit $status
