#!/bin/bash
# planted.sh: each fault of faulty/planted.cu is found, in the modes that can find it, and named as it should be; without
# a fault nothing is said. So it is with the stand-in for cuDNN (faulty/cudnn_rules.cu), whose rules are also held against
# the real library, where that is. B is where it is built.
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build}
status=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
exec 2>/dev/null # the shell's own word on programs that abort

run() { # MODE FAULT SEED
	FERRY_EMU_SEED=$3 ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=halt_on_error=1:atexit_sleep_ms=50 "$B/$1/tests/emu/planted" "$2" >"$log" 2>&1
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

# ---- cuDNN ----

rules() { # MODE ARGUMENT...
	ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=halt_on_error=1:atexit_sleep_ms=50 "$B/$1/tests/emu/cudnn_rules" "${@:2}" >"$log" 2>&1
}
cudnn_found() { # MODE FAULT TEXT
	[ -x "$B/$1/tests/emu/cudnn_rules" ] || return
	rules "$1" - "$2"
	if grep -qE -- "$3" "$log"; then
		echo "ok - $1: cuDNN: $2: $(grep -m1 -oE -- "$3" "$log" | head -c 80)"
		return
	fi
	echo "not ok - $1: cuDNN: $2 is not found"
	sed 's/^/# /' "$log" | head -n 20
	status=1
}
all_ok() { # NAME: of what the log says
	local code=$?
	[ $code = 0 ] && grep -q '^ok' "$log" && ! grep -qE '^not ok|emulator|WARNING|ERROR' "$log" && echo "ok - $1 ($(grep -c '^ok' "$log") of them)" && return
	echo "not ok - $1"
	grep -v '^ok' "$log" | sed 's/^/# /' | head -n 20
	status=1
}
for mode in opt asan tsan; do
	[ -x "$B/$mode/tests/emu/cudnn_rules" ] || { echo "ok - # SKIP $mode: cuDNN: not built"; continue; }
	rules $mode
	all_ok "$mode: cuDNN: what is wrong is refused, what is right means what is documented"
	cudnn_found $mode none '^0, as wanted'
done
cudnn_found opt overlap 'results 4 and 3 lie in each other'
cudnn_found opt in_place 'result 3 lies in operand 1'
cudnn_found opt in_workspace 'tensor 4 lies in the workspace'
cudnn_found opt outside 'tensor 2, .* reaches outside'
cudnn_found opt workspace_outside 'a workspace of 8192 bytes .* reaches outside'
cudnn_found opt value_on_device 'tensor 5 is by value'
cudnn_found opt destroyed 'which is no descriptor, or no longer one'
cudnn_found opt leak 'leak: [0-9]+ descriptors and 0 handles'
cudnn_found opt stream '^0, wrong|its workspace was written by another'
cudnn_found tsan stream 'data race'
real=$(ldconfig -p 2>/dev/null | sed -n 's/.*libcudnn\.so\.9 .*=> //p' | head -n 1)
[ -n "$real" ] || real=$(ls /usr/local/cuda/lib64/libcudnn.so.9 2>/dev/null)
if [ -z "$real" ]; then
	echo "ok - the real cuDNN # SKIP it is not here"
else
	rules opt "$real"
	all_ok "the real cuDNN takes what the stand-in takes"
fi
exit $status
