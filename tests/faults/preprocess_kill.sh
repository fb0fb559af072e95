#!/bin/bash
# preprocess_kill.sh [KILLS [MEGABYTES [FLAGS...]]]: `ferry preprocess`, ended with kill -9 at random moments and started again,
# must end in the bytes of a run that was not. Workers and memory change at every start. A run that ends before it
# is killed is compared, and the next begins anew. SEED=N repeats a run's moments, as far as the machine allows.
ferry=${FERRY:-build/ferry}
kills=${1:-50}
megabytes=${2:-24}
flags=("${@:3}")
RANDOM=${SEED:-$$}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() {
	echo "not ok - $1"
	sed 's/^/# /' "$dir/err" 2>/dev/null | tail -n 5
	exit 1
}

# English-like lines; every tenth document is a copy, half of them with a few words more. Plain JSONL (most of it), gzip, zstd and text files.
awk -v bytes=$((megabytes * 1000000)) 'BEGIN {
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
}' >"$dir/all.jsonl"
mkdir -p "$dir/in/texts"
lines=$(wc -l <"$dir/all.jsonl")
split -n l/8 -d "$dir/all.jsonl" "$dir/part"
cat "$dir"/part0[0-4] >"$dir/in/a.jsonl"
gzip -c "$dir/part05" >"$dir/in/b.jsonl.gz"
if command -v zstd >/dev/null; then zstd -q -c "$dir/part06" >"$dir/in/c.jsonl.zst"; else cp "$dir/part06" "$dir/in/c.jsonl"; fi
split -l 100 -a 4 -d --additional-suffix=.txt "$dir/part07" "$dir/in/texts/"
echo '{"text": "no end' >"$dir/in/d.jsonl"

start=$(date +%s%N)
"$ferry" preprocess "$dir/in" --output "$dir/reference" --workers 1 "${flags[@]}" 2>"$dir/err" >/dev/null || fail "the reference run"
span=$((($(date +%s%N) - start) / 1000000))
"$ferry" verify "$dir/reference" >/dev/null 2>"$dir/err" || fail "the reference verifies"

same() {
	diff -r "$dir/reference" "$dir/out" >"$dir/err" || fail "after $done_kills kills the bytes differ"
}
done_kills=0 whole=0 in_second=0
while [ $done_kills -lt "$kills" ]; do
	"$ferry" preprocess "$dir/in" --output "$dir/out" --workers $((RANDOM % 4 + 1)) --memory $((RANDOM % 64 + 1))M \
		"${flags[@]}" 2>"$dir/err" >/dev/null &
	pid=$!
	delay=$((RANDOM % (span / (1 + RANDOM % 5) + 10)))
	sleep "$(printf '%d.%03d' $((delay / 1000)) $((delay % 1000)))"
	if kill -9 $pid 2>/dev/null; then
		wait $pid 2>/dev/null
		code=$?
	else
		wait $pid
		code=$?
	fi
	if [ $code -eq 137 ]; then
		done_kills=$((done_kills + 1))
		[ -z "$(compgen -G "$dir/out/work/0*")" ] || in_second=$((in_second + 1))
		# Killed between its last act and its end: the corpus is there, and nothing is left to do.
		[ ! -e "$dir/out/corpus.json" ] || [ -e "$dir/out/next/job.json" ] || {
			rm -rf "$dir/out/.lock" "$dir/out/next"
			same
			rm -rf "$dir/out"
		}
	elif [ $code -eq 0 ]; then
		whole=$((whole + 1))
		same
		rm -rf "$dir/out"
	else
		fail "a run that goes on (exit $code)"
	fi
done
if [ ! -e "$dir/out/corpus.json" ] || [ -e "$dir/out/next" ]; then
	"$ferry" preprocess "$dir/in" --output "$dir/out" "${flags[@]}" 2>"$dir/err" >/dev/null || fail "the last run"
fi
same
echo "ok - $done_kills kills of preprocess${flags:+ ${flags[*]}} ($in_second of them in the second pass, $whole runs between them ended by themselves; $lines documents, ${megabytes} MB, ${span} ms a run): the same bytes"
