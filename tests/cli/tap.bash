# tap.bash: what the command-line tests share; each sources it. Gives $ferry (the program, $FERRY or build/ferry), $dir
# (a folder of the test's own, removed at its end) and the functions below; ends with exit code $status.
ferry=${FERRY:-build/ferry}
dir=$(mktemp -d)
trap '[ $BASHPID != $$ ] || rm -rf "$dir"' EXIT # a child that a signal ends before it runs its program has the trap too
status=0
code=0
test_that() { # NAME CONDITION...: one line of TAP; where the condition fails, with what it said and the last command's output
	local name=$1 stream
	shift
	if "$@" >"$dir/said" 2>&1; then
		echo "ok - $name"
	else
		echo "not ok - $name"
		echo "# exit code $code"
		for stream in said out err; do
			[ ! -e "$dir/$stream" ] || tail -c 2000 "$dir/$stream" | sed "s/^/# $stream: /"
		done
		status=1
	fi
}
run() { # ARGUMENTS: code, $dir/out, $dir/err
	"$ferry" "$@" >"$dir/out" 2>"$dir/err" </dev/null
	code=$?
}
out_has() { grep -qF -- "$1" "$dir/out"; }
err_has() { grep -qF -- "$1" "$dir/err"; }
