#!/bin/bash
# Input that a user did not mean, or that someone made to break things: ferry preprocess does the right thing, or says what
# is wrong with which file and what to do. Memory stays within --memory and what the help says comes on top.
# (Heavier forms of some: tests/faults/hostile_long.sh. Interrupted runs and two runs on one output: preprocess.sh.)
. "$(dirname "$0")/tap.bash"
. "$(dirname "$0")/peak.bash"
preprocess() { # ARGUMENTS: code, $dir/out, $dir/err, peak
	run_peak preprocess --workers 2 "$@"
}
documents() { out_has " $1 document" || out_has ": $1 document"; }
refused() { [ $code -eq "$1" ] && err_has "$2" && err_has "$3"; } # CODE FILE CURE
# What the only document's text is, byte by byte.
text_is() { # CORPUS FILE
	"$ferry" inspect "$1" --document 0 >"$dir/text" 2>"$dir/err" && cmp -s "$dir/text" "$2"
}

# ---- size ----
yes '{"text": "one and the same document"}' | head -n 1000000 >"$dir/flood.jsonl"
preprocess "$dir/flood.jsonl" --output "$dir/flood" --memory 16M
test_that "a document a million times: one is kept" documents 1
test_that "and 999,999 counted" out_has "999,999 duplicates"
test_that "in bounded memory ($((peak / 1024)) MiB)" within 16
rm "$dir/flood.jsonl"

{ printf '{"text": "before"}\n{"text": "'; repeat a 100000000; printf '"}\n{"text": "after"}\n'; } >"$dir/long.jsonl"
preprocess "$dir/long.jsonl" --output "$dir/long" --max-bytes 1M --memory 16M
test_that "a line of 100 MB: those around it are read" documents 2
test_that "it is rejected, and listed" grep -qF '"line": 2, "byte": 19' "$dir/long/rejects.jsonl"
test_that "in bounded memory ($((peak / 1024)) MiB)" within 16
rm "$dir/long.jsonl"

awk 'BEGIN { printf "{"; for (i = 0; i < 1000000; i++) printf "\"key%d\": %d, ", i, i; print "\"text\": \"found\"}" }' >"$dir/keys.jsonl"
preprocess "$dir/keys.jsonl" --output "$dir/keys" --memory 16M
test_that "an object of a million keys: its text is found" documents 1
test_that "in bounded memory ($((peak / 1024)) MiB)" within 16

nested() { printf '{"a": '; repeat '[' "$1"; repeat ']' "$1"; printf ', "text": "deep"}\n'; }
nested 60000 >"$dir/deep.jsonl"
preprocess "$dir/deep.jsonl" --output "$dir/deep"
test_that "arrays 60,000 deep are read" documents 1
{ nested 3000000; echo '{"text": "flat"}'; } >"$dir/deeper.jsonl"
preprocess "$dir/deeper.jsonl" --output "$dir/deeper"
test_that "3,000,000 deep are not" grep -qF 'nested too deeply' "$dir/deeper/rejects.jsonl"
test_that "and the next line is read" documents 1
rm "$dir"/*.jsonl

# ---- compression ----
head -c 1000000000 /dev/zero | zstd -q -c >"$dir/bomb.txt.zst"
head -c 200000000 /dev/zero | gzip -1 -c >"$dir/bomb.txt.gz"
preprocess "$dir/bomb.txt.zst" "$dir/bomb.txt.gz" --output "$dir/bomb" --memory 16M --max-bytes 1M
test_that "zip bombs (1 GB of zstd, 200 MB of gzip) are rejected" refused 2 "no documents" "rejects.jsonl"
test_that "in bounded memory ($((peak / 1024)) MiB)" within 16
yes '{"text": "a bomb of lines"}' | head -n 1000000 | zstd -q -c >"$dir/lines.jsonl.zst"
preprocess "$dir/lines.jsonl.zst" --output "$dir/lines" --memory 16M
test_that "a bomb of lines" out_has "999,999 duplicates"
test_that "in bounded memory ($((peak / 1024)) MiB)" within 16

seq -f '{"text": "line %g"}' 100000 >"$dir/lines.jsonl"
gzip -c "$dir/lines.jsonl" >"$dir/whole.jsonl.gz"
zstd -q -c "$dir/lines.jsonl" >"$dir/whole.jsonl.zst"
for kind in gz zst; do
	head -c $(($(stat -c %s "$dir/whole.jsonl.$kind") / 2)) "$dir/whole.jsonl.$kind" >"$dir/cut.jsonl.$kind"
	preprocess "$dir/cut.jsonl.$kind" --output "$dir/cut-$kind"
	test_that "a truncated .$kind: exit 3, named" refused 3 "$dir/cut.jsonl.$kind" "ends in the middle"
	test_that "and no corpus" [ ! -e "$dir/cut-$kind/corpus.json" ]
	cp "$dir/lines.jsonl" "$dir/plain.jsonl.$kind"
	preprocess "$dir/plain.jsonl.$kind" --output "$dir/plain-$kind"
	test_that "a .$kind that is not: exit 3, named" refused 3 "$dir/plain.jsonl.$kind" "damaged"
	: >"$dir/empty.jsonl.$kind"
	preprocess "$dir/empty.jsonl.$kind" --output "$dir/empty-$kind"
	test_that "an empty .$kind: exit 3, named" refused 3 "$dir/empty.jsonl.$kind" "empty"
done
head -c 50000 "$dir/lines.jsonl" | gzip -c >"$dir/joined.jsonl.gz"
tail -c +50001 "$dir/lines.jsonl" | gzip -c >>"$dir/joined.jsonl.gz"
head -c 50000 "$dir/lines.jsonl" | zstd -q -c >"$dir/joined.jsonl.zst"
tail -c +50001 "$dir/lines.jsonl" | zstd -q -c >>"$dir/joined.jsonl.zst"
preprocess "$dir/lines.jsonl" "$dir/joined.jsonl.gz" "$dir/joined.jsonl.zst" --output "$dir/joined"
test_that "members and frames back to back, cut within a line" out_has "200,000 duplicates, 0 empty, 0 rejected"
repeat x 3000000 | zstd -q -c --long=31 >"$dir/window.txt.zst"
preprocess "$dir/window.txt.zst" --output "$dir/window"
test_that "a zstd window of 2 GiB: exit 1, with the cure" refused 1 "$dir/window.txt.zst" "zstd -d --long=31"

# ---- what is in the files ----
printf '{"text": "a\0b"}\n{"text": "a\\u0000b"}\n' >"$dir/nul.jsonl"
printf 'a\0b' >"$dir/nul.txt"
preprocess "$dir/nul.jsonl" --output "$dir/nul"
test_that "NUL in a JSON string is an error, \\u0000 is not" out_has "1 rejected"
test_that "and stays" text_is "$dir/nul" "$dir/nul.txt"
preprocess "$dir/nul.txt" --output "$dir/nul-text"
test_that "NUL in a text file stays" text_is "$dir/nul-text" "$dir/nul.txt"
: >"$dir/empty.jsonl"
: >"$dir/empty.txt"
preprocess "$dir/empty.jsonl" "$dir/empty.txt" --output "$dir/empty"
test_that "empty files: exit 2, and what is missing" refused 2 "no documents" "empty"
repeat '\n' 100000 >"$dir/newlines.jsonl"
preprocess "$dir/newlines.jsonl" --output "$dir/newlines"
test_that "a JSONL file of newlines: exit 2" refused 2 "no documents" "in the inputs"
preprocess "$dir/newlines.jsonl" "$dir/lines.jsonl" --output "$dir/newlines2"
test_that "beside another it does no harm" out_has "0 duplicates, 0 empty, 0 rejected"
printf '\xEF\xBB\xBF{"text": "one"}\r\n\r\n{"text": "two"}\r\n' >"$dir/windows.jsonl"
printf '{"text": "one"}\n{"text": "two"}\n' >"$dir/unix.jsonl"
preprocess "$dir/windows.jsonl" "$dir/unix.jsonl" --output "$dir/windows"
test_that "a byte-order mark, CRLF and blank lines are passed over" out_has "2 duplicates, 0 empty, 0 rejected"
head -c 1000000 "$ferry" >"$dir/program.jsonl"
preprocess "$dir/program.jsonl" --output "$dir/program"
test_that "a program as JSONL: exit 2" refused 2 "no documents" "rejects.jsonl"
preprocess "$dir/program.jsonl" "$dir/unix.jsonl" --output "$dir/program2"
test_that "its lines are rejected, the others read" documents 2
odd=$dir/$'new\nline "quote" \\ \xff.jsonl'
printf '{"text": "odd"}\nbad\n' >"$odd"
preprocess "$odd" --output "$dir/odd"
test_that "a path with a newline, quotes and bad UTF-8 is read" documents 1
test_that "and its rejects are lines of JSON" [ "$(wc -l <"$dir/odd/rejects.jsonl")" = 1 ]
preprocess "$dir/odd/rejects.jsonl" --text-key file --output "$dir/odd2"
test_that "which ferry itself can read" out_has "0 rejected"

# ---- what is no file ----
mkdir -p "$dir/in/sub"
cp "$dir/unix.jsonl" "$dir/in/a.jsonl"
ln -s .. "$dir/in/sub/up"
preprocess "$dir/in" --output "$dir/loop"
test_that "a symbolic link to a folder above: exit 2, named" refused 2 "$dir/in/sub/up" "remove the link"
rm "$dir/in/sub/up"
ln -s self "$dir/in/sub/self"
preprocess "$dir/in" --output "$dir/self"
test_that "a symbolic link to itself: exit 1, named" refused 1 "$dir/in/sub/self" "symbolic links"
rm "$dir/in/sub/self"
ln -s nowhere "$dir/in/sub/gone"
preprocess "$dir/in" --output "$dir/gone"
test_that "a symbolic link to nothing: exit 1, named" refused 1 "$dir/in/sub/gone" "No such file"
rm "$dir/in/sub/gone"
mkfifo "$dir/in/sub/pipe"
preprocess "$dir/in" --output "$dir/pipes"
test_that "a pipe in a folder: exit 2, with the cure" refused 2 "$dir/in/sub/pipe" "standard input (-)"
rm "$dir/in/sub/pipe"
preprocess /dev/zero --output "$dir/device"
test_that "a device: exit 2, named" refused 2 "/dev/zero" "not a file or a folder"
if perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => shift, Listen => 1) or die' "$dir/in/sub/socket" 2>/dev/null; then
	preprocess "$dir/in" --output "$dir/socket-out"
	test_that "a socket: exit 2, named" refused 2 "$dir/in/sub/socket" "not a file or a folder"
	rm "$dir/in/sub/socket"
else
	echo "ok - a socket # SKIP no perl to make one"
fi
repeat x 400 >"$dir/name"
preprocess "$dir/$(cat "$dir/name")" --output "$dir/name-out"
test_that "a name too long for any file: exit 1" refused 1 "xxx" "name too long"

# ---- files that change under way: standard input, read first, holds the run until they have ----
changing() { # COMMAND...: while ferry waits; then the rest of the run
	cp "$dir/lines.jsonl" "$dir/changing.jsonl"
	rm -rf "$dir/changed" "$dir/hold"
	mkfifo "$dir/hold"
	"$ferry" preprocess "$dir/changing.jsonl" - --workers 1 --output "$dir/changed" <"$dir/hold" >"$dir/out" 2>"$dir/err" &
	local pid=$!
	exec 3>"$dir/hold"
	for _ in $(seq 200); do
		[ -e "$dir/changed/work/job.json" ] && break
		sleep 0.02
	done
	"$@"
	exec 3>&-
	wait $pid
	code=$?
}
grow() { cat "$dir/unix.jsonl" >>"$dir/changing.jsonl"; }
changing grow
test_that "a file that grows: exit 3, with the cure" refused 3 "$dir/changing.jsonl" "run again when it is complete"
test_that "and no corpus" [ ! -e "$dir/changed/corpus.json" ]
changing truncate -s 1000 "$dir/changing.jsonl"
test_that "a file that shrinks: exit 3" refused 3 "$dir/changing.jsonl" "changed while it was read"
changing rm "$dir/changing.jsonl"
test_that "a file that goes: exit 1, named" refused 1 "$dir/changing.jsonl" "No such file"
changing touch -d '2001-01-01' "$dir/changing.jsonl"
test_that "a file with another time: exit 3" refused 3 "$dir/changing.jsonl" "changed while it was read"
changing true
test_that "one that stays is read" documents 100,000

# ---- output ----
preprocess "$dir/in" --output "$dir/in/out"
test_that "an output within the input folder" documents 2
preprocess "$dir/in" --output "$dir/in/out" --overwrite
test_that "is not read the second time" out_has "0 duplicates, 0 empty, 0 rejected"
preprocess "$dir/in" --output "$dir/in"
test_that "an output that is the input folder: exit 2, with the cure" refused 2 "$dir/in" "choose another --output"
test_that "and the input is as it was" cmp -s "$dir/unix.jsonl" "$dir/in/a.jsonl"
preprocess "$dir/unix.jsonl" --output "$dir/unix.jsonl"
test_that "an output that is the input file: exit 2 or 1, named" err_has "$dir/unix.jsonl"
test_that "and it is as it was" [ $code -ne 0 -a "$(wc -l <"$dir/unix.jsonl")" = 2 ]
preprocess "$dir/unix.jsonl" --output "$dir/nul.txt/out"
test_that "an output below a file: exit 1, named" refused 1 "$dir/nul.txt" "Not a directory"
preprocess "$dir/unix.jsonl" --output ""
test_that "an output without a name: exit 2" refused 2 "--output is empty" "shell variable"

# ---- as someone who may not ----
cp "$ferry" "$dir/ferry"
chmod 755 "$dir" "$dir/ferry"
if [ "$(id -u)" != 0 ]; then
	as_nobody() { "$@"; }
else
	as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
fi
if as_nobody "$dir/ferry" --version >/dev/null 2>&1; then
	mkdir "$dir/closed" "$dir/open"
	chmod 777 "$dir/open"
	cp "$dir/unix.jsonl" "$dir/secret.jsonl"
	chmod 000 "$dir/secret.jsonl" "$dir/closed"
	nobody() {
		as_nobody "$dir/ferry" preprocess "$@" >"$dir/out" 2>"$dir/err" </dev/null
		code=$?
	}
	nobody "$dir/secret.jsonl" --output "$dir/open/a"
	test_that "a file that may not be read: exit 1, named" refused 1 "$dir/secret.jsonl" "Permission denied"
	nobody "$dir/closed" --output "$dir/open/b"
	test_that "a folder that may not be read: exit 1, named" refused 1 "$dir/closed" "Permission denied"
	nobody "$dir/unix.jsonl" --output "$dir/closed/c"
	test_that "an output that may not be written: exit 1, named" refused 1 "$dir/closed" "Permission denied"
	chmod 555 "$dir/closed"
	nobody "$dir/unix.jsonl" --output "$dir/closed/c"
	test_that "a read-only folder for the output: exit 1, named" refused 1 "$dir/closed" "Permission denied"
	chmod 755 "$dir/closed"
else
	echo "ok - as someone who may not # SKIP cannot run ferry as another user"
fi
exit $status
