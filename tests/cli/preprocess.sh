#!/bin/bash
# ferry preprocess as a person uses it: every form of input, messages, exit codes, stops and kills.
. "$(dirname "$0")/tap.bash"
root=$(cd "$(dirname "$0")/../.." && pwd)
run() { # ARGUMENTS: code, $dir/out, $dir/err
	"$ferry" preprocess "$@" >"$dir/out" 2>"$dir/err" </dev/null
	code=$?
}
same() { diff -r "$1" "$2" >"$dir/err"; }

mkdir -p "$dir/in/sub"
for i in $(seq 1 300); do echo "{\"n\": $i, \"text\": \"Document $i says $((i % 97)).\\n\"}"; done >"$dir/in/a.jsonl"
printf 'one text file\n' >"$dir/in/sub/b.txt"
printf 'another, compressed\n' | gzip >"$dir/in/sub/c.txt.gz"
echo '{"text": "the same twice"}' >"$dir/in/d.json"
echo '{"text": "the same twice"}' | gzip >"$dir/in/e.json.gz"
printf '{"text": ""}\nnot JSON\n{"text": "\\ud800"}\n' >"$dir/in/f.jsonl"

run "$dir/in" --output "$dir/c1" --workers 1
test_that "a folder: exit 0" [ $code -eq 0 ]
test_that "the summary counts documents" out_has "304 documents in 1 shard"
test_that "and what was dropped" out_has "1 duplicates, 1 empty, 1 rejected (see $dir/c1/rejects.jsonl)"
test_that "and what was repaired, without doubting the text" eval 'out_has "repaired    1 sequences" && ! out_has "all of it text"'
test_that "and says what to type next" out_has "ferry train --train-data $dir/c1"
test_that "rejects.jsonl names file and line" grep -qF "\"file\": \"$dir/in/f.jsonl\", \"line\": 2," "$dir/c1/rejects.jsonl"
test_that "nothing is left behind" [ "$(ls -A "$dir/c1" | tr '\n' ' ')" = "00000.bin 00000.idx 00000.key 00000.sum corpus.json rejects.jsonl " ]
"$ferry" verify "$dir/c1" >"$dir/out" 2>"$dir/err"
code=$?
test_that "ferry verify finds it sound" [ $code -eq 0 ]

run "$dir/in/sub" "$dir/in/f.jsonl" "$dir/in/e.json.gz" "$dir/in/d.json" "$dir/in/a.jsonl" --output "$dir/c2" --workers 5 --memory 1M
test_that "other order, workers, memory: the same bytes" same "$dir/c1" "$dir/c2"
run "$dir/in" --output "$dir/profiled" --workers 2 --profile
test_that "--profile: the same bytes" same "$dir/c1" "$dir/profiled"
run "$dir/in" --output "$dir/profiled" --workers 2 --profile --overwrite
profile_adds_up() { # the shares of the stages, and those of the workers
	awk '/MB\/s of a core/ { on = 1; next } /^all/ { on = 0; if (sum < 98.5 || sum > 101.5) bad = 1; sum = 0; next }
		on && match($0, /[0-9.]+%/) { sum += substr($0, RSTART, RLENGTH - 1) }
		/^worker/ { workers++; match($0, /[0-9.]+%/); sum += substr($0, RSTART, RLENGTH - 1) }
		END { exit bad || workers != 2 || sum < 99 || sum > 101 }' "$dir/err"
}
test_that "and tells where the time went, stage by stage and worker by worker" profile_adds_up
run "$dir/in" --output "$dir/c1"
test_that "a second run on the same output: exit 2" [ $code -eq 2 ]
test_that "and an error that names the cure" err_has "already holds a corpus; choose another --output, or --overwrite"
mkdir "$dir/c1/work" # as a kill between the last two removals leaves it
run "$dir/in" --output "$dir/c1"
test_that "killed at the very end: finished, and tidied" [ $code -eq 2 -a ! -e "$dir/c1/work" ]
run "$dir/in/a.jsonl" --output "$dir/c1" --overwrite
test_that "--overwrite replaces it" [ $code -eq 0 -a ! -e "$dir/c1/rejects.jsonl" ]

"$ferry" preprocess - --output "$dir/c3" <"$dir/in/a.jsonl" >"$dir/out" 2>"$dir/err"
code=$?
test_that "standard input gives the same corpus as the file" same "$dir/c1" "$dir/c3"
printf 'a--b--a----c' >"$dir/cut.txt"
run "$dir/cut.txt" --output "$dir/c4" --document-separator --
test_that "--document-separator cuts" out_has "3 documents"
test_that "and drops copies and empty pieces" out_has "1 duplicates, 1 empty"
test_that "nothing is noted of one without a backslash" [ ! -s "$dir/err" ]
run "$dir/cut.txt" --output "$dir/c4n" --document-separator '\n\n'
test_that "of '\\n' that it is no end of a line" eval 'err_has "backslash and an n" && out_has "1 documents"'
run "$dir/in/a.jsonl" --output "$dir/c5" --text-key n
test_that "a wrong --text-key: exit 2" [ $code -eq 2 ]
test_that "and a hint" err_has 'is --text-key (now "n") right?'
(
	ulimit -f 1 # KiB
	run "$dir/in/a.jsonl" --output "$dir/limited"
	test_that "a file that may not grow: an error that names it, and what to do" eval '[ $code -eq 1 ] && err_has "$dir/limited/" && err_has "ulimit -f"'
	exit $status
) || status=1
: >"$dir/nothing.txt"
run "$dir/nothing.txt" --output "$dir/c5"
test_that "... which is not given where nothing was rejected" err_has "1 empty, 0 rejected; give files that hold text"
run "$dir/in/f.jsonl" --output "$dir/c6" --on-bad-line fail
test_that "--on-bad-line fail: exit 3, file and line" [ $code -eq 3 ]
test_that "names file and line" err_has "f.jsonl: line 2 "
run "$dir/in/f.jsonl" --output "$dir/c7" --strict
test_that "--strict names file, line and byte" err_has "f.jsonl: line 3 (byte 32): not valid UTF-8"
printf 'Gr\xfc\xdfe in Latin-1' >"$dir/in/latin.txt"
run "$dir/in/latin.txt" --output "$dir/latin"
test_that "asks whether it was text where much of it had to be repaired" out_has "was all of it text, and UTF-8?"
rm "$dir/in/latin.txt"
run "$dir/nowhere" --output "$dir/c8"
test_that "an input that is not there: exit 1, and its name" [ $code -eq 1 ]
test_that "its name" err_has "$dir/nowhere: cannot stat"
words=$(seq -s ' ' 1000 1099)
printf '{"text": "%s"}\n' "$words" "A few words: $words" "${words//5/6} are not the same" >"$dir/near.jsonl"
run "$dir/near.jsonl" --output "$dir/c10" --dedup near
test_that "--dedup near drops what is nearly the same" out_has "dropped     0 duplicates, 1 near-duplicates, 0 empty"
"$ferry" inspect "$dir/c10" >"$dir/out" 2>"$dir/err"
test_that "and inspect tells" out_has "1 near-duplicates (14 bands of 8 rows)"
run "$dir/near.jsonl" --output "$dir/c11" --dedup near --dedup-rows 2
test_that "fewer rows: less similar documents, too" out_has "2 near-duplicates"
run "$dir/near.jsonl" --output "$dir/c12" --dedup-rows 2
test_that "--dedup-rows alone: exit 2" [ $code -eq 2 ]
test_that "and what it needs" err_has "need --dedup near"
run "$dir/in" --output "$dir/c8" --workers 0
test_that "--workers 0: exit 2" [ $code -eq 2 ]
run "$dir/in"
test_that "no --output: exit 2" [ $code -eq 2 ]
run "$dir/in" --output "$dir/c8" --tokenizer-type WordPiece
test_that "an unknown tokenizer: exit 2, and its name" err_has "WordPiece"

# A stop with Ctrl-C's signal, in the middle: standard input that stays open keeps it there.
mkfifo "$dir/pipe"
"$ferry" preprocess "$dir/in/a.jsonl" - --output "$dir/c9" --workers 1 <"$dir/pipe" >"$dir/out" 2>"$dir/err" &
pid=$!
exec 3>"$dir/pipe"
echo '{"text": "begun"}' >&3
for i in $(seq 100); do
	[ -e "$dir/c9/work/job.json" ] && break
	sleep 0.05
done
run "$dir/in" --output "$dir/c9"
test_that "two runs on one output: the second says so" err_has "another run is at work on this output"
kill -INT $pid
sleep 0.1
exec 3>&-
wait $pid
code=$?
test_that "SIGINT: exit 130" [ $code -eq 130 ]
run "$dir/in/a.jsonl" --output "$dir/c9"
test_that "other inputs cannot go on with it" [ $code -eq 3 ]
"$ferry" preprocess "$dir/in/a.jsonl" - --output "$dir/c9" <"$dir/in/d.json" >"$dir/out" 2>"$dir/err"
code=$?
test_that "the same command goes on" out_has "301 documents"

FERRY=$ferry "$root/tests/faults/preprocess_kill.sh" 8 3 || status=1
FERRY=$ferry "$root/tests/faults/preprocess_kill.sh" 6 2 --dedup near || status=1
exit $status
