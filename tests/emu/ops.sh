#!/bin/bash
# ops.sh [MODE...]: every operation of the CUDA table on the emulated device against the op tester's formulas: all
# shapes (opt), and fewer of them with each access checked (asan) and with each race found (tsan). Attention once more, by
# cuDNN (its stand-in); that its graphs are wrong would be seen. B is where they are built.
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
tested() { # PROGRAM ARGUMENT...: of the mode
	FERRY_CUDA=$library TSAN_OPTIONS=halt_on_error=1 "$B/$mode/tests/emu/$1" "${@:2}" >"$log" 2>&1
	echo "exit $?" >>"$log"
}
by_cudnn() { # ARGUMENT...
	FERRY_EMU_CAPABILITY=90 FERRY_CUDNN=$library tested test_cudnn_emu "$@"
}
report() {
	sed -n "s/^\(\(not \)\?ok\) [0-9]* - /\1 - $mode: /p" "$log"
	grep -q '^exit 0' "$log" && return
	echo "not ok - $mode: $(tail -n 1 "$log")"
	grep -v '^#' "$log" | head -n 60 | sed 's/^/# /'
	status=1
}
seen() { # FAULT TEXT: it fails, and says the text
	FERRY_EMU_CUDNN_FAULT=$1 by_cudnn short
	if ! grep -q '^exit 0' "$log" && grep -qE "$2" "$log"; then
		echo "ok - $mode: cuDNN: a fault ($1) is seen: $(grep -m1 -oE "$2" "$log")"
		return
	fi
	echo "not ok - $mode: cuDNN: a fault ($1) is not seen"
	grep -v '^#' "$log" | head -n 20 | sed 's/^/# /'
	status=1
}
for mode in ${*:-opt asan tsan}; do
	library=$(realpath "$B/emu/${mode#opt}/ferry-cuda.so")
	case $mode in
	opt) every= attention= ;;
	asan) every=short attention=short ;;
	tsan) every=races attention=short ;;
	esac
	tested test_ops_emu $every
	report
	by_cudnn $attention
	report
	if [ $mode = opt ]; then
		seen mask 'attention_forward: out: error'
		seen scale 'attention_forward: out: error'
		seen stride 'attention_backward: dqkv: error'
	elif [ $mode = tsan ]; then
		seen stream 'data race'
	fi
done
exit $status
