/*
 * part.h: which part of a job shared out among processes this one does: `--part i/n`, or `--part auto`, as
 * the program that started it says in the environment:
 *
 *    OMPI_COMM_WORLD_RANK, _SIZE          mpirun of Open MPI
 *    PMI_RANK, PMI_SIZE                   mpirun of MPICH, Intel MPI; srun with PMI
 *    SLURM_PROCID, SLURM_STEP_NUM_TASKS   srun (SLURM_NTASKS where the second is not set)
 *    SLURM_ARRAY_TASK_ID, _MIN, _COUNT, _STEP
 *                                         sbatch --array=a-b or a-b:step; within a task of it, srun's too
 */
#ifndef TOOLS_PART_H
#define TOOLS_PART_H

#include "common/error.h"

#include <stdint.h>

struct part {
	uint32_t number, count; /* 1 .. count */
	bool found;             /* auto: and so the others were started too */
	bool array;             /* a job array: they need not run at the same time */
};

/* Of the processes that one mpirun or srun started: this one's number, from 0, and how many they are. False: it was
 * started alone. */
bool part_launched(uint32_t *rank, uint32_t *size);

/* One of several, and not the first: what all of them would say alike is the first's to say. */
bool part_follows(void);
/* A shell that `srun --ntasks=N --pty` gave: its tasks' variables are in the environment, and what is started there is
 * none of them. */
bool part_in_shell(void);

/* For what one process does: STATUS_USAGE where one launcher started several, each of which would do all of it. */
enum status part_check_alone(const char *command) MUST_USE;

/* STATUS_USAGE: neither "i/n" nor "auto", or nothing in the environment tells. */
enum status part_parse(const char *text, struct part *out) MUST_USE;

#endif
