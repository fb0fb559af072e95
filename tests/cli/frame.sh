#!/bin/bash
# The frame of the program: help, version, unknown words, exit codes, installation.
. "$(dirname "$0")/tap.bash"
root=$(cd "$(dirname "$0")/../.." && pwd)

commands="preprocess train plan evaluate generate encode decode inspect verify merge convert train-tokenizer"
run
test_that "without a command: help on standard error, exit 2" [ $code -eq 2 -a -s "$dir/err" -a ! -s "$dir/out" ]
for way in help --help -h "help help"; do
	run $way
	test_that "$way: help on standard output, exit 0" [ $code -eq 0 -a -s "$dir/out" -a ! -s "$dir/err" ]
done
for name in $commands; do
	test_that "help names $name" grep -qE "^  $name +[a-z]" "$dir/out"
done
for name in $commands; do
	run help $name
	cp "$dir/out" "$dir/first"
	test_that "help $name: exit 0, its usage first" [ "$code $(head -n 1 "$dir/out" | grep -o "^usage: ferry $name ")" = "0 usage: ferry $name " ]
	run $name --help
	test_that "$name --help is the same" cmp -s "$dir/first" "$dir/out"
	test_that "$name --help fits 100 columns" [ "$(awk '{ if (length > 100) n++ } END { print n + 0 }' "$dir/out")" = 0 ]
	run $name --no-such-flag
	test_that "$name: an unknown flag is a usage error that names it" [ $code -eq 2 ]
	test_that "$name: and names it" err_has "--no-such-flag"
	test_that "$name: and says where help is" err_has "ferry help $name"
done

run --version
test_that "--version: exit 0" [ $code -eq 0 ]
test_that "--version: the version of the file VERSION" out_has "ferry $(cat "$root/VERSION")"
test_that "--version: the Unicode version" grep -qE '^unicode +16\.0' "$dir/out"
test_that "--version: the matrix library" grep -qE '^matrix products +[a-zA-Z]' "$dir/out"
test_that "--version: the instruction set" grep -qE '^instruction set +(base|avx2|avx512)' "$dir/out"
test_that "--version: what was left out" grep -qE '^left out +' "$dir/out"
FERRY_ISA=base run --version
test_that "FERRY_ISA narrows the instruction set" grep -qE '^instruction set +base' "$dir/out"

# Of several processes of a launcher the first alone says what all would.
for words in --version "help train" "train --help" trian "" "generate --load none" "generate --help" "preprocess a --output b"; do
	OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 run $words
	first=$code
	test_that "rank 0 of 2: ferry $words" [ -s "$dir/out" -o -s "$dir/err" ]
	OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 run $words
	test_that "rank 1 of 2 says nothing, and ends alike" [ $code = $first -a ! -s "$dir/out" -a ! -s "$dir/err" ]
done

OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 run preprocess a --output b
test_that "what one process does is not done by each of several" eval '[ $code -eq 2 ] && err_has "2 processes were started"'
test_that "... who are told what to do" eval 'err_has "--part auto" && err_has "env -u OMPI_COMM_WORLD_RANK"'

run trian
test_that "an unknown command: exit 2" [ $code -eq 2 ]
test_that "an unknown command: the nearest is named" err_has "did you mean train?"
run --train-data corpus
test_that "flags without a command: exit 2, and that it comes first" [ $code -eq 2 -a "$(grep -c 'ferry COMMAND' "$dir/err")" -eq 1 ]
run help trian
test_that "help of an unknown command: exit 2" [ $code -eq 2 ]
run xyzzy
test_that "a word near nothing: where the list is" err_has "ferry help"

# What is opened next would take the place of a standard stream that is closed.
"$ferry" preprocess - --output "$dir/closed" <&- >"$dir/out" 2>"$dir/err"
code=$?
test_that "standard input that is closed is an error, and no other file" eval '[ $code -eq 1 ] && err_has "read failed: Bad file"'
"$ferry" encode <<<"one two" >&- 2>"$dir/err"
code=$?
test_that "so is standard output" eval '[ $code -eq 1 ] && err_has "write failed: Bad file"'
mkfifo "$dir/held"
"$ferry" encode <"$dir/held" 2>&- >"$dir/out" &
exec 9>"$dir/held"
for i in $(seq 500); do
	[ "$(readlink /proc/$!/exe)" = "$(realpath "$ferry")" -a -e /proc/$!/fd/2 ] && break
	sleep 0.01
done
test_that "and nothing else takes the place of standard error" [ "$(readlink /proc/$!/fd/2)" = /dev/null ]
exec 9>&-
wait

if [ -w /dev/full ]; then
	"$ferry" --version >/dev/full 2>"$dir/err"
	code=$?
	test_that "a full disk under standard output: exit 1" [ $code -eq 1 ]
	test_that "a full disk under standard output: it says so" err_has "No space left"
else
	echo "ok - a full disk under standard output # SKIP no /dev/full"
fi
exit $status
