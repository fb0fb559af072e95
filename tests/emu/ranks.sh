#!/bin/bash
# ranks.sh: ranks exchange gradients and weights between emulated devices, by the stand-in for NCCL and through the host,
# with each access checked (address sanitizer) and each race found (thread sanitizer); what NCCL has put in a wrong place
# is seen. B is where they are built.
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
status=0
log=$(mktemp)
trap 'rm -f "$log" "$log".*' EXIT
# The C library frees an ended thread's variables of a loaded library, and the sanitizer does not see what orders that.
echo 'race:_dl_deallocate_tls' >"$log.tsan"
ranks() { # MODE LIBRARY: its lines; and how it ended
	FERRY_CUDA=$(realpath "$B/$2") FERRY_NCCL=${FERRY_NCCL:-$(realpath "$B/$2")} FERRY_EMU_DEVICES=3 \
		ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS="halt_on_error=1 suppressions=$log.tsan" \
		timeout -k 5 120 "$B/$1/tests/emu/test_ranks_emu" >"$log" 2>&1
	echo "exit $?" >>"$log"
}
expect() { # NAME HOW-MANY-OK HOW-MANY-NOT-OK EXIT
	if [ "$(grep -c '^ok' "$log") $(grep -c '^not ok' "$log") $(tail -n 1 "$log")" = "$2 $3 exit $4" ]; then
		echo "ok - $1"
	else
		echo "not ok - $1"
		head -n 60 "$log" | sed 's/^/# /'
		status=1
	fi
}
for mode in opt asan tsan; do
	library=emu/${mode#opt}/ferry-cuda.so
	ranks $mode "$library"
	expect "$mode: one rank, two with one device, two and three with one each" 9 0 0
done
FERRY_NCCL=off ranks opt emu/ferry-cuda.so
expect "without NCCL they go through the host" 8 0 0
FERRY_EMU_NCCL_SWAP=1 ranks opt emu/ferry-cuda.so
expect "parts that come in a wrong order of the ranks are seen" 6 3 1
exit $status
