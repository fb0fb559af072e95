#include "tools/command.h"

#include "tools/part.h"

#include <stdio.h>
#include <string.h>

int command_finish(const char *name, enum status status)
{
	const char *space = name ? " " : "";
	name = name ? name : "";
	/* The message may be the only clue: it goes out even where standard output is broken. */
	if (status != STATUS_OK)
		fprintf(stderr, "ferry%s%s: %s\n", space, name, error_message());
	if (status == STATUS_USAGE && *name)
		fprintf(stderr, "`ferry help %s` lists the flags\n", name);
	if ((fflush(stdout) != 0 || ferror(stdout)) && status == STATUS_OK) {
		status = error_set_errno(STATUS_IO, "standard output: write failed");
		fprintf(stderr, "ferry%s%s: %s\n", space, name, error_message());
	}
	return error_exit_code(status);
}

void command_note_escapes(const char *flag, const char *text)
{
	if (!text || !strstr(text, "\\n") || part_follows())
		return;
	fprintf(stderr,
		"note: %s '%s': \\n is a backslash and an n here; the end of a line is $'\\n' in bash\n",
		flag, text);
}
