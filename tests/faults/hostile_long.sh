#!/bin/bash
# hostile_long.sh: the heavy forms of tests/cli/hostile.sh: documents, lines and archives of gigabytes. A minute or so of two
# cores; what it reads comes through pipes and archives, so it takes little of the disk.
. "$(dirname "$0")/../cli/tap.bash"
. "$(dirname "$0")/../cli/peak.bash"
G=1073741824

# A line of 2 GB, the default of --max-bytes (64 MiB): what is longer is passed over and not held.
{ printf '{"text": "before"}\n{"text": "'; repeat a $((2 * G)); printf '"}\n{"text": "after"}\n'; } | zstd -q -c >"$dir/line.jsonl.zst"
run_peak preprocess "$dir/line.jsonl.zst" --output "$dir/line" --workers 2 --memory 64M
test_that "a line of 2 GB: those around it are read" out_has ": 2 documents"
test_that "it is rejected, and listed" grep -qF '"line": 2, "byte": 19, "reason": "the line is too long"' "$dir/line/rejects.jsonl"
# A line may be six times as long as its text (\u0041), which is the longest that is held.
test_that "in bounded memory ($((peak / 1024)) MiB)" within $((64 + 64 * 6 * 2))

{ printf '{"text": "'; repeat a $((2 * G)); printf '"}\n{"text": "after"}\n'; } |
	"$ferry" preprocess - --output "$dir/pipe" --workers 2 --memory 64M >"$dir/out" 2>"$dir/err"
code=$?
test_that "the same through a pipe" out_has ": 1 document"

# The largest document that is taken: one word of 64 MiB less a byte, and text of as much.
repeat a $((64 * 1024 * 1024 - 1)) >"$dir/word.txt"
awk 'BEGIN { while (bytes < 67000000) { line = "and " n++ " then\n"; bytes += length(line); printf "%s", line } }' >"$dir/text.txt"
run_peak preprocess "$dir/word.txt" "$dir/text.txt" --output "$dir/largest" --workers 2 --memory 64M
test_that "documents of 64 MiB are taken" out_has ": 2 documents"
"$ferry" verify "$dir/largest" >"$dir/out" 2>"$dir/err"
code=$?
test_that "and verify" [ $code -eq 0 ]
rm "$dir"/*.txt

# Zip bombs.
head -c $((4 * G)) /dev/zero | zstd -q -c >"$dir/bomb.txt.zst"
head -c $G /dev/zero | gzip -1 -c >"$dir/bomb.txt.gz"
run_peak preprocess "$dir/bomb.txt.zst" "$dir/bomb.txt.gz" --output "$dir/bomb" --workers 2 --memory 64M
test_that "4 GB from a zstd of $(stat -c %s "$dir/bomb.txt.zst") bytes, 1 GB of gzip: rejected" [ $code -eq 2 ]
test_that "in bounded memory ($((peak / 1024)) MiB)" within $((64 + 64 * 2 * 2))
yes '{"text": "a bomb of lines"}' | head -n 10000000 | zstd -q -c >"$dir/lines.jsonl.zst"
run_peak preprocess "$dir/lines.jsonl.zst" --output "$dir/lines" --workers 2 --memory 64M
test_that "ten million copies of a line from $(stat -c %s "$dir/lines.jsonl.zst") bytes" out_has "9,999,999 duplicates"
test_that "in bounded memory ($((peak / 1024)) MiB)" within 64
# A window of 128 MiB, the largest that is taken, is memory too.
repeat x $((G / 2)) | zstd -q -c --long=27 >"$dir/window.txt.zst"
run_peak preprocess "$dir/window.txt.zst" --output "$dir/window" --workers 2 --memory 64M
test_that "a zstd window of 128 MiB ($((peak / 1024)) MiB in all)" within $((64 + 64 * 2 + 128))

# An object of ten million keys: 250 MB in one line, at --max-bytes for it.
awk 'BEGIN { printf "{"; for (i = 0; i < 10000000; i++) printf "\"key%d\": %d, ", i, i; print "\"text\": \"found\"}" }' | zstd -q -c >"$dir/keys.jsonl.zst"
run_peak preprocess "$dir/keys.jsonl.zst" --output "$dir/keys" --workers 2 --memory 64M
test_that "an object of ten million keys: its text is found" out_has ": 1 document"
exit $status
