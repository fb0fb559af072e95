#!/bin/bash
# ops.sh: every operation of the CUDA table on the emulated device against the op tester's formulas: all shapes, and
# fewer of them with each access checked (address sanitizer) and with each race found (thread sanitizer). B is where
# they are built.
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
status=0
ops() { # MODE LIBRARY ARGUMENT...
	FERRY_CUDA=$(realpath "$B/$2") TSAN_OPTIONS=halt_on_error=1 "$B/$1/tests/emu/test_ops_emu" "${@:3}" >"$logs/$1" 2>&1
	echo "exit $?" >>"$logs/$1"
}
{ ops opt emu/ferry-cuda.so; } &
{ ops tsan emu/tsan/ferry-cuda.so short; ops asan emu/asan/ferry-cuda.so short; } &
wait
for mode in opt asan tsan; do
	sed -n "s/^\(\(not \)\?ok\) [0-9]* - /\1 - $mode: /p" "$logs/$mode"
	grep -q '^exit 0' "$logs/$mode" && continue
	echo "not ok - $mode: $(tail -n 1 "$logs/$mode")"
	grep -v '^#' "$logs/$mode" | head -n 60 | sed 's/^/# /'
	status=1
done
exit $status
