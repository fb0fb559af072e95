#!/bin/bash
# ferry evaluate and ferry generate on a small model that is trained here.
. "$(dirname "$0")/tap.bash"
. "$(dirname "$0")/peak.bash"
ferry=$(realpath "$ferry")
cd "$dir" || exit 1
# On a busy machine libgomp's threads otherwise wait for each other by spinning, for seconds in all.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-1000}

# 40 documents of words, some beyond ASCII, so that tokens cut characters.
mkdir text
for d in $(seq 40); do
	for i in $(seq 8); do
		echo "line $((i * d % 17)) of document $d: naïve café, 日本語 🙂 and so on $((i * i % 23))"
	done >text/$d.txt
done
"$ferry" preprocess text --output corpus >/dev/null 2>&1 || echo "not ok - preprocess"
"$ferry" train --train-data corpus --split 8,2 --num-layers 1 --hidden-size 32 --num-attention-heads 2 \
	--seq-length 48 --max-position-embeddings 48 --batch-size 2 --train-iters 12 --lr 1e-2 --eval-interval 0 \
	--save run >train.log 2>&1 || { echo "not ok - train"; sed 's/^/# /' train.log; }

evaluate() { "$ferry" evaluate --load run --data corpus --json "$@" 2>/dev/null; }
field() { sed -n "s/.*\"$1\":\([-0-9.e]*\).*/\1/p"; }
near() { awk -v a="$1" -v b="$2" -v by="$3" 'BEGIN { d = a - b; exit !(a != "" && b != "" && d <= by && -d <= by) }'; }

evaluate >plain.json
loss=$(field loss <plain.json) tokens=$(field tokens <plain.json) bytes=$(field bytes <plain.json)
test_that "every target but the first of the part" \
	[ "$tokens" = $(($("$ferry" inspect corpus --split 8,2 | awk '$1 == "valid" { gsub(",", ""); print $3 }') - 1)) ]
test_that "a trained model knows more than nothing" awk -v l="$loss" 'BEGIN { exit !(l > 0 && l < 10.5) }'
test_that "perplexity is exp(loss)" near "$(field perplexity <plain.json)" \
	"$(awk -v l="$loss" 'BEGIN { print exp(l) }')" "$(awk -v l="$loss" 'BEGIN { print exp(l) / 1e5 }')"
test_that "bits per byte follow from loss, tokens and bytes" near "$(field bits_per_byte <plain.json)" \
	"$(awk -v l="$loss" -v t="$tokens" -v b="$bytes" 'BEGIN { print l * t / log(2) / b }')" 1e-4
evaluate --batch-size 1 --threads 1 >one.json
test_that "the batch does not matter" near "$loss" "$(field loss <one.json)" 1e-5
evaluate --overlapping-eval 7 >overlap.json
test_that "overlapping windows: the same targets" [ "$(field tokens <overlap.json)" = "$tokens" ]
test_that "overlapping windows: another loss" bash -c '! [ "$1" = "$2" ]' . "$loss" "$(field loss <overlap.json)"
evaluate --bf16 >half.json
test_that "bf16 is near" near "$loss" "$(field loss <half.json)" 2e-2
test_that "the whole corpus" bash -c '[ "$1" -gt "$2" ]' . "$(evaluate --on all | field tokens)" "$tokens"
"$ferry" evaluate --load run --data corpus >lines.txt 2>/dev/null
test_that "lines for people" grep -q '^bits per byte  [0-9]' lines.txt
"$ferry" evaluate --load run --data corpus --on test >empty.txt 2>&1
test_that "an empty part is a usage error" [ $? = 2 ]
test_that "... that says how to get one" grep -q 'larger share.*--document-separator' empty.txt
"$ferry" evaluate --load nowhere --data corpus >missing.txt 2>&1
test_that "no checkpoint: fails" [ $? != 0 ]
test_that "... and names it" grep -q nowhere missing.txt
"$ferry" evaluate --load run --data corpus --seq-length 49 >long.txt 2>&1
test_that "longer windows than positions" grep -q 'has 48 positions' long.txt
run evaluate --load run --data corpus --threads 4096
test_that "threads that would only wait for each other are refused" [ $code -eq 2 -a "$(grep -c -- '--threads 4096: there' "$dir/err")" -eq 1 ]

generate() { "$ferry" generate --load run "$@" 2>/dev/null; }
generate --prompt 'line 3 of' --out-seq-length 30 >a.txt
generate --prompt 'line 3 of' --out-seq-length 30 >b.txt
generate --prompt 'line 3 of' --out-seq-length 30 --seed 7 >c.txt
test_that "the prompt comes first" grep -q '^line 3 of' a.txt
test_that "same seed, same text" cmp a.txt b.txt
test_that "another seed, another text" bash -c '! cmp -s a.txt c.txt'
printf 'line 3 of' | generate --prompt-file - --out-seq-length 30 >d.txt
test_that "a prompt on standard input" cmp a.txt d.txt
printf 'line 3 of' >prompt
generate --prompt-file prompt --out-seq-length 30 --only-new >e.txt
test_that "only what is new" bash -c '{ printf "line 3 of"; cat e.txt; } | cmp - a.txt'
generate --temperature 0 --out-seq-length 20 --prompt x >greedy1.txt
generate --temperature 0 --out-seq-length 20 --prompt x --seed 99 --top-k 3 >greedy2.txt
test_that "temperature 0 does not draw" cmp greedy1.txt greedy2.txt
generate --num-samples 2 --out-seq-length 30 --prompt 'line 3 of' >two.txt
test_that "samples are numbered" grep -q '^---- sample 2 of 2 ----$' two.txt
test_that "the first sample is that of one alone" bash -c 'tail -n +2 two.txt | head -n $(wc -l <a.txt) | cmp - a.txt'
generate --out-seq-length 150 --temperature 2 --top-k 0 --prompt '日本' >wild.txt
test_that "any tokens make valid UTF-8, beyond the context too" iconv -f UTF-8 -t UTF-8 wild.txt
if [ -w /dev/full ]; then
	"$ferry" generate --load run --prompt x --out-seq-length 3 >/dev/full 2>full.txt
	test_that "a full disk under the text: exit 1, and what is full" [ $? -eq 1 -a "$(grep -c 'No space left' full.txt)" -eq 1 ]
fi
generate --out-seq-length 5 >empty_prompt.txt
test_that "no prompt: a new document" [ -s empty_prompt.txt ]
"$ferry" generate --load run --prompt x --top-p 0 >wrong.txt 2>&1
test_that "a top-p of 0 is refused" grep -q -- --top-p wrong.txt
"$ferry" generate --load run --prompt x --prompt-file prompt >wrong.txt 2>&1
test_that "two prompts are refused" grep -q 'two prompts' wrong.txt
# A model of 29 M weights, all 0, in a file of holes: 58 MB in bf16, and as much in packed copies.
mkdir sparse
json='{' at=0 C=512
tensor() { # NAME SHAPE
	json+="\"$1\":{\"dtype\":\"F32\",\"shape\":[$2],\"data_offsets\":[$at,$((at += 4 * ${2/,/*}))]},"
}
tensor wte.weight 50257,$C
tensor wpe.weight 8,$C
for part in ln_1:$C attn.c_attn:$C,$((3 * C)) attn.c_proj:$C,$C ln_2:$C mlp.c_fc:$C,$((4 * C)) mlp.c_proj:$((4 * C)),$C ln_f:$C; do
	name=h.0.${part%:*}
	tensor "${name/h.0.ln_f/ln_f}.weight" "${part#*:}"
	tensor "${name/h.0.ln_f/ln_f}.bias" "${part##*[:,]}"
done
json="${json%,}}"
printf "$(printf '\\x%02x\\x%02x' $((${#json} % 256)) $((${#json} / 256)))\\0\\0\\0\\0\\0\\0%s" "$json" >sparse/model.safetensors
truncate -s $((8 + ${#json} + at)) sparse/model.safetensors
echo "{\"model_type\": \"gpt2\", \"n_layer\": 1, \"n_embd\": $C, \"n_head\": 8, \"n_positions\": 8, \"vocab_size\": 50257}" >sparse/config.json
run_peak generate --load sparse --prompt x --out-seq-length 20 --bf16 --device cpu # no CUDA libraries among its memory
test_that "in bf16 the weights are never there in f32 ($((peak >> 10)) MiB)" [ $code -eq 0 -a "$peak" -gt 65536 -a "$peak" -lt 163840 ]

if [ -w /dev/full ]; then
	test_that "a full disk is told" bash -c '! "$1" generate --load run --prompt x --out-seq-length 3 >/dev/full 2>full.txt &&
		grep -q "standard output" full.txt' . "$ferry"
fi
exit $status
