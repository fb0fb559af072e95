#!/bin/bash
# train_ranks_memory.sh: what ranks of `ferry train` may take of an emulated device that they have between them, and of
# their host; where --optimizer-on auto has their optimizer then.
source tests/cli/tap.bash
source tests/cli/mpirun.bash
need_ranks
export FERRY_CUDA=${FERRY_CUDA:-build/emu/ferry-cuda.so} FERRY_NCCL=off
source tests/emu/corpus.bash
shape="--train-data $dir/corpus --num-attention-heads 2 --seq-length 16 --max-position-embeddings 16 --batch-size 2
	--global-batch-size 4 --lr 1e-2 --split 80,15,5 --threads 1 --train-iters 2 --eval-interval 0 --device gpu --save-interval 0"
small="$shape --num-layers 1 --hidden-size 16"
wide="$shape --num-layers 2 --hidden-size 256 --bf16"
ranks() { # ARGUMENTS...: code, out, err
	mpirun -n 2 "$ferry" train "$@" >"$dir/out" 2>"$dir/err" </dev/null
	code=$?
}
FERRY_EMU_MEMORY=100 ranks $small --save none
test_that "ranks that have a GPU between them have a part of its memory each" [ $code -ne 0 ]
test_that "... and the refusal says so, once" [ "$(grep -c 'for each of the 2 processes that have it between them' "$dir/err")" -eq 1 ]
FERRY_EMU_MEMORY=100 FERRY_EMU_DEVICES=2 ranks $small --save none
test_that "with a GPU each there is room" [ $code -eq 0 ]
FERRY_EMU_MEMORY=1000 ranks $wide --save "$dir/all"
test_that "auto: all on the GPU where it fits" out_has "auto: on the GPU, where all of it fits"
test_that "... and it is noted that they have one between them" out_has "note: 2 ranks have a GPU between them"
FERRY_EMU_MEMORY=1000 FERRY_EMU_TAKEN=834 ranks $wide --save "$dir/some"
test_that "auto where it does not: $(sed -n 's/^ > --optimizer-on auto: //p' "$dir/out")" grep -q 'auto: .*% on the GPU, .* ms a step foretold' "$dir/out"
same() {
	local file
	for file in model.safetensors optimizer.safetensors; do
		cmp "$dir/all/step-00000002/$file" "$dir/some/step-00000002/$file" || return 1
	done
}
test_that "... which shows in no bit" same
ranks ${shape/--device gpu/--device cpu} --num-layers 100 --hidden-size 16384 --save none
test_that "a host's memory is counted for all of its ranks" err_has "for each of the 2 processes of this host"
exit $status
