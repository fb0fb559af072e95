#include "tools/log_file.h"

#include "common/file.h"
#include "common/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct log_file {
	char *path;
	int fd;        /* -1: none */
	bool torn;     /* there is a piece of a lost line behind `whole` */
	off_t whole;   /* bytes */
	uint64_t lost; /* lines, since the last that could be written */
	char told[2300];
};

enum status log_file_open(const char *directory, const char *name, struct log_file **out)
{
	struct log_file *f;
	*out = NULL;
	TRY(memory_alloc((void **)&f, 1, sizeof *f, "a log file"));
	f->fd = -1;
	enum status status = path_join(&f->path, directory, name);
	if (status == STATUS_OK)
		status = file_open_append(f->path, &f->fd);
	if (status != STATUS_OK) {
		log_file_close(f);
		return status;
	}
	*out = f;
	return STATUS_OK;
}

void log_file_close(struct log_file *f)
{
	if (!f)
		return;
	if (f->fd >= 0)
		(void)file_system->close(f->fd); /* every line is in the file already */
	free(f->path);
	free(f);
}

static enum status cut_torn(struct log_file *f)
{
	if (f->torn && file_system->ftruncate(f->fd, f->whole) < 0)
		return error_set_errno(STATUS_IO, "%s: cannot cut off a torn line", f->path);
	f->torn = false;
	return STATUS_OK;
}

static enum status add(struct log_file *f, const char *line, size_t bytes)
{
	struct stat info;
	TRY(cut_torn(f));
	if (fstat(f->fd, &info) < 0)
		return error_set_errno(STATUS_IO, "%s: cannot stat", f->path);
	f->whole = info.st_size;
	f->torn = true;
	TRY(file_write_all(f->fd, f->path, line, bytes));
	f->torn = false;
	return STATUS_OK;
}

const char *log_file_add(struct log_file *f, const char *line, size_t bytes)
{
	if (add(f, line, bytes) == STATUS_OK) {
		if (!f->lost)
			return NULL;
		snprintf(f->told, sizeof f->told, "%s: can be written again; %" PRIu64 " lines are missing",
			f->path, f->lost);
		f->lost = 0;
		return f->told;
	}
	snprintf(f->told, sizeof f->told,
		"%s; the run goes on, and lines of this file are lost until that is mended", error_message());
	enum status tried_again_later = cut_torn(f);
	(void)tried_again_later;
	return f->lost++ ? NULL : f->told;
}
