# corpus.bash: a few thousand tokens of twelve words as $dir/corpus, with a tokenizer of 290: what training on emulated
# devices is given. Behind tests/cli/tap.bash.
awk 'BEGIN { srand(3); for (d = 0; d < 120; d++) { s = ""; for (i = 0; i < 40 + d % 50; i++) s = s " w" int(rand() * 12); print "{\"text\": \"" s "\"}" } }' >"$dir/text.jsonl"
"$ferry" train-tokenizer "$dir/text.jsonl" --output "$dir/tokenizer" --vocab-size 290 >/dev/null 2>&1
"$ferry" preprocess "$dir/text.jsonl" --output "$dir/corpus" --vocab-file "$dir/tokenizer/vocab.json" --merge-file "$dir/tokenizer/merges.txt" >/dev/null 2>&1
test_that "a small tokenizer and a corpus" [ -e "$dir/corpus/corpus.json" ]
