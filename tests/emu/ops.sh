#!/bin/bash
# ops.sh [MODE...]: every operation of the CUDA table on the emulated device against the op tester's formulas: all
# shapes (opt), and fewer of them with each access checked (asan) and with each race found (tsan). B is where they are
# built.
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT
status=0
ops() { # MODE LIBRARY ARGUMENT...
	FERRY_CUDA=$(realpath "$B/$2") TSAN_OPTIONS=halt_on_error=1 "$B/$1/tests/emu/test_ops_emu" "${@:3}" >"$logs/$1" 2>&1
	echo "exit $?" >>"$logs/$1"
}
for mode in ${*:-opt asan tsan}; do
	case $mode in
	opt) ops opt emu/ferry-cuda.so ;;
	asan) ops asan emu/asan/ferry-cuda.so short ;;
	tsan) ops tsan emu/tsan/ferry-cuda.so races ;;
	esac
	sed -n "s/^\(\(not \)\?ok\) [0-9]* - /\1 - $mode: /p" "$logs/$mode"
	grep -q '^exit 0' "$logs/$mode" && continue
	echo "not ok - $mode: $(tail -n 1 "$logs/$mode")"
	grep -v '^#' "$logs/$mode" | head -n 60 | sed 's/^/# /'
	status=1
done
exit $status
