#!/bin/bash
# preprocess_kill.sh [KILLS [MEGABYTES [FLAGS...]]]: `ferry preprocess`, ended with kill -9 at random moments and started again,
# must end in the bytes of a run that was not. Workers and memory change at every start. Every other corpus
# overwrites an older one: whenever the run is killed, the output verifies as the old corpus or as the new one.
# Every third kill comes as the corpus is put in place, a few files' renaming: the program does that one itself, at a
# random call of them ($KILLED_FERRY, tests/faults/killed_ferry.c; unset: there are no such kills).
# SEED=N repeats a run's moments, as far as the machine allows.
ferry=${FERRY:-build/ferry}
kills=${1:-50}
megabytes=${2:-12}
flags=("${@:3}")
killed_ferry=${KILLED_FERRY:-}
RANDOM=${SEED:-$$}
[ -w /dev/shm ] && export TMPDIR=/dev/shm # no power is lost here: nothing waits for a disk
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
fail() {
	echo "not ok - $1"
	sed 's/^/# /' "$dir/err" 2>/dev/null | tail -n 5
	exit 1
}

[ -z "$killed_ferry" ] || [ -x "$killed_ferry" ] || fail "there is no $killed_ferry"

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
"$ferry" preprocess "$dir/in/texts" --output "$dir/old" 2>"$dir/err" >/dev/null || fail "the old corpus"

done_kills=0 whole=0 in_second=0 in_place=0 corpora=0
begin() { # a new corpus; every other one overwrites
	rm -rf "$dir/out"
	overwrite=
	if [ $((corpora++ % 2)) = 1 ]; then
		cp -r "$dir/old" "$dir/out"
		overwrite=--overwrite
	fi
}
same() {
	diff -r "$dir/reference" "$dir/out" >"$dir/err" || fail "after $done_kills kills the bytes differ"
}
hash_of() { sed -n 's/.*"hash":[^"]*"\([0-9a-f]\{32\}\)".*/\1/p' "$1" | tail -n 1; }
old_hash=$(hash_of "$dir/old/corpus.json") new_hash=$(hash_of "$dir/reference/corpus.json")
check_killed() { # what a kill has left
	[ -z "$(compgen -G "$dir/out/work/0*")" ] || in_second=$((in_second + 1))
	[ ! -e "$dir/out/next" ] || in_place=$((in_place + 1))
	if [ -e "$dir/out/corpus.json" ] || [ -e "$dir/out/next/corpus.json" ] || [ -n "$overwrite" ]; then
		"$ferry" verify "$dir/out" >/dev/null 2>"$dir/err" || fail "after $done_kills kills the output does not verify"
		local manifest=$dir/out/corpus.json
		[ -e "$manifest" ] || manifest=$dir/out/next/corpus.json
		case $(hash_of "$manifest") in
		"$new_hash") ;;
		"$old_hash") [ -n "$overwrite" ] || fail "an old corpus from nowhere" ;;
		*) fail "after $done_kills kills the corpus is neither the old nor the new one" ;;
		esac
	fi
}
finished() { # the corpus is there and nothing is left to do: killed between its last act and its end
	[ -e "$dir/out/corpus.json" ] && [ ! -e "$dir/out/next/job.json" ] && [ ! -e "$dir/out/work/job.json" ] &&
		[ "$(hash_of "$dir/out/corpus.json")" = "$new_hash" ]
}
begin
while [ $done_kills -lt "$kills" ]; do
	program=$ferry kill_at=
	if [ "$killed_ferry" ] && [ $((done_kills % 3)) = 2 ]; then
		program=$killed_ferry kill_at=$((RANDOM % 16 + 1)) # of 13 calls or so
	fi
	FERRY_KILL_AT=$kill_at "$program" preprocess "$dir/in" --output "$dir/out" $overwrite --workers $((RANDOM % 4 + 1)) \
		--memory $((RANDOM % 64 + 1))M "${flags[@]}" 2>"$dir/err" >/dev/null &
	pid=$!
	if [ -z "$kill_at" ]; then
		delay=$((RANDOM % (span + 10)))
		sleep "$(printf '%d.%03d' $((delay / 1000)) $((delay % 1000)))"
		kill -9 $pid 2>/dev/null
	fi
	wait $pid 2>/dev/null
	code=$?
	if [ $code -eq 137 ]; then
		done_kills=$((done_kills + 1))
		check_killed
		if finished; then
			rm -rf "$dir/out/.lock" "$dir/out/next"
			same
			begin
		fi
	elif [ $code -eq 0 ]; then
		whole=$((whole + 1))
		same
		begin
	else
		fail "a run that goes on (exit $code)"
	fi
done
finished || "$ferry" preprocess "$dir/in" --output "$dir/out" $overwrite "${flags[@]}" 2>"$dir/err" >/dev/null || fail "the last run"
rm -rf "$dir/out/.lock" "$dir/out/next"
same
echo "ok - $done_kills kills of preprocess${flags:+ ${flags[*]}} ($in_second of them in the second pass, $in_place as the corpus was put in place, $whole runs between them ended by themselves; $corpora corpora; $lines documents, ${megabytes} MB, ${span} ms a run): the same bytes"
