#!/bin/bash
# ferry encode and ferry decode: ids (tiktoken's), formats, documents, invalid text, wrong input.
. "$(dirname "$0")/tap.bash"
run() { # INPUT ARGUMENTS: code, $dir/out, $dir/err
	printf '%b' "$1" >"$dir/in"
	shift
	"$ferry" "$@" <"$dir/in" >"$dir/out" 2>"$dir/err"
	code=$?
}
out_is() { [ $code -eq 0 ] && printf '%b' "$1" | cmp -s - "$dir/out"; }
fails_with() { [ $code -eq "$1" ] && grep -qF -- "$2" "$dir/err"; }

run "Hello world's  \xc3\xa9t\xc3\xa9<|endoftext|>\n" encode
test_that "text to ids" out_is "15496 995 338 220 220 25125 2634 27 91 437 1659 5239 91 29 198\n"
run "Hello world" encode --format u16
test_that "u16: two bytes an id, little-endian" out_is '\x88\x3c\xe3\x03'
run "Hello world" encode --format i32
test_that "i32: four" out_is '\x88\x3c\x00\x00\xe3\x03\x00\x00'
run "" encode
test_that "nothing is an empty line" out_is '\n'
run "Hello--- world------" encode --document-separator ---
test_that "documents: a line each" out_is '15496\n995\n\n'
run "Hello--- world---" encode --document-separator --- --format u16
test_that "documents: an EOD behind each" out_is '\x88\x3c\x50\xc4\xe3\x03\x50\xc4'

run "a\xff\xe2\x82b" encode
test_that "invalid UTF-8 becomes U+FFFD per maximal subpart" out_is '64 6353 65\n'
test_that "and is counted" grep -q '2 ill-formed' "$dir/err"
run "ab\ncd\xff" encode --strict
test_that "--strict names line and byte" fails_with 3 "line 2, byte 3"

run "15496 995\n338" decode
test_that "ids to text" out_is "Hello world's"
run '\x88\x3c\x50\xc4\xe3\x03' decode --format u16
test_that "u16 ids to text; EOD is no text" out_is "Hello world"
run '\x88\x3c\x00\x00' decode --format i32
test_that "i32 ids to text" out_is "Hello"
run "12x" decode
test_that "not a number" fails_with 2 "byte 1: not a token id"
run "1 -2" decode
test_that "a negative number" fails_with 2 "byte 3: not a token id"
run "50257" decode
test_that "not of this vocabulary" fails_with 2 "50257"
run "99999999999999999999" decode
test_that "a number beyond any" fails_with 2 "not a token id"
run "abc" decode --format u16
test_that "half an id" fails_with 2 "3 bytes"

head -c 200000 /dev/urandom | base64 >"$dir/text"
"$ferry" encode <"$dir/text" | "$ferry" decode | cmp -s - "$dir/text"
code=$?
test_that "there and back" [ $code -eq 0 ]
head -c 1000000 /dev/zero | tr '\0' a | "$ferry" encode --format u16 >"$dir/out" 2>"$dir/err"
test_that "a megabyte of one letter: 250,000 times 'aaaa'" [ "$(od -An -v -w2 -tu2 "$dir/out" | sort | uniq -c | tr -s ' ')" = " 250000 24794" ]

printf '#version: 0.2\na b\nab c\n' >"$dir/merges.txt"
run "abcab" encode --merge-file "$dir/merges.txt"
test_that "--merge-file: ids follow from the merges" out_is '257 256\n'
run "257 256 258" decode --merge-file "$dir/merges.txt"
test_that "and back" out_is 'abcab'
run "" encode --vocab-file "$dir/merges.txt"
test_that "--vocab-file alone" fails_with 2 "--merge-file"
run "" encode --merge-file "$dir/merges.txt" --vocab-file "$dir/merges.txt"
test_that "a file that is no vocab.json" fails_with 3 "merges.txt, line 1: not valid JSON"
run "" encode --merge-file "$dir/absent"
test_that "a file that is not there" fails_with 1 "absent"
run "" encode --format u8
test_that "a wrong format" fails_with 2 "u8"
"$ferry" encode <"$dir/text" >/dev/full 2>"$dir/err"
code=$?
test_that "a full disk is an error" fails_with 1 "standard output"
exit $status
