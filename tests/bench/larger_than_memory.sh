#!/bin/bash
# larger_than_memory.sh: the loader on a corpus that is larger than memory, beside plain reading of the disk: what
# `bench_loader WINDOWS large` does, in a control group that has MEGABYTES (512) of memory, page cache included.
#
#    BENCH      the program (build/opt/tests/bench/bench_loader, which `make` builds by that name)
#    WINDOWS    read in each way and order (400000)
#    GIGABYTES  of the corpus (8), in $TMPDIR, which is to be on a disk; ROUNDS (3)
#
# Needs root, for the group. Where there can be none it says so and goes on: then memory is what the machine has.
cd "$(dirname "$0")/../.." || exit 1
bench=${BENCH:-build/opt/tests/bench/bench_loader} windows=${WINDOWS:-400000} megabytes=${MEGABYTES:-512}
group=
try() { # FOLDER FILE: a group there, whose limit is in FILE
	[ -z "$group" ] && mkdir "$1/ferry-bench-$$" 2>/dev/null || return
	group=$1/ferry-bench-$$
	echo "${megabytes}M" >"$group/$2" 2>/dev/null && return
	rmdir "$group"
	group=
}
try /sys/fs/cgroup/memory memory.limit_in_bytes # version 1
try /sys/fs/cgroup memory.max                   # version 2
if [ "$group" ]; then
	echo "with $megabytes MiB of memory"
	(
		echo "$BASHPID" >"$group/cgroup.procs" && exec "$bench" "$windows" large
	)
	code=$?
	rmdir "$group"
	exit $code
fi
echo "without a limit of memory (no control group can be made here): $(sed -n 's/^MemTotal: *//p' /proc/meminfo)"
exec "$bench" "$windows" large
