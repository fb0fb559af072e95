#!/bin/bash
# planted.sh: each fault of faulty/planted.cu is found, in the modes that can find it, and named as it should be; without
# a fault nothing is said. B is where it is built.
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
status=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
exec 2>/dev/null # the shell's own word on programs that abort

run() { # MODE FAULT SEED
	FERRY_EMU_SEED=$3 ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=halt_on_error=1 "$B/$1/tests/emu/planted" "$2" >"$log" 2>&1
}
found() { # MODE FAULT TEXT: the program fails and says the text
	[ -x "$B/$1/tests/emu/planted" ] || return
	run "$1" "$2" 1
	if [ $? -ne 0 ] && grep -qE -- "$3" "$log"; then
		echo "ok - $1: $2: $(grep -m1 -oE -- "$3" "$log" | head -c 80)"
		return
	fi
	echo "not ok - $1: $2 is not found"
	sed 's/^/# /' "$log" | head -n 20
	status=1
}
wrong() { # MODE FAULT: the results are wrong
	run "$1" "$2" 1
	if grep -q '^sums: 189 190 191 192 193' "$log"; then
		echo "not ok - $1: $2 changes nothing"
		status=1
	else
		echo "ok - $1: $2: wrong results"
	fi
}

for mode in opt asan tsan; do
	[ -x "$B/$mode/tests/emu/planted" ] || { echo "ok - # SKIP $mode: not built"; continue; }
	for seed in 1 2 3; do
		run $mode none $seed && grep -q '^sums: 189 190 191 192 193' "$log" && ! grep -qE 'emulator|WARNING|ERROR' "$log"
		code=$?
		[ $code = 0 ] && echo "ok - $mode: nothing is said of the faultless, seed $seed" && continue
		echo "not ok - $mode: the faultless, seed $seed"
		sed 's/^/# /' "$log" | head -n 20
		status=1
	done
	# The emulator's own findings, in every mode.
	found $mode divergent_barrier 'divergent barrier in .*thread.*waits at the barrier in sums .*planted.cu:[0-9]+.*has ended'
	found $mode two_barriers 'two barriers in .*waits at the barrier in sums'
	found $mode divergent_shuffle 'divergent warp in .*waits at a shuffle in sums .*has ended'
	found $mode unpinned_copy 'memory that is not pinned'
	found $mode host_pointer 'a kernel was given .* which is not device memory'
	found $mode leak 'leak: 1280 bytes of device memory'
	found $mode too_much_shared 'refused: cudaErrorInvalidConfiguration'
	if grep -qw ospke /proc/cpuinfo; then
		found $mode host_touch 'the host touched device memory: byte 0 of a block of 20'
	else
		echo "ok - # SKIP $mode: host_touch: this processor has no protection keys"
	fi
	[ $mode = asan ] || found $mode device_off_by_one 'device memory out of bounds|SEGV'
	found $mode use_after_free 'a kernel was given .* which is not device memory'
	found $mode exchange_length 'NCCL: rank 0 sends itself 640 bytes, and wants 320'
	found $mode missing_copy_wait 'asynchronous copies that .* never waited for, in fetch'
done
found opt shared_off_by_one 'shared memory out of bounds in .*an array of 256 bytes was written at byte 256'
wrong opt uninitialized
wrong opt missing_barrier
found asan shared_off_by_one 'AddressSanitizer: use-after-poison'
found asan device_off_by_one 'AddressSanitizer: |device memory out of bounds'
found asan device_read_past 'AddressSanitizer: |device memory out of bounds'
found asan misaligned 'misaligned address'
found tsan missing_barrier 'data race .*in sums'
found tsan missing_warp_barrier 'data race .*in rotate'
found tsan block_order 'data race .*in touch'
found tsan missing_event 'data race'
found tsan wrong_order 'data race'
found tsan missing_wait 'data race'
found tsan exchange_event 'data race'
found tsan exchange_order 'data race'
exit $status
