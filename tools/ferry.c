/*
 * ferry.c: the program. Chooses a subcommand; everything else is in cmd_*.c.
 */
#include "common/simd.h"
#include "kernels/kernels.h"
#include "tools/command.h"
#include "tools/options.h"
#include "tools/part.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

struct command {
	const char *name, *summary;
	int (*run)(int argc, char **argv);
};

#define COMMAND_ENTRY(symbol, name, summary) {name, summary, cmd_##symbol},
static const struct command commands[] = {COMMANDS(COMMAND_ENTRY)};
enum { COMMAND_COUNT = sizeof commands / sizeof *commands };

static void print_help(FILE *out)
{
	fprintf(out, "ferry: pretrain GPT-2 on your own text\n\nusage: ferry COMMAND [flags]\n\n");
	for (int i = 0; i < COMMAND_COUNT; i++)
		fprintf(out, "  %-15s %s\n", commands[i].name, commands[i].summary);
	fprintf(out, "\n`ferry help COMMAND` lists a command's flags. `ferry --version` says what this build "
		     "has.\n"
		     "From text to a model:\n\n"
		     "  ferry preprocess my-text/ --output corpus\n"
		     "  ferry train --train-data corpus\n"
		     "  ferry evaluate --load run --data corpus\n"
		     "  ferry generate --load run --prompt 'Once'\n");
}

static int print_version(void)
{
	struct kernels gpu;
	struct kernels_config config = {.act = DTYPE_BF16, .grad = DTYPE_F32};
	if (part_follows())
		return 0;
	printf("ferry %s\n", FERRY_VERSION);
	printf("unicode            16.0\n");
	printf("matrix products    %s\n", FERRY_GEMM);
	printf("instruction set    %s, of this processor's\n", simd_isa_name(simd_isa_get()));
	if (kernels_open_cuda(&config, &gpu) == STATUS_OK) {
		printf("GPU                %s\n", gpu.name);
		printf("its attention      by %s\n", gpu.attention);
		gpu.close(&gpu);
	} else {
		printf("left out           GPU: %s\n", error_message());
	}
	return command_finish("--version", STATUS_OK);
}

static enum status unknown_command(const char *name)
{
	const char *names[COMMAND_COUNT];
	for (int i = 0; i < COMMAND_COUNT; i++)
		names[i] = commands[i].name;
	FAIL_IF(name[0] == '-', STATUS_USAGE,
		"'%s' is no command, which comes first: ferry COMMAND [flags]; `ferry help` lists them",
		name);
	const char *nearest = options_nearest(name, names, COMMAND_COUNT);
	if (nearest)
		return error_set(STATUS_USAGE, "there is no command '%s'; did you mean %s?", name, nearest);
	return error_set(STATUS_USAGE, "there is no command '%s'; `ferry help` lists them", name);
}

/* Do several processes share it out, or only print its help? */
static bool is_shared(int argc, char **argv)
{
	static const char *const flags[] = {"--part", "--finish", "--help", "-h"};
	if (strcmp(argv[0], "train") == 0 || strcmp(argv[0], "evaluate") == 0)
		return true;
	for (int i = 1; i < argc; i++)
		for (size_t f = 0; f < sizeof flags / sizeof *flags; f++)
			if (strncmp(argv[i], flags[f], strlen(flags[f])) == 0)
				return true;
	return false;
}

static int run_command(int argc, char **argv)
{
	for (int i = 0; i < COMMAND_COUNT; i++) {
		if (strcmp(commands[i].name, argv[0]) != 0)
			continue;
		enum status alone = is_shared(argc, argv) ? STATUS_OK : part_check_alone(argv[0]);
		if (alone == STATUS_OK)
			return commands[i].run(argc, argv);
		return part_follows() ? error_exit_code(alone) : command_finish(argv[0], alone);
	}
	enum status status = unknown_command(argv[0]);
	return part_follows() ? error_exit_code(status) : command_finish(NULL, status);
}

static bool is_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

static int help(int argc, char **argv)
{
	if (argc < 2 || is_help(argv[1])) {
		if (!part_follows())
			print_help(stdout);
		return command_finish("help", STATUS_OK);
	}
	char *arguments[] = {argv[1], (char[]){"--help"}, NULL};
	return run_command(2, arguments);
}

/*
 * libgomp's threads spin for milliseconds at every barrier, which on a busy machine makes training many times
 * slower (and no faster on an idle one). It reads its limit when it is loaded, so for the commands that compute the
 * program starts itself once more with it set. OMP_WAIT_POLICY or GOMP_SPINCOUNT in the environment have their way.
 */
static void spin_briefly(char **argv)
{
	static const char *const computing[] = {"train", "plan", "evaluate", "generate"};
	for (size_t i = 0; i < sizeof computing / sizeof *computing; i++)
		if (strcmp(argv[1], computing[i]) == 0 && !getenv("OMP_WAIT_POLICY") &&
			!getenv("GOMP_SPINCOUNT") && setenv("GOMP_SPINCOUNT", "1000", 0) == 0)
			execv("/proc/self/exe", argv); /* where it cannot, it goes on as it is */
	prctl(PR_SET_NAME,
		program_invocation_short_name); /* for ps and killall: started so, it is called "exe" */
}

/*
 * A standard stream that is closed would become the next file that is opened: a checkpoint's bytes would be taken for a
 * prompt, and a message written into a corpus. /dev/null takes its place, the wrong way round, so that using it is the
 * error that it was.
 */
static void hold_streams(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			(void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
}

int main(int argc, char **argv)
{
	hold_streams();
	if (argc < 2) {
		if (!part_follows())
			print_help(stderr);
		return error_exit_code(STATUS_USAGE);
	}
	spin_briefly(argv);
	signal(SIGXFSZ, SIG_IGN); /* a write beyond `ulimit -f` is an error that names the file */
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "version") == 0)
		return print_version();
	if (is_help(argv[1]))
		return help(argc - 1, argv + 1);
	return run_command(argc - 1, argv + 1);
}
