/*
 * bench_loader [WINDOWS [PART...]]: how fast data/ starts and reads. Makes its corpora in $TMPDIR (4.5 GB of
 * disk) and removes them. All parts, or those named:
 *
 * terabyte   1,024 sparse shards, a million documents: opening, splitting, the first batch; peak resident
 *            memory then and 200 batches later. Each in a process of its own; the last two with .key, .idx
 *            and .sum dropped from the page cache before.
 * memory     a corpus of 2 GiB in the page cache: microseconds for a verified batch of 24 x 1025 tokens, read
 *            directly and through the loader; median of the rounds, and the fastest.
 * disk       the same corpus dropped from the page cache: WINDOWS random windows (20,000) through the loader,
 *            beside 16 threads that pread the same pages and do nothing else.
 * large      only if named: a corpus of GIGABYTES (8) in $TMPDIR, dropped from the page cache: WINDOWS windows
 *            in the order of training and one after another through the loader, beside programs that only
 *            read the same bytes, with the page cache and without (O_DIRECT), in turns; medians of ROUNDS
 *            (3). Of use where memory is less than the corpus: tests/bench/larger_than_memory.sh.
 */
#include "common/clock.h"
#include "common/memory.h"
#include "data/loader.h"
#include "tests/bench/median.h"
#include "tests/unit/data/sparse_corpus.h"

#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/wait.h>

enum { T = 1024, BATCH = 24, ROUNDS = 400, DISK_THREADS = 16 };

static void check(enum status status)
{
	if (status != STATUS_OK) {
		fprintf(stderr, "bench_loader: %s\n", error_message());
		exit(1);
	}
}

static void open_ordered(
	const char *directory, bool shuffled, struct corpus **corpus, struct sampler *sampler)
{
	struct split_shares shares = {{949, 50, 1}};
	struct split_range ranges[SPLIT_PARTS];
	check(corpus_open(directory, corpus));
	check(split_corpus(*corpus, &shares, ranges));
	check(sampler_open(sampler, &ranges[SPLIT_TRAIN], SPLIT_TRAIN, T, 1234, shuffled));
}

static void open_data(const char *directory, struct corpus **corpus, struct sampler *sampler)
{
	open_ordered(directory, true, corpus, sampler);
}

static struct loader *open_loader(
	struct corpus *corpus, const struct sampler *sampler, uint64_t first, int threads, int depth)
{
	struct loader_config config = {.corpus = corpus,
		.sampler = *sampler,
		.first_ordinal = first,
		.global_batch = BATCH,
		.micro_batch = BATCH,
		.ranks = 1,
		.threads = threads,
		.depth = depth};
	struct loader *loader;
	check(loader_open(&config, &loader));
	return loader;
}

/* ---- a terabyte ---- */

/* In a process of its own: prints one line. */
static int start_up(const char *directory)
{
	struct corpus *corpus;
	struct sampler sampler;
	struct loader_batch batch;
	double started = clock_seconds();
	open_data(directory, &corpus, &sampler);
	struct loader *loader = open_loader(corpus, &sampler, 0, 2, 2);
	check(loader_next(loader, &batch));
	double first = clock_seconds();
	uint64_t resident = memory_peak_resident();
	for (int i = 0; i < 200; i++)
		check(loader_next(loader, &batch));
	printf("%6.1f ms to the first batch, %5.1f MB resident; 200 more in %6.1f ms, %5.1f MB\n",
		(first - started) * 1e3, (double)resident / 1e6, (clock_seconds() - first) * 1e3,
		(double)memory_peak_resident() / 1e6);
	loader_close(loader);
	corpus_close(corpus);
	return 0;
}

static void spawn_start_up(const char *label, const char *directory)
{
	extern char **environ;
	const char *arguments[] = {"bench_loader", "--start-up", directory, NULL};
	pid_t child;
	int status;
	printf("%-22s", label);
	fflush(stdout);
	if (posix_spawn(&child, "/proc/self/exe", NULL, NULL, (char **)arguments, environ) != 0 ||
		waitpid(child, &status, 0) != child || status != 0)
		exit(1);
}

static void drop(const struct sparse_corpus *corpus, const char *suffix)
{
	char path[256];
	for (uint64_t s = 0; s < corpus->shards; s++) {
		snprintf(path, sizeof path, "%s/%05" PRIu64 ".%s", corpus->directory, s, suffix);
		int fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		fdatasync(fd);
		posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
		close(fd);
	}
}

static void make(struct sparse_corpus *corpus)
{
	const char *temporary = getenv("TMPDIR");
	snprintf(corpus->directory, sizeof corpus->directory, "%s/ferry-bench-XXXXXX",
		temporary ? temporary : "/tmp");
	sparse_check(mkdtemp(corpus->directory) != NULL, corpus->directory);
	sparse_corpus_create(corpus);
}

static void measure_terabyte(void)
{
	struct sparse_corpus corpus = {"", 1024, UINT64_C(1) << 30, 1000, 0};
	printf("a terabyte, 1,024 shards of 1 GiB, 1,024,000 documents\n");
	make(&corpus);
	spawn_start_up("  from the page cache", corpus.directory);
	spawn_start_up("  again", corpus.directory);
	for (int i = 0; i < 2; i++) {
		drop(&corpus, "sum");
		drop(&corpus, "idx");
		drop(&corpus, "key");
		drop(&corpus, "bin");
		spawn_start_up(i ? "  again" : "  from the disk", corpus.directory);
	}
	sparse_corpus_remove(&corpus);
}

/* ---- page cache ---- */

static void print_rounds(const char *label, double *rounds)
{
	double typical = median(rounds, ROUNDS);
	printf("  %-42s %7.1f us   fastest %7.1f us\n", label, typical * 1e6, rounds[0] * 1e6);
}

static void measure_direct(struct corpus *corpus, struct sampler sampler, bool prefetch)
{
	static int32_t tokens[BATCH][T + 1];
	double rounds[ROUNDS];
	/* Twice: the first pass brings the windows' pages and hashes in. */
	for (int pass = 0; pass < 2; pass++)
		for (uint64_t r = 0; r < ROUNDS; r++) {
			double started = clock_seconds();
			for (uint64_t i = 0; i < BATCH && prefetch; i++)
				corpus_prefetch(
					corpus, sampler_get(&sampler, r * BATCH + i).first_token, T + 1);
			for (uint64_t i = 0; i < BATCH; i++)
				check(corpus_read(corpus, sampler_get(&sampler, r * BATCH + i).first_token,
					T + 1, tokens[i]));
			rounds[r] = clock_seconds() - started;
		}
	print_rounds(prefetch ? "read directly, asked for first (madvise)" : "read directly", rounds);
}

static void measure_loader(struct corpus *corpus, const struct sampler *sampler, int threads)
{
	double rounds[ROUNDS];
	struct loader_batch batch;
	struct loader *loader = open_loader(corpus, sampler, 0, threads, 4);
	char label[64];
	for (int i = 0; i < 8; i++)
		check(loader_next(loader, &batch));
	for (int r = 0; r < ROUNDS; r++) {
		double started = clock_seconds();
		check(loader_next(loader, &batch));
		rounds[r] = clock_seconds() - started;
	}
	loader_close(loader);
	double sum = 0;
	for (int r = 0; r < ROUNDS; r++)
		sum += rounds[r];
	snprintf(label, sizeof label, "loader, %d thread%s: mean %.1f us; median", threads,
		threads > 1 ? "s" : "", sum / ROUNDS * 1e6);
	print_rounds(label, rounds);
}

/* ---- disk ---- */

struct raw {
	const struct sparse_corpus *sparse;
	struct sampler sampler;
	int fds[16];
	uint64_t windows;
	atomic_uint_fast64_t next;
};

static void *read_raw(void *argument)
{
	struct raw *raw = argument;
	struct sampler sampler = raw->sampler;
	_Alignas(4096) char room[16384];
	uint64_t at, ordinal;
	while ((ordinal = atomic_fetch_add(&raw->next, 1)) < raw->windows) {
		at = 2 * sampler_get(&sampler, ordinal).first_token;
		uint64_t first = at / 4096 * 4096, end = (at + 2 * (T + 1) + 4095) / 4096 * 4096;
		uint64_t shard = first / raw->sparse->shard_bytes;
		if (pread(raw->fds[shard], room, end - first, (off_t)(first % raw->sparse->shard_bytes)) < 0)
			exit(1);
	}
	return NULL;
}

static void open_files(const struct sparse_corpus *sparse, int flags, int fds[16])
{
	for (uint64_t s = 0; s < sparse->shards; s++) {
		char path[256];
		snprintf(path, sizeof path, "%s/%05" PRIu64 ".bin", sparse->directory, s);
		fds[s] = open(path, O_RDONLY | flags);
		sparse_check(fds[s] >= 0, path);
	}
}

static void close_files(const struct sparse_corpus *sparse, const int fds[16])
{
	for (uint64_t s = 0; s < sparse->shards; s++)
		close(fds[s]);
}

/* The windows' pages by DISK_THREADS threads that do nothing else. */
static double time_raw(
	const struct sparse_corpus *sparse, const struct sampler *sampler, uint64_t windows, int flags)
{
	struct raw raw = {.sparse = sparse, .sampler = *sampler, .windows = windows};
	pthread_t threads[DISK_THREADS];
	open_files(sparse, flags, raw.fds);
	for (uint64_t s = 0; s < sparse->shards; s++)
		posix_fadvise(raw.fds[s], 0, 0, POSIX_FADV_RANDOM);
	double started = clock_seconds();
	for (int i = 0; i < DISK_THREADS; i++)
		pthread_create(&threads[i], NULL, read_raw, &raw);
	for (int i = 0; i < DISK_THREADS; i++)
		pthread_join(threads[i], NULL);
	double took = clock_seconds() - started;
	close_files(sparse, raw.fds);
	return took;
}

static double time_loader(
	struct corpus *corpus, const struct sampler *sampler, uint64_t windows, int threads, int depth)
{
	struct loader_batch batch;
	double started = clock_seconds();
	struct loader *loader = open_loader(corpus, sampler, 0, threads, depth);
	for (uint64_t i = 0; i < windows / BATCH; i++)
		check(loader_next(loader, &batch));
	double took = clock_seconds() - started;
	loader_close(loader);
	return took;
}

static void print_disk(const char *label, double took, uint64_t windows)
{
	printf("  %-34s %8.0f windows/s   %7.1f MB/s of tokens   %7.0f us for 24\n", label,
		(double)windows / took, (double)windows * 2 * T / took / 1e6,
		took / (double)windows * BATCH * 1e6);
}

static void measure_disk(const struct sparse_corpus *sparse, uint64_t windows)
{
	static const struct {
		int threads, depth;
	} ways[] = {{1, 4}, {2, 8}, {4, 16}};
	struct corpus *corpus;
	struct sampler sampler;
	printf("from the disk, %" PRIu64 " random windows of 1025 tokens\n", windows);
	open_data(sparse->directory, &corpus, &sampler);
	for (int round = 0; round < 2; round++) {
		drop(sparse, "bin");
		print_disk(
			"16 threads of pread, nothing else", time_raw(sparse, &sampler, windows, 0), windows);
		for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
			char label[64];
			/* A map keeps its pages from being dropped. */
			corpus_close(corpus);
			drop(sparse, "bin");
			drop(sparse, "sum");
			open_data(sparse->directory, &corpus, &sampler);
			snprintf(label, sizeof label, "loader, threads %d, depth %d", ways[i].threads,
				ways[i].depth);
			print_disk(label,
				time_loader(corpus, &sampler, windows, ways[i].threads, ways[i].depth),
				windows);
		}
		corpus_close(corpus);
		drop(sparse, "bin");
		open_data(sparse->directory, &corpus, &sampler);
	}
	corpus_close(corpus);
}

/* ---- larger than memory ---- */

/* As many bytes as the windows have, one after another, in pieces of a MiB. */
static double time_stream(const struct sparse_corpus *sparse, uint64_t windows, int flags)
{
	enum { PIECE = 1 << 20 };
	static _Alignas(4096) char room[PIECE];
	int fds[16];
	uint64_t bytes = windows * 2 * T, at = 0;
	open_files(sparse, flags, fds);
	double started = clock_seconds();
	for (; at < bytes; at += PIECE)
		sparse_check(pread(fds[at / sparse->shard_bytes], room, PIECE,
				     (off_t)(at % sparse->shard_bytes)) == PIECE,
			"reading");
	double took = clock_seconds() - started;
	close_files(sparse, fds);
	return took;
}

enum { WAYS = 5, MOST_ROUNDS = 15 };

static double time_way(const struct sparse_corpus *sparse, bool shuffled, uint64_t windows, int way)
{
	static const struct {
		int threads, depth;
	} loaders[WAYS] = {[2] = {1, 4}, {2, 8}, {4, 16}};
	struct corpus *corpus;
	struct sampler sampler;
	drop(sparse, "bin");
	drop(sparse, "sum");
	open_ordered(sparse->directory, shuffled, &corpus, &sampler);
	int flags = way == 0 ? O_DIRECT : 0;
	double took =
		way >= 2   ? time_loader(corpus, &sampler, windows, loaders[way].threads, loaders[way].depth)
		: shuffled ? time_raw(sparse, &sampler, windows, flags)
			   : time_stream(sparse, windows, flags);
	corpus_close(corpus);
	return took;
}

static void measure_order(const struct sparse_corpus *sparse, bool shuffled, uint64_t windows, int rounds)
{
	static const char *const labels[2][WAYS] = {
		{"one read after another, O_DIRECT", "with the page cache, read ahead",
			"loader, threads 1, depth 4", "loader, threads 2, depth 8",
			"loader, threads 4, depth 16"},
		{"16 threads of pread, O_DIRECT", "with the page cache", "loader, threads 1, depth 4",
			"loader, threads 2, depth 8", "loader, threads 4, depth 16"}};
	double took[WAYS][MOST_ROUNDS];
	printf("%s, %" PRIu64 " windows of 1025 tokens\n", shuffled ? "shuffled" : "in order", windows);
	for (int round = 0; round < rounds; round++)
		for (int way = 0; way < WAYS; way++)
			took[way][round] = time_way(sparse, shuffled, windows, way);
	for (int way = 0; way < WAYS; way++)
		print_disk(labels[shuffled][way], median(took[way], rounds), windows);
}

static uint64_t setting(const char *name, uint64_t otherwise, uint64_t most)
{
	const char *text = getenv(name);
	uint64_t value = text ? strtoull(text, NULL, 10) : otherwise;
	return value < 1 ? 1 : value > most ? most : value;
}

static void measure_large(uint64_t windows)
{
	uint64_t gigabytes = setting("GIGABYTES", 8, 16);
	int rounds = (int)setting("ROUNDS", 3, MOST_ROUNDS);
	struct sparse_corpus large = {"", 8, gigabytes << 27, 10000, 1};
	printf("a corpus of %" PRIu64 " GiB, not in the page cache, medians of %d\n", gigabytes, rounds);
	fflush(stdout);
	make(&large);
	if (windows > large.shard_bytes * 7 / (2 * T))
		windows = large.shard_bytes * 7 / (2 * T);
	measure_order(&large, true, windows, rounds);
	measure_order(&large, false, windows, rounds);
	sparse_corpus_remove(&large);
}

static bool wants(const char *part, int argc, char **argv)
{
	for (int i = 2; i < argc; i++)
		if (strcmp(argv[i], part) == 0)
			return true;
	return argc < 3;
}

static void measure_memory(const struct sparse_corpus *sparse)
{
	struct corpus *corpus;
	struct sampler sampler;
	printf("from the page cache, a batch of 24 x 1025 tokens, every page verified\n");
	open_data(sparse->directory, &corpus, &sampler);
	measure_direct(corpus, sampler, false);
	measure_direct(corpus, sampler, true);
	for (int round = 0; round < 3; round++) {
		measure_loader(corpus, &sampler, 1);
		measure_loader(corpus, &sampler, 2);
	}
	corpus_close(corpus);
}

int main(int argc, char **argv)
{
	uint64_t windows = argc > 1 ? strtoull(argv[1], NULL, 10) : 20000;
	struct sparse_corpus filled = {"", 8, UINT64_C(256) << 20, 10000, 1};
	if (argc == 3 && strcmp(argv[1], "--start-up") == 0)
		return start_up(argv[2]);
	if (argc > 2 && wants("large", argc, argv))
		measure_large(windows);
	if (wants("terabyte", argc, argv))
		measure_terabyte();
	if (!wants("memory", argc, argv) && !wants("disk", argc, argv))
		return 0;
	make(&filled);
	if (wants("memory", argc, argv))
		measure_memory(&filled);
	if (wants("disk", argc, argv))
		measure_disk(&filled, windows);
	sparse_corpus_remove(&filled);
	return 0;
}
