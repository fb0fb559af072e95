#include "tools/part.h"

#include "data/preprocess.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Decimal digits and nothing else, up to `end`. */
static bool parse_number(const char *text, const char *end, uint32_t *out)
{
	uint64_t number = 0;
	if (text == end)
		return false;
	for (; text < end; text++) {
		if (*text < '0' || *text > '9' || number > UINT32_MAX / 10)
			return false;
		number = number * 10 + (uint64_t)(*text - '0');
	}
	*out = (uint32_t)number;
	return number <= UINT32_MAX;
}

static bool get_number(const char *name, uint32_t *out)
{
	const char *text = getenv(name);
	return text && parse_number(text, text + strlen(text), out);
}

/* Rank and size of a launcher that sets both. */
static bool get_rank(const char *rank_name, const char *size_name, uint32_t *rank, uint32_t *size)
{
	return get_number(rank_name, rank) && get_number(size_name, size) && *rank < *size;
}

/* Rank and size of a task of a Slurm job array with even steps. */
static bool get_array_rank(uint32_t *rank, uint32_t *size)
{
	uint32_t task, first, step = 1;
	if (!get_number("SLURM_ARRAY_TASK_ID", &task) || !get_number("SLURM_ARRAY_TASK_MIN", &first) ||
		!get_number("SLURM_ARRAY_TASK_COUNT", size))
		return false;
	(void)get_number("SLURM_ARRAY_TASK_STEP", &step);
	if (step == 0 || task < first || (task - first) % step != 0)
		return false;
	*rank = (task - first) / step;
	return *rank < *size;
}

bool part_launched(uint32_t *rank, uint32_t *size)
{
	return get_rank("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", rank, size) ||
	       get_rank("PMI_RANK", "PMI_SIZE", rank, size) ||
	       get_rank("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", rank, size);
}

bool part_follows(void)
{
	uint32_t rank, size;
	return part_launched(&rank, &size) && rank > 0;
}

/* What srun starts from that shell has its variables too, but no terminal. */
bool part_in_shell(void)
{
	if (!getenv("SLURM_PTY_PORT") || getenv("OMPI_COMM_WORLD_RANK"))
		return false;
	int terminal = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
	if (terminal >= 0)
		close(terminal);
	return terminal >= 0;
}

enum status part_check_alone(const char *command)
{
	uint32_t rank, size;
	if (!part_launched(&rank, &size) || size == 1 || part_in_shell())
		return STATUS_OK;
	return error_set(STATUS_USAGE,
		"%u processes were started, and each would do all of it: start one (%s). Where each has "
		"something of its "
		"own to do: `env -u OMPI_COMM_WORLD_RANK -u PMI_RANK -u SLURM_PROCID ferry %s ...`",
		size,
		strcmp(command, "preprocess") == 0
			? "or several with --part auto"
			: "train, evaluate and preprocess --part auto share work out",
		command);
}

static enum status find(struct part *out)
{
	uint32_t rank = 0, size = 1, task = 0, tasks = 1;
	bool launched = part_launched(&rank, &size);
	out->array = getenv("SLURM_ARRAY_TASK_ID");
	FAIL_IF(out->array && !get_array_rank(&task, &tasks), STATUS_USAGE,
		"--part auto: the tasks of this job array are not numbered evenly (a-b or a-b:step); say "
		"--part i/n");
	if (!launched && !out->array)
		launched = get_rank("SLURM_PROCID", "SLURM_NTASKS", &rank, &size);
	FAIL_IF(!launched && !out->array, STATUS_USAGE,
		"--part auto: neither mpirun, srun nor a Slurm job array has started this (no "
		"OMPI_COMM_WORLD_RANK, PMI_RANK, SLURM_PROCID or SLURM_ARRAY_TASK_ID); say --part i/n");
	FAIL_IF((uint64_t)tasks * size >= PREPROCESS_MOST_PARTS, STATUS_USAGE,
		"--part auto: %" PRIu64 " parts are too many", (uint64_t)tasks * size);
	out->found = true;
	out->number = task * size + rank + 1;
	out->count = tasks * size;
	return STATUS_OK;
}

enum status part_parse(const char *text, struct part *out)
{
	*out = (struct part){0};
	if (strcmp(text, "auto") == 0)
		return find(out);
	const char *slash = strchr(text, '/');
	FAIL_IF(!slash || !parse_number(text, slash, &out->number) ||
			!parse_number(slash + 1, slash + strlen(slash), &out->count) || out->number < 1 ||
			out->number > out->count || out->count >= PREPROCESS_MOST_PARTS,
		STATUS_USAGE, "--part %s: neither auto nor i/n, with i from 1 to n", text);
	return STATUS_OK;
}
