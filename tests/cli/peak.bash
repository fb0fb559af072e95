# peak.bash: runs the program of tap.bash and watches its memory; what the tests of hostile input share.
ROOM=$(((150 + 64) * 1024)) # KiB: what is allowed beside --memory, and allocators' slack; two workers in all cases
run_peak() { # ARGUMENTS: code, $dir/out, $dir/err, and peak: the most memory it had resident, in KiB
	local line
	peak=0
	"$ferry" "$@" >"$dir/out" 2>"$dir/err" </dev/null &
	local pid=$!
	# The kernel keeps the maximum, so that what lies between two looks is seen.
	while read -r line 2>/dev/null < <(grep VmHWM "/proc/$pid/status" 2>/dev/null); do
		line=${line//[^0-9]/}
		[ -z "$line" ] || peak=$line
		sleep 0.02
	done
	wait $pid
	code=$?
}
within() { [ "$peak" -gt 0 ] && [ "$peak" -le $(($1 * 1024 + ROOM)) ]; } # MEGABYTES of --memory
repeat() { head -c "$2" /dev/zero | tr '\0' "$1"; }                     # CHARACTER COUNT
