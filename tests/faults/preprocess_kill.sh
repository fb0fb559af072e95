#!/bin/bash
# preprocess_kill.sh [KILLS [MEGABYTES [FLAGS...]]]: `ferry preprocess`, ended with kill -9 at random moments and started again,
# must end in the bytes of a run that was not. Workers and memory change at every start. Every other corpus
# overwrites an older one: whenever the run is killed, the output verifies as the old corpus or as the new one.
# Every other kill the program does itself ($KILLED_FERRY, tests/faults/killed_ferry.c; unset: there are no such kills),
# at a random call as it makes the shards or as it puts the corpus in place, a few files' renaming.
. "$(dirname "$0")/kill.bash"
kills=${1:-50}
megabytes=${2:-12}
flags=("${@:3}")
killed_ferry=${KILLED_FERRY:-}
[ -z "$killed_ferry" ] || [ -x "$killed_ferry" ] || fail "there is no $killed_ferry"

# Plain JSONL (most of it), gzip, zstd and text files.
write_documents "$megabytes" >"$dir/all.jsonl"
mkdir -p "$dir/in/texts"
lines=$(wc -l <"$dir/all.jsonl")
split -n l/8 -d "$dir/all.jsonl" "$dir/part"
cat "$dir"/part0[0-4] >"$dir/in/a.jsonl"
gzip -c "$dir/part05" >"$dir/in/b.jsonl.gz"
if command -v zstd >/dev/null; then zstd -q -c "$dir/part06" >"$dir/in/c.jsonl.zst"; else cp "$dir/part06" "$dir/in/c.jsonl"; fi
split -l 100 -a 4 -d --additional-suffix=.txt "$dir/part07" "$dir/in/texts/"
echo '{"text": "no end' >"$dir/in/d.jsonl"

make_reference() { "$ferry" preprocess "$dir/in" --output "$dir/reference" --workers 1 "${flags[@]}" 2>"$dir/err" >/dev/null; }
milliseconds make_reference || fail "the reference run"
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
	program=$ferry kill_in= kill_at=
	if [ "$killed_ferry" ]; then
		case $((done_kills % 4)) in
		1) program=$killed_ferry kill_in=/work/0 kill_at=$((RANDOM % 10 + 1)) ;; # of 8 calls, or 10
		3) program=$killed_ferry kill_in=/next kill_at=$((RANDOM % 16 + 1)) ;;   # of 15 or so
		esac
	fi
	FERRY_KILL_IN=$kill_in FERRY_KILL_AT=$kill_at "$program" preprocess "$dir/in" --output "$dir/out" $overwrite \
		--workers $((RANDOM % 4 + 1)) --memory $((RANDOM % 64 + 1))M "${flags[@]}" 2>"$dir/err" >/dev/null &
	pid=$!
	if [ -z "$kill_at" ]; then
		wait_ms $((RANDOM % (span + 10)))
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
