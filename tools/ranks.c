#include "tools/ranks.h"

#include "common/file.h"
#include "common/threads.h"
#include "engine/mpi.h"
#include "tools/command.h"
#include "tools/part.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum status ranks_open(struct collective *out)
{
	uint32_t rank, size;
	struct collective mpi;
	*out = collective_open_single();
	if (!part_launched(&rank, &size) || size == 1)
		return STATUS_OK;
	FAIL_IF(part_in_shell(), STATUS_USAGE,
		"in this shell, which `srun --pty` gave, a program looks like one of its step's %u tasks, "
		"and is none: for one process, `env -u SLURM_PROCID -u PMI_RANK ferry ...`; for several, "
		"`srun "
		"--overlap ferry ...`",
		size);
	TRY(collective_open_mpi((int)size, &mpi));
	*out = mpi;
	return STATUS_OK;
}

static enum status hash_arguments(int argc, char **argv, struct hash128 *out)
{
	struct hash_stream *stream;
	TRY(hash_stream_open(&stream));
	for (int i = 0; i < argc; i++)
		hash_stream_add(stream, argv[i], strlen(argv[i]) + 1);
	*out = hash_stream_digest(stream);
	hash_stream_close(stream);
	return STATUS_OK;
}

static enum status is_as_first(struct collective *ranks, struct hash128 own, bool *same)
{
	struct hash128 first = own;
	TRY(collective_broadcast(ranks, &first, sizeof first));
	*same = hash128_compare(own, first) == 0;
	return STATUS_OK;
}

enum status ranks_check_arguments(struct collective *ranks, int argc, char **argv)
{
	struct hash128 own = {0};
	bool same;
	TRY(collective_agree(ranks, hash_arguments(argc, argv, &own)));
	TRY(is_as_first(ranks, own, &same));
	return collective_agree(
		ranks, same ? STATUS_OK
			    : error_set(STATUS_USAGE, "its arguments are others than rank 0's; start "
						      "all with one command line"));
}

static enum status hash_file(const char *path, struct hash128 *out)
{
	const uint8_t *data;
	size_t bytes;
	TRY(file_map(path, &data, &bytes));
	*out = hash128(data, bytes);
	file_unmap(data, bytes);
	return STATUS_OK;
}

enum status ranks_check_hash(struct collective *ranks, const char *path, struct hash128 own)
{
	bool same;
	TRY(is_as_first(ranks, own, &same));
	return collective_agree(
		ranks, same ? STATUS_OK
			    : error_set(STATUS_MISMATCH,
				      "%s: is another one than rank 0 finds there; copy rank 0's to "
				      "this host, or put it where all hosts see it",
				      path));
}

enum status ranks_check_file(struct collective *ranks, const char *path, const char *name)
{
	struct hash128 own = {0};
	char *file;
	if (ranks->ranks == 1)
		return STATUS_OK;
	TRY(path_join(&file, path, name));
	enum status status = hash_file(file, &own);
	free(file);
	TRY(collective_agree(ranks, status));
	return ranks_check_hash(ranks, path, own);
}

enum status ranks_choose_device(struct collective *ranks, const struct collective_place *place,
	enum device wanted, enum dtype act, uint64_t logits, struct device_choice *out)
{
	TRY(collective_agree(ranks, device_choose(wanted, place->local_rank, act, logits, out)));
	double lacks = !out->gpu;
	TRY(collective_maximum(ranks, &lacks, 1));
	if (out->gpu && lacks > 0)
		*out = (struct device_choice){.why = "not every process has a GPU of its own"};
	return STATUS_OK;
}

int ranks_threads(const struct collective_place *place)
{
	int threads = threads_available() / place->sharing;
	return threads > 1 ? threads : 1;
}

const char *ranks_bound(const struct collective_place *place, char *text, size_t room)
{
	cpu_set_t launcher;
	if (sched_getaffinity(getppid(), sizeof launcher, &launcher) != 0 ||
		place->processors >= CPU_COUNT(&launcher))
		return NULL;
	snprintf(text, room,
		"the launcher has bound the ranks of this host to %d of %d processors; `mpirun --bind-to "
		"none` (srun: "
		"--cpu-bind=none) lets them share all",
		place->processors, CPU_COUNT(&launcher));
	return text;
}

int ranks_finish(const char *name, enum status status, struct collective *ranks)
{
	bool agreed = ranks->agreed;
	if (status != STATUS_OK && ranks->ranks > 1 && !agreed)
		status = error_context(status, "rank %d", ranks->rank);
	int code = status != STATUS_OK && agreed && ranks->rank > 0 ? error_exit_code(status)
								    : command_finish(name, status);
	double said = 1;
	if (status != STATUS_OK && !agreed)
		ranks->abort(ranks, code);
	else if (status !=
		 STATUS_OK) /* the first that exits like this ends the others, with what they have to say */
		status = collective_maximum(ranks, &said, 1);
	ranks->close(ranks);
	return code;
}
