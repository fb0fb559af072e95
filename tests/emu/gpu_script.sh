#!/bin/bash
# tests/gpu/run on the emulated device: its RESULT.json says that it was a dry run, at which shape, and is not mixed with a
# GPU's.
. "$(dirname "$0")/../cli/tap.bash"
program=${B:-build}/gpu-dry/opt/tests/gpu/bench_cuda
if [ ! -x "$program" ] || ! command -v python3 >/dev/null; then
	echo "ok - tests/gpu/run # SKIP there is no python3, or no $program (GPU_DRY_RUN=1 tests/gpu/run build)"
	exit 0
fi
dry() { # the results' folder is $dir/results; code, $dir/out
	GPU_DRY_RUN=1 PREBUILT=1 B=${B:-build}/gpu-dry OUT=$dir/results tests/gpu/run none >"$dir/out" 2>"$dir/err"
	code=$?
}
mkdir "$dir/results"
FERRY_EMU_LEAKS=0 "$program" ops >"$dir/results/bench_ops.json"
dry
test_that "tests/gpu/run on the emulated device leaves RESULT.json" [ $code -eq 0 -a -s "$dir/results/RESULT.json" ]
test_that "... which says that no GPU was there" grep -q '"gpu": "none: a dry run' "$dir/results/RESULT.json"
test_that "... that its figures are none of a GPU's" grep -q '"dry_run": ".*no figure here' "$dir/results/RESULT.json"
test_that "... and the shape that ran" grep -q '"shape": "B 1, T 64, C 64, H 1, V 300,' "$dir/results/RESULT.json"
echo "NVIDIA H100 80GB HBM3, 580.159.04, 81559 MiB" >"$dir/results/gpu.txt"
cp "$dir/results/RESULT.json" "$dir/before.json"
dry
test_that "where a GPU's results are it refuses to write" [ $code -eq 1 -a "$(grep -c 'the results of NVIDIA H100' "$dir/out")" -eq 1 ]
test_that "... and touches none" eval 'cmp "$dir/before.json" "$dir/results/RESULT.json" && grep -q H100 "$dir/results/gpu.txt"'
exit $status
