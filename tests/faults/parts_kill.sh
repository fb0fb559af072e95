#!/bin/bash
# parts_kill.sh [KILLS]: four processes that share one `ferry preprocess`, some of them ended with kill -9 at random moments and
# all started again, must end in the bytes of one process. They are started
#
#    by hand          --part 1/4 to 4/4, then --finish by two processes at once, killed likewise
#    by a launcher    --part auto, which goes on to the second pass; a launcher ends the others of a killed one
#    as a job array   --part auto, where whoever is the last to end its part finishes; started in any order
#
# in turn, every other time over an older corpus: the output verifies as the old one or as the new one all the time.
# Some end themselves as they make the shards or put the corpus in place ($KILLED_FERRY, tests/faults/killed_ferry.c;
# unset: none does).
. "$(dirname "$0")/kill.bash"
kills=${1:-50}
killed_ferry=${KILLED_FERRY:-}
[ -z "$killed_ferry" ] || [ -x "$killed_ferry" ] || fail "there is no $killed_ferry"
write_documents 16 >"$dir/all.jsonl" # units are of 4 MiB at least
mkdir "$dir/in"
split -n l/5 -d --additional-suffix=.jsonl "$dir/all.jsonl" "$dir/in/"
head -n 300 "$dir/all.jsonl" >"$dir/few.jsonl"
make_reference() { "$ferry" preprocess "$dir/in" --output "$dir/reference" --sources --workers 1 2>"$dir/err" >/dev/null; }
milliseconds make_reference || fail "the reference run"
"$ferry" preprocess "$dir/few.jsonl" --output "$dir/old" 2>"$dir/err" >/dev/null || fail "the old corpus"

killed=0 corpora=0 rounds=0 in_second=0 in_place=0
begin() { # the next corpus; how it is made, and every other time over an older one
	rm -rf "$dir/out"
	overwrite=
	case $((corpora % 3)) in
	0) way=hand ;;
	1) way=launcher ;;
	2) way=array ;;
	esac
	if [ $((corpora++ % 2)) = 1 ]; then
		cp -r "$dir/old" "$dir/out"
		overwrite=--overwrite
	fi
}
part() { # NUMBER, from 1
	local variables=() part=auto
	case $way in
	hand) part=$1/4 ;;
	launcher) variables=(OMPI_COMM_WORLD_RANK=$(($1 - 1)) OMPI_COMM_WORLD_SIZE=4) ;;
	array) variables=(SLURM_ARRAY_TASK_ID="$1" SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_COUNT=4) ;;
	esac
	exec env "${variables[@]}" "$program" preprocess "$dir/in" --output "$dir/out" $overwrite --sources --part $part \
		--workers $((RANDOM % 2 + 1)) --memory $((RANDOM % 64 + 1))M 2>"$dir/err.$1" >/dev/null
}
finish() { # NUMBER
	exec "$program" preprocess --finish --output "$dir/out" 2>"$dir/err.$1" >/dev/null
}
# Why a process may end without having been killed, nor having done its work.
good_reason() { # NUMBER CODE
	case $2 in
	130 | 143) [ $way = launcher ] ;; # a launcher's signal, 143 if it comes before the program listens
	2) grep -qE 'already holds a corpus|units are not there yet|no process is at it|holds no unfinished run' "$dir/err.$1" ;;
	*) false ;;
	esac
}
at_once() { # COMMAND NUMBERS...: all of them beside each other; some are killed
	local number pid code died=0 program fate FERRY_KILL_IN FERRY_KILL_AT
	local -A number_of=()
	local killers=()
	for number in "${@:2}"; do
		fate=$((RANDOM % 6)) program=$ferry
		if [ "$killed_ferry" ] && [ $fate -le 1 ]; then
			program=$killed_ferry
			case $fate in
			0) export FERRY_KILL_IN=/work/0 FERRY_KILL_AT=$((RANDOM % 10 + 1)) ;;
			1) export FERRY_KILL_IN=/next FERRY_KILL_AT=$((RANDOM % 16 + 1)) ;;
			esac
		fi
		"$1" "$number" &
		pid=$!
		number_of[$pid]=$number
		if [ $fate = 2 ]; then
			(wait_ms $((RANDOM % (span + 50))) && kill -9 $pid) 2>/dev/null &
			killers+=($!)
		fi
	done
	while [ ${#number_of[@]} -gt 0 ]; do
		sleep 0.01
		for pid in "${!number_of[@]}"; do
			kill -0 "$pid" 2>/dev/null && continue
			wait "$pid" 2>/dev/null
			code=$?
			number=${number_of[$pid]}
			unset "number_of[$pid]"
			case $code in
			0) ;;
			137) killed=$((killed + 1)) died=1 ;;
			*) good_reason "$number" $code || { cp "$dir/err.$number" "$dir/err"; fail "$1 $number ($way) ends with exit code $code"; } ;;
			esac
		done
		[ $died = 0 ] || [ $way != launcher ] || [ ${#number_of[@]} = 0 ] || kill "${!number_of[@]}" 2>/dev/null
	done 2>/dev/null # the shell tells of each that was killed
	wait "${killers[@]}"
}
hash_of() { sed -n 's/.*"hash":[^"]*"\([0-9a-f]\{32\}\)".*/\1/p' "$1/corpus.json" 2>/dev/null | tail -n 1; }
new_hash=$(hash_of "$dir/reference")
is_there() { [ "$(hash_of "$dir/out")" = "$new_hash" ] && [ ! -e "$dir/out/next/job.json" ] && [ ! -e "$dir/out/work/job.json" ]; }
check() { # after each round
	[ -z "$(compgen -G "$dir/out/work/0*")" ] || in_second=$((in_second + 1))
	[ ! -e "$dir/out/next" ] || in_place=$((in_place + 1))
	if [ -n "$overwrite" ] || [ -e "$dir/out/corpus.json" ] || [ -e "$dir/out/next/corpus.json" ]; then
		"$ferry" verify "$dir/out" >/dev/null 2>"$dir/err" || fail "after $killed kills ($way) the output does not verify"
	fi
	is_there || return
	rm -rf "$dir/out/.lock" "$dir/out/next"
	diff -r -x .job "$dir/reference" "$dir/out" >"$dir/err" || fail "after $killed kills ($way) the bytes differ"
	begin
}
begin
while [ $killed -lt "$kills" ]; do
	[ $((rounds++)) -lt $((kills * 20)) ] || fail "after $rounds rounds and $killed kills there is no end"
	at_once part $(shuf -i 1-4)
	check
	[ $way != hand ] || at_once finish 5 6
	check
done
echo "ok - $killed kills of preprocess in parts ($rounds rounds, $in_second of them ended in the second pass, $in_place as the corpus was put in place; $corpora corpora, ${span} ms one process's): the same bytes"
