#!/bin/bash
# ferry merge: two corpora joined have the bytes of preprocessing all their text at once; what it refuses; kill -9.
. "$(dirname "$0")/tap.bash"
same() { diff -r "$1" "$2" >/dev/null; }

# 3 x 3000 documents; each part has 1000 of its neighbour's. One line of each is no JSON.
mkdir "$dir/in"
for i in 1 2 3; do
	awk -v first=$((i * 2000)) 'BEGIN {
		for (d = first; d < first + 3000; d++) {
			srand(d)
			text = "Document " d ":"
			for (w = int(rand() * 80); w > 0; w--)
				text = text " word" int(rand() * 500)
			printf "{\"text\": \"%s\"}\n", text
		}
		print "{\"text\": " first
	}' >"$dir/in/$i.jsonl"
	run preprocess "$dir/in/$i.jsonl" --output "$dir/c$i"
	test_that "corpus $i" [ $code -eq 0 ]
done
run preprocess "$dir/in" --output "$dir/whole"
test_that "the corpus of all" [ $code -eq 0 ]

run merge "$dir/c1" "$dir/c2" "$dir/c3" --output "$dir/merged"
test_that "merge: exit 0" [ $code -eq 0 ]
test_that "merge says how many documents" out_has "7,000 documents in 1 shard"
test_that "merge says how many duplicates" out_has "2,000 duplicates"
test_that "the bytes are those of preprocessing all at once, corpus.json and rejects.jsonl too" same "$dir/whole" "$dir/merged"
run verify "$dir/merged"
test_that "verify agrees" [ $code -eq 0 ]

run merge "$dir/c1" "$dir/c2" --output "$dir/merged"
test_that "a corpus is not replaced unasked: exit 2" [ $code -eq 2 ]
test_that "and says how" err_has "--overwrite"
run merge "$dir/c1" "$dir/c1/." --output "$dir/x"
test_that "an input given twice: exit 2" [ $code -eq 2 ]
run merge "$dir/c1" "$dir/in" --output "$dir/x"
test_that "what is no corpus is named" err_has "$dir/in/corpus.json"
printf 'w o\nr d\nwo rd\n' >"$dir/merges"
run preprocess "$dir/in/3.jsonl" --output "$dir/other" --merge-file "$dir/merges"
run merge "$dir/c1" "$dir/other" --output "$dir/x"
test_that "another tokenizer: exit 3" [ $code -eq 3 ]
test_that "and names both" err_has "ByteLevelBPETokenizer"
test_that "nothing was left there" [ ! -e "$dir/x" ]

# Killed at random moments: no corpus or all of it, and the next run makes it.
torn=0
for i in 1 2 3 4 5 6; do
	rm -rf "$dir/k"
	"$ferry" merge "$dir"/c[123] --output "$dir/k" >/dev/null 2>&1 &
	pid=$!
	sleep 0.0$((RANDOM % 10))
	kill -9 $pid 2>/dev/null
	wait $pid 2>/dev/null
	if [ -e "$dir/k/corpus.json" ]; then
		rm -rf "$dir/k/.lock" "$dir/k/next" # what is tidied up last
		same "$dir/whole" "$dir/k" || torn=1
	fi
	run merge "$dir"/c[123] --output "$dir/k" --overwrite
	same "$dir/whole" "$dir/k" || torn=1
done
test_that "kill -9: the old or the new, and the same command mends it" [ $torn = 0 ]
exit $status
