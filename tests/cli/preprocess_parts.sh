#!/bin/bash
# ferry preprocess by several processes: --part, --finish, --part auto under each launcher's variables and under
# mpirun itself, kill -9; every corpus has the bytes of one process's.
. "$(dirname "$0")/tap.bash"
unset "${!OMPI_COMM_WORLD_@}" "${!PMI_@}" "${!SLURM_@}"
same() { diff -r -x .job "$dir/one" "$dir/c" >"$dir/err" && rm -rf "$dir/c"; } # .job: which job it was

# 5 files of 4,000 documents, in units of at least 4 MiB of input: large documents.
mkdir "$dir/in"
for i in 1 2 3 4 5; do
	awk -v seed=$i 'BEGIN {
		srand(seed)
		for (d = 0; d < 700; d++) {
			text = "Document " int(rand() * 2000) ":"
			line = ""
			for (w = 0; w < 60; w++)
				line = line " word" int(rand() * 500)
			for (n = int(rand() * 30); n > 0; n--)
				text = text line
			printf "{\"text\": \"%s\"}\n", text
		}
		print "{\"text\": " seed
	}' >"$dir/in/$i.jsonl"
done
run preprocess "$dir/in" --output "$dir/one" --sources
test_that "one process" [ $code -eq 0 ]

part() { # i/n ARGUMENTS...
	local part=$1
	shift
	"$ferry" preprocess "$dir/in" --output "$dir/c" --sources --part "$part" "$@" >"$dir/out.${part%/*}" 2>"$dir/err.${part%/*}"
}
run preprocess "$dir/in" --output "$dir/c" --sources --part 3/4
test_that "a part: exit 0" [ $code -eq 0 ]
test_that "says what is missing" out_has "missing     3 of the parts, the first of them 1/4"
test_that "and what comes next" out_has "ferry preprocess --finish --output $dir/c"
run preprocess --finish --output "$dir/c"
test_that "--finish before the parts are done: exit 2" [ $code -eq 2 ]
test_that "and why" err_has "units are not there yet"

# Four at once, one of them killed and started again; two finish.
rm -rf "$dir/c"
pids=()
for i in 1 2 3 4; do
	part $i/4 &
	pids+=($!)
done
sleep 0.1
kill -9 "${pids[1]}" 2>/dev/null
for pid in "${pids[@]}"; do
	wait "$pid"
done 2>/dev/null
part 2/4
code=$?
test_that "four at once, one killed and started again: exit 0" [ $code -eq 0 ]
test_that "none is missing" grep -qF "none of the parts" "$dir/out.2"
"$ferry" preprocess --finish --output "$dir/c" >"$dir/out.a" 2>"$dir/err.a" &
pid=$!
run preprocess --finish --output "$dir/c"
test_that "two finish at once: exit 0" [ $code -eq 0 ]
wait $pid
code=$?
test_that "both" [ $code -eq 0 ]
test_that "the bytes of one process, sources too" same

# As launchers start them.
launch() { # NAME=VALUE...: one process, in the background
	env "$@" "$ferry" preprocess "$dir/in" --output "$dir/c" --sources --part auto >"$dir/out" 2>"$dir/err" &
}
launch OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=3
launch OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=3
launch OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=3
wait
test_that "mpirun (Open MPI): the corpus is there" same
launch PMI_RANK=1 PMI_SIZE=2
launch PMI_RANK=0 PMI_SIZE=2
wait
test_that "mpirun (MPICH)" same
launch SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 SLURM_NTASKS=8
launch SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2 SLURM_NTASKS=8
wait
test_that "srun" same
slurm() { SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 run preprocess "$dir/in" --output "$dir/c" --part auto "$@"; }
launch SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2
sleep 0.1
kill -9 $! 2>/dev/null
wait $! 2>/dev/null
launch SLURM_PROCID=0 SLURM_STEP_NUM_TASKS=2
launch SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2
wait
slurm --sources
test_that "a task that comes after all was published: exit 0" [ $code -eq 0 ]
test_that "and says that the corpus is complete" out_has "the corpus of this job was complete already"
slurm
test_that "with other options: exit 2" [ $code -eq 2 ]
test_that "and why" err_has "already holds a corpus"
run preprocess "$dir/in" --output "$dir/c" --sources
test_that "alone, too" [ $code -eq 2 ]
touch "$dir/in/1.jsonl"
slurm --sources
test_that "with an input that has changed, too" [ $code -eq 2 ]
test_that "and the corpus stays as it is" same
array() { # ID: a task of --array=10-14:2, in the foreground
	SLURM_ARRAY_TASK_ID=$1 SLURM_ARRAY_TASK_MIN=10 SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_STEP=2 \
		SLURM_PROCID=0 SLURM_NTASKS=1 run preprocess "$dir/in" --output "$dir/c" --sources --part auto
}
array 14
array 10
test_that "a job array: the first tasks leave the rest" out_has "missing     1 of the parts, the first of them 2/3"
array 12
test_that "and the last finishes" out_has "corpus      $dir/c: "
test_that "with the same bytes" same
array 11
test_that "tasks that are not numbered evenly: exit 2" [ $code -eq 2 ]
# As launchers really start them, where they are installed (Debian: openmpi-bin, mpich).
. tests/cli/mpirun.bash
really() { # COMMAND...: of a launcher, or a skipped test
	if ! command -v "$1" >/dev/null; then
		echo "ok - really with $1 # SKIP it is not installed"
		return 1
	fi
	timeout -k 5 60 "$@" preprocess "$dir/in" --output "$dir/c" --sources --part auto >"$dir/out" 2>"$dir/err" </dev/null
	code=$?
}
if really mpirun -n 3 bash -c '[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-}}" != 1 ] || kill -9 $$; exec "$@"' - "$ferry"; then
	test_that "really with mpirun, and a rank dies: mpirun fails" [ $code -ne 0 ]
	test_that "without a corpus" [ ! -e "$dir/c/corpus.json" ]
	really mpirun -n 3 "$ferry"
	test_that "the same again: exit 0" [ $code -eq 0 ]
	test_that "with the same bytes" same
fi
if really mpiexec.mpich -n 3 "$ferry"; then
	test_that "really with MPICH's mpiexec: exit 0" [ $code -eq 0 ]
	test_that "with the same bytes" same
fi
run preprocess "$dir/in" --output "$dir/c" --part auto
test_that "--part auto without a launcher: exit 2" [ $code -eq 2 ]
test_that "and says what it looked for" err_has "OMPI_COMM_WORLD_RANK"
for wrong in 0/4 5/4 1 x/4 1/ /3 1/4x -1/4 1/99999999999; do
	run preprocess "$dir/in" --output "$dir/c" --part "$wrong"
	test_that "--part $wrong: exit 2" [ $code -eq 2 ]
done
run preprocess "$dir/in" --output "$dir/c" --finish
test_that "--finish without parts: exit 2" [ $code -eq 2 ]
test_that "and why" err_has "holds no unfinished run"

# Sources, told.
run inspect "$dir/one" --document 0 --source
place=$(sed -E 's/^(.*): line ([0-9]+) \(byte ([0-9]+)\)$/\1 \2 \3/' "$dir/out")
read -r file line byte <<<"$place"
run inspect "$dir/one" --document 0
{
	printf '{"text": "'
	printf '%s' "$(<"$dir/out")"
	printf '"}\n'
} >"$dir/expected"
test_that "inspect --source names the line that holds the document" cmp -s "$dir/expected" <(sed -n "${line}p" "$file")
test_that "and its byte" cmp -s "$dir/expected" <(tail -c +$((byte + 1)) "$file" | head -n 1)
run verify "$dir/one"
test_that "verify agrees" [ $code -eq 0 ]
printf x | dd of="$dir/one/00000.src" bs=1 seek=100 conv=notrunc 2>/dev/null
run verify "$dir/one"
test_that "and finds a damaged list of sources: exit 3" [ $code -eq 3 ]
test_that "which it names" err_has "00000.src: does not match its hash"
exit $status
