#!/bin/sh
# make_seed_golden.sh LOG.zst: facts out of the reference run's log, for tests.
#   seed_iterations.txt      "iteration learning-rate loss" of each of its iteration lines, as printed
#   seed_validation.txt      "iteration loss" of each validation
#   seed_log_sample.txt      a few of its lines, to try the expressions that must read ferry's log too
set -eu
log=$1
here=$(dirname "$0")
zstd -dc "$log" | sed -n 's/^ iteration *\([0-9]*\)\/.*learning rate \([^ ]*\) | lm loss \([^ ]*\) .*/\1 \2 \3/p' >"$here/seed_iterations.txt"
zstd -dc "$log" | sed -n 's/^ validation loss at iteration \([0-9]*\) | LM loss: \([^ ]*\) .*/\1 \2/p' >"$here/seed_validation.txt"
zstd -dc "$log" | awk '
	/^  (pretrained_bert|num_layers|lr|lr_decay_iters|layernorm_epsilon|make_vocab_size_divisible_by|train_iters|fp16|split|seed) / ||
	/^> padded vocab/ || /^> found end-of-document/ || / > number of parameters/ || /^learning rate decaying/ { print }
	/^ iteration/ && (n++ < 3 || n % 1000 == 0) { print }
	/^time \(ms\)/ && timers++ < 2 { print }
	/^rank=0 time/ && parts++ < 2 { print }
	/^-+$/ && dashes < 6 { dashes++; print }
	/^ validation loss/ { print }
' >"$here/seed_log_sample.txt"
