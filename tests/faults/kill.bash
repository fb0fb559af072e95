# kill.bash: what the scripts that end ferry with kill -9 share; each sources it. Gives $ferry (the program, $FERRY or
# build/ferry), $dir (a folder of the script's own, removed at its end) and the functions below.
# SEED=N repeats a script's moments, as far as the machine allows.
ferry=${FERRY:-build/ferry}
RANDOM=${SEED:-$$}
[ -w /dev/shm ] && export TMPDIR=/dev/shm # no power is lost here: nothing waits for a disk
dir=$(mktemp -d)
trap '[ $BASHPID != $$ ] || rm -rf "$dir"' EXIT # a child that a signal ends before it runs its program has the trap too
fail() {
	echo "not ok - $1"
	sed 's/^/# /' "$dir/err" 2>/dev/null | tail -n 5
	exit 1
}
wait_ms() { sleep "$(printf '%d.%03d' $(($1 / 1000)) $(($1 % 1000)))"; }
milliseconds() { # COMMAND...: what it takes, to $span; its exit code
	local start code
	start=$(date +%s%N)
	"$@"
	code=$?
	span=$((($(date +%s%N) - start) / 1000000))
	return $code
}
# English-like lines of JSON; every tenth document is a copy, half of them with a few words more.
write_documents() { # MEGABYTES
	awk -v bytes=$(($1 * 1000000)) 'BEGIN {
		srand(7)
		n = split("the of and to in is that it was for on are as with his they at be this have from or had by not but what all were when we there can an your which their said if do will each about how up out them then she many some so these would other into has more her two like him see time could no make than first been its who now people my made over did down only way find use may water long little very after words called just where most know", word, " ")
		while (total < bytes) {
			if (documents % 10 != 9) {
				text = ""
				for (i = int(rand() * 400) + 1; i > 0; i--)
					text = text word[int(rand() * n) + 1] (rand() < 0.1 ? ".\\n" : " ") (rand() < 0.02 ? int(rand() * 10000) " " : "")
			}
			if (documents % 20 == 19)
				text = text "and one word more"
			line = "{\"id\": " documents++ ", \"text\": \"" text "\"}"
			total += length(line) + 1
			print line
		}
	}'
}
