# peak.bash: runs the program of tap.bash and watches its memory.
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
