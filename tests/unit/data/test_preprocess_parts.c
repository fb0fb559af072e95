/*
 * Several processes on one corpus: whatever their number, order, deaths and meetings, the files are those of
 * one process, byte for byte.
 */
#include "data/preprocess.h"

#include "data/claims.h"
#include "data/output_lock.h"
#include "tests/unit/data/preprocess_fixture.h"
#include "tests/unit/nfs_files.h"
#include "tests/unit/under_tsan.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

static const char *input;
static int near_bands;
static uint64_t shard_bytes; /* some eight shards */

/* JSONL in several files, a bad line now and then, some documents more than once. */
static void make_inputs(int files, int documents)
{
	uint32_t seed = 11;
	must(directory_remove(in_root("in")));
	must(directory_create(in_root("in")));
	for (int i = 0; i < files; i++) {
		char path[300];
		snprintf(path, sizeof path, "%s/%d.jsonl", in_root("in"), i);
		FILE *file = fopen(path, "wb");
		assert_non_null(file);
		for (int d = 0; d < documents; d++) {
			uint32_t words = below(&seed, 3) ? 0 : below(&seed, 60), other = below(&seed, 5);
			uint32_t *from = words && words < 4 ? &other : &seed; /* some are much alike */
			fprintf(file, "{\"text\": \"Document %u:", below(&seed, 1000));
			for (uint32_t w = from == &other ? 80 : words; w > 0; w--)
				fprintf(file, " word%u", below(from, 300));
			fputs(below(&seed, 100) ? "\"}\n" : "\n", file);
		}
		assert_int_equal(fclose(file), 0);
	}
	input = in_root("in");
	shard_bytes = (uint64_t)files * (uint64_t)documents * 4;
}

static struct preprocess_config basic(void)
{
	return (struct preprocess_config){
		.inputs = &input,
		.input_count = 1,
		.output = in_root("out"),
		.tokenizer = tokenizer,
		.text_key = "text",
		.workers = 2,
		.memory = 8 << 20,
		.max_bytes = 1 << 20,
		.sources = true,
		.near_bands = near_bands,
		.near_rows = 2,
		.unit_bytes = 4000,
		.shard_bytes = shard_bytes,
	};
}

static struct preprocess_config part_of(uint32_t part, uint32_t parts)
{
	struct preprocess_config config = basic();
	config.mode = PREPROCESS_PART;
	config.part = part;
	config.parts = parts;
	return config;
}

/* What `ferry preprocess --finish --output out` has. */
static struct preprocess_config finishing(void)
{
	return (struct preprocess_config){.output = in_root("out"),
		.text_key = "text",
		.workers = 2,
		.memory = 8 << 20,
		.max_bytes = 1 << 20,
		.mode = PREPROCESS_FINISH};
}

static struct preprocess_result run(const struct preprocess_config *config)
{
	struct preprocess_result result;
	must(preprocess_run(config, &result));
	return result;
}

static void refuse(const struct preprocess_config *config, enum status status, const char *words)
{
	struct preprocess_result result;
	expect_refusal(preprocess_run(config, &result), status, words);
}

static void remake_reference_of(uint64_t least_shards)
{
	struct preprocess_config config = basic();
	config.output = in_root("reference");
	must(directory_remove(config.output));
	struct preprocess_result result = run(&config);
	assert_true(result.shards >= least_shards);
	assert_true(least_shards == 1 || (result.duplicates > 0 && result.rejected > 0));
	assert_true(result.complete && result.published);
}

static void remake_reference(void)
{
	remake_reference_of(2);
}

/* `out` is the reference, to the byte, and holds nothing else but which job it was; it is removed. */
static void expect_reference(void)
{
	must(file_remove(in_root("out/.job")));
	expect_same(in_root("reference"), in_root("out"));
	must(directory_remove(in_root("out")));
}

/* ---- processes ---- */

static pid_t start(const struct preprocess_config *config)
{
	fflush(NULL);
	pid_t process = fork();
	assert_true(process >= 0);
	if (process == 0) {
		struct preprocess_result result;
		alarm(200); /* should one ever wait for good */
		enum status status = preprocess_run(config, &result);
		if (status != STATUS_OK)
			fprintf(stderr, "process %d: %s\n", (int)getpid(), error_message());
		_exit(status == STATUS_OK ? result.complete ? 10 : 11 : 1);
	}
	return process;
}

/* Its exit code; -1 when it was killed. */
static int wait_for(pid_t process)
{
	int status;
	assert_int_equal(waitpid(process, &status, 0), process);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

enum { COMPLETE = 10, LEFT = 11 };

/* ---- tests ---- */

static void parts_one_after_another(void **state)
{
	(void)state;
	static const uint32_t counts[] = {1, 2, 3, 7, 500};
	make_inputs(3, 300);
	remake_reference();
	for (size_t i = 0; i < sizeof counts / sizeof *counts - UNDER_TSAN; i++) {
		uint32_t parts = counts[i];
		for (uint32_t part = parts; part > 0; part--) { /* backwards */
			struct preprocess_config config = part_of(part, parts);
			config.workers = 1 + (int)(part % 3);
			struct preprocess_result result = run(&config);
			assert_false(result.complete);
			assert_true(result.units > 10 && result.units < 500);
			assert_int_equal(result.parts_missing, part - 1);
			assert_int_equal(result.first_missing, part > 1);
			assert_int_equal(result.resumed, true);
		}
		/* It reads nothing of the inputs, and need not be told of them. */
		assert_int_equal(rename(in_root("in"), in_root("hidden")), 0);
		struct preprocess_config finish = finishing();
		struct preprocess_result result = run(&finish);
		assert_int_equal(rename(in_root("hidden"), in_root("in")), 0);
		assert_true(result.complete && result.published);
		/* Once more: it is there, and that is fine. */
		result = run(&finish);
		assert_true(result.complete && !result.published && result.documents > 100);
		expect_reference();
	}
	/* With the inputs given again; and with what one command began. */
	struct preprocess_config config = part_of(2, 2);
	run(&config);
	config = part_of(1, 2);
	run(&config);
	config = basic();
	config.mode = PREPROCESS_FINISH;
	assert_true(run(&config).published);
	expect_reference();
	config = part_of(2, 3);
	run(&config);
	config = basic();
	assert_true(run(&config).resumed);
	expect_reference();
}

static void at_the_same_time(void **state)
{
	(void)state;
	enum { PARTS = 4, FINISHERS = 3 };
	pid_t processes[PARTS];
	for (int round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < PARTS; i++) {
			struct preprocess_config config = part_of(i + 1, PARTS);
			processes[i] = start(&config);
		}
		for (int i = 0; i < PARTS; i++)
			assert_int_equal(wait_for(processes[i]), LEFT);
		struct preprocess_config finish = finishing();
		for (int i = 0; i < FINISHERS; i++)
			processes[i] = start(&finish);
		for (int i = 0; i < FINISHERS; i++)
			assert_int_equal(wait_for(processes[i]), COMPLETE);
		expect_reference();
	}
}

/* As mpirun starts them: all end when the corpus is there. As a job array does: the last makes it. */
static void parts_that_finish(void **state)
{
	(void)state;
	enum { PARTS = 4 };
	for (int round = 0; round < 6; round++) {
		pid_t processes[PARTS];
		int complete = 0;
		for (uint32_t i = 0; i < PARTS; i++) {
			struct preprocess_config config = part_of(i + 1, PARTS);
			config.mode = round % 2 ? PREPROCESS_PART_TOGETHER : PREPROCESS_PART_LAST;
			processes[i] = start(&config);
		}
		for (int i = 0; i < PARTS; i++) {
			int code = wait_for(processes[i]);
			assert_true(code == COMPLETE || (code == LEFT && round % 2 == 0));
			complete += code == COMPLETE;
		}
		assert_true(complete >= 1);
		expect_reference();
	}
	/* More parts than units: those with nothing to do are waited for all the same. */
	struct preprocess_config config = part_of(1, 3);
	config.unit_bytes = 1 << 30;
	config.mode = PREPROCESS_PART_LAST;
	assert_false(run(&config).complete);
	config.part = 3;
	assert_int_equal(run(&config).first_missing, 2);
	config.part = 2;
	assert_true(run(&config).published);
	expect_reference();
}

static void pause_for(long milliseconds)
{
	struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
	nanosleep(&time, NULL);
}

/* kill -9, at any moment of either pass: who is started again goes on, and the others take over. */
static void killed_and_started_again(void **state)
{
	(void)state;
	enum { PARTS = 3 };
	uint32_t seed = 3;
	int killed = 0;
	make_inputs(4, 1500);
	remake_reference();
	for (int round = 0; round < 4; round++) {
		struct preprocess_config configs[PARTS];
		pid_t processes[PARTS];
		for (uint32_t i = 0; i < PARTS; i++) {
			configs[i] = part_of(i + 1, PARTS);
			configs[i].mode = PREPROCESS_PART_TOGETHER;
			processes[i] = start(&configs[i]);
		}
		for (int kills = 0; kills < 6; kills++) {
			uint32_t i = below(&seed, PARTS);
			pause_for((long)below(&seed, 60));
			(void)kill(processes[i], SIGKILL);
			int code = wait_for(processes[i]);
			killed += code == -1;
			processes[i] = code == -1 ? start(&configs[i]) : 0;
			if (code !=
				-1) { /* nothing is left to do, for any of them; one may be putting it in place */
				assert_true(file_exists(in_root("out/corpus.json")) ||
					    file_exists(in_root("out/next/corpus.json")) ||
					    file_exists(in_root("out/corpus.json")));
				break;
			}
		}
		/* Who was killed when all was done finds a corpus there when it is started again. */
		for (int i = 0; i < PARTS; i++)
			assert_int_not_equal(processes[i] ? wait_for(processes[i]) : COMPLETE, LEFT);
		expect_reference();
	}
	assert_true(killed > 3);
}

static void finishers_are_killed(void **state)
{
	(void)state;
	int killed = 0;
	for (int round = 0; round < (UNDER_TSAN ? 4 : 8); round++) {
		for (uint32_t i = 0; i < 2; i++) {
			struct preprocess_config config = part_of(i + 1, 2);
			run(&config);
		}
		struct preprocess_config finish = finishing();
		pid_t first = start(&finish), second = start(&finish);
		pause_for(15 * round);
		(void)kill(first, SIGKILL);
		killed += wait_for(first) == -1;
		assert_int_equal(wait_for(second), COMPLETE);
		assert_true(run(&finish).complete);
		expect_reference();
	}
	assert_true(killed > (UNDER_TSAN ? 0 : 2));
}

static void claims_exclude(void **state)
{
	(void)state;
	struct claims one, other;
	bool taken, held;
	must(directory_create(in_root("claims")));
	must(claims_open(in_root("claims/file"), &one));
	must(claims_open(in_root("claims/file"), &other));
	must(claims_take(&one, CLAIM_SHARD, 7, &taken));
	assert_true(taken);
	must(claims_take(&other, CLAIM_SHARD, 7, &taken));
	assert_false(taken);
	must(claims_is_held(&other, CLAIM_SHARD, 7, &held));
	assert_true(held);
	must(claims_is_held(&other, CLAIM_SHARD, 8, &held));
	assert_false(held);
	must(claims_take(&other, CLAIM_UNIT, 7, &taken));
	assert_true(taken);
	claims_release(&one, CLAIM_SHARD, 7);
	must(claims_take(&other, CLAIM_SHARD, 7, &taken));
	assert_true(taken);
	claims_close(&other);
	must(claims_is_held(&one, CLAIM_SHARD, 7, &held));
	assert_false(held);
	claims_close(&one);
}

static bool is_done(int shard)
{
	char path[300];
	snprintf(path, sizeof path, "%s/shard-%05d.json", in_root("out/work"), shard);
	return file_exists(path);
}

/* A shard that another process has is left to it, and taken over when that process lets go; so is publishing.
 */
static void others_are_waited_for(void **state)
{
	(void)state;
	struct claims claims;
	bool taken;
	make_inputs(2, 200);
	remake_reference();
	struct preprocess_config config = part_of(1, 1), finish = finishing();
	run(&config);
	must(claims_open(in_root("out/work/claims"), &claims));
	must(claims_take(&claims, CLAIM_SHARD, 1, &taken));
	must(claims_take(&claims, CLAIM_PUBLISH, 0, &taken));
	pid_t process = start(&finish);
	while (!is_done(0))
		pause_for(10);
	pause_for(200);
	assert_false(is_done(1));
	claims_release(&claims, CLAIM_SHARD, 1);
	while (!is_done(1))
		pause_for(10);
	pause_for(200);
	assert_false(file_exists(in_root("out/corpus.json")));
	claims_release(
		&claims, CLAIM_PUBLISH, 0); /* the process inherited the file: closing it is not enough */
	assert_int_equal(wait_for(process), COMPLETE);
	claims_close(&claims);
	expect_reference();
}

static void who_may_work_there(void **state)
{
	(void)state;
	struct output_lock lock, other;
	struct claims claims;
	bool taken;
	make_inputs(1, 300);
	remake_reference();
	/* A run is at work. */
	must(output_lock_alone(in_root("out"), &lock));
	struct preprocess_config part = part_of(1, 2), alone = basic(), finish = finishing();
	refuse(&part, STATUS_USAGE, "another run is at work on this output");
	refuse(&alone, STATUS_USAGE, "another run is at work on this output");
	output_lock_release(&lock);
	assert_false(file_exists(in_root("out/.lock")));
	/* Parts are. */
	run(&part);
	must(output_lock_join(in_root("out"), &lock));
	assert_true(lock.alone);
	must(output_lock_share(&lock));
	must(output_lock_join(in_root("out"), &other));
	assert_false(other.alone);
	refuse(&alone, STATUS_USAGE, "parts of a run are at work on this output");
	run(&part);
	/* The same part is; and another option makes it another job. */
	must(claims_open(in_root("out/work/claims"), &claims));
	must(claims_take(&claims, CLAIM_PART, 2u << 20 | 2, &taken));
	assert_true(taken);
	part.part = 2;
	refuse(&part, STATUS_USAGE, "part 2/2 is at work already");
	claims_close(&claims);
	part.max_bytes++;
	refuse(&part, STATUS_MISMATCH, "longest document is");
	part.overwrite = true; /* not while others are at work */
	refuse(&part, STATUS_MISMATCH, "longest document is");
	refuse(&finish, STATUS_USAGE, "units are not there yet");
	assert_non_null(strstr(error_message(), "(1, 3, 5"));
	/* The last to leave takes the lock along. */
	output_lock_leave(&other);
	assert_null(other.path);
	assert_true(file_exists(in_root("out/.lock")));
	output_lock_leave(&lock);
	assert_true(lock.alone);
	output_lock_release(&lock);
	assert_false(file_exists(in_root("out/.lock")));
	run(&part); /* begins anew, as it says */
	must(directory_remove(in_root("out")));
	refuse(&finish, STATUS_USAGE, "holds no unfinished run");
	part = part_of(3, 2);
	refuse(&part, STATUS_USAGE, "part 3/2 is not possible");
	const char *standard_input = "-";
	part = part_of(1, 2);
	part.inputs = &standard_input;
	refuse(&part, STATUS_USAGE, "standard input cannot be shared out");
	must(directory_remove(in_root("out")));
}

/* A unit that was damaged after its part was done is made anew by that part. */
static void damaged_units(void **state)
{
	(void)state;
	struct preprocess_config config = part_of(1, 1), finish = finishing();
	run(&config);
	FILE *file = fopen(in_root("out/work/unit-000001"), "r+b");
	assert_non_null(file);
	fputc(1, file);
	assert_int_equal(fclose(file), 0);
	refuse(&finish, STATUS_CORRUPT, "unit-000001");
	assert_non_null(strstr(error_message(), "(or --part) that made it"));
	run(&config);
	run(&finish);
	expect_reference();
}

/* --finish needs no tokenizer: its files are kept. */
static void other_tokenizers(void **state)
{
	(void)state;
	struct tokenizer *gpt2 = tokenizer;
	FILE *file = fopen(in_root("merges"), "wb");
	assert_non_null(file);
	fputs("o r\nor d\n", file);
	assert_int_equal(fclose(file), 0);
	must(tokenizer_open_files(in_root("merges"), NULL, &tokenizer));
	remake_reference();
	struct preprocess_config config = part_of(1, 1), finish = finishing();
	run(&config);
	run(&finish);
	expect_reference();
	tokenizer_close(tokenizer);
	tokenizer = gpt2;
}

static void near_duplicates(void **state)
{
	(void)state;
	near_bands = 3;
	make_inputs(2, 400);
	remake_reference();
	struct corpus *corpus;
	must(corpus_open(in_root("reference"), &corpus));
	assert_true(corpus_get_info(corpus)->dropped_near > 0);
	corpus_close(corpus);
	pid_t processes[3];
	for (uint32_t i = 0; i < 3; i++) {
		struct preprocess_config config = part_of(i + 1, 3);
		config.mode = PREPROCESS_PART_TOGETHER;
		config.memory <<= i;
		processes[i] = start(&config);
	}
	for (int i = 0; i < 3; i++)
		assert_int_equal(wait_for(processes[i]), COMPLETE);
	expect_reference();
	struct preprocess_config config = part_of(1, 1), finish = finishing();
	run(&config);
	run(&finish);
	expect_reference();
	near_bands = 0;
}

static void overwriting(void **state)
{
	(void)state;
	struct corpus *corpus;
	make_inputs(1, 500);
	struct preprocess_config config = basic(), finish = finishing();
	uint64_t old = run(&config).documents;
	make_inputs(2, 150);
	remake_reference();
	config = part_of(1, 2);
	refuse(&config, STATUS_USAGE, "already holds a corpus");
	config.overwrite = true;
	run(&config);
	config.part = 2;
	run(&config);
	must(corpus_open(in_root("out"), &corpus)); /* the old one, whole */
	assert_int_equal(corpus_get_info(corpus)->documents, old);
	corpus_close(corpus);
	/* It is for the parts to say; --finish never begins anew. */
	config = basic();
	config.mode = PREPROCESS_FINISH;
	config.overwrite = true;
	config.max_bytes--;
	refuse(&config, STATUS_MISMATCH, "longest document");
	run(&finish);
	expect_reference();
}

/* A part that comes when all has been published, and nothing is left but the corpus and its .job. */
static void parts_that_come_late(void **state)
{
	(void)state;
	static const enum preprocess_mode modes[] = {
		PREPROCESS_PART, PREPROCESS_PART_LAST, PREPROCESS_PART_TOGETHER};
	make_inputs(3, 300);
	remake_reference();
	struct preprocess_config one = part_of(1, 2), two = part_of(2, 2), finish = finishing();
	run(&one);
	run(&two);
	assert_true(run(&finish).published);
	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
		two.mode = modes[i];
		struct preprocess_result result = run(&two);
		assert_true(result.complete && !result.published && result.documents > 10);
	}
	two.max_bytes--;
	refuse(&two, STATUS_USAGE, "already holds a corpus");
	two.max_bytes++;
	/* What tells of another corpus, or is damaged, is not believed. */
	size_t bytes;
	char *mark = get_path(in_root("out/.job"), &bytes);
	put_file("out/.job", mark, bytes / 2);
	refuse(&two, STATUS_USAGE, "already holds a corpus");
	struct preprocess_config other = basic();
	other.overwrite = true;
	other.min_tokens = 5;
	run(&other);
	assert_false(file_exists(in_root("out/.job")));
	put_file("out/.job", mark, bytes);
	refuse(&two, STATUS_USAGE, "already holds a corpus");
	/* --overwrite means it. */
	two.mode = PREPROCESS_PART;
	two.overwrite = one.overwrite = true;
	run(&two);
	run(&one);
	assert_true(run(&finish).published);
	one.overwrite = false;
	assert_true(run(&one).complete);
	free(mark);
	expect_reference();
}

/* .lock is closed at once, and then gone there too. */
static int unlink_but_lock_on_nfs(const char *path)
{
	return strstr(path, "/.lock") ? unlink(path) : unlink_on_nfs(path);
}

/* On NFS and FUSE what a process has open, the claims, stays in the folder that was to go: until it is closed. The corpus
 * is there all the same, and who published it says so. */
static void on_nfs_who_published_says_so(void **state)
{
	(void)state;
	make_inputs(3, 300);
	near_bands = 20;
	remake_reference();
	unsynced.unlink = unlink_but_lock_on_nfs;
	struct preprocess_config alone = basic(), one = part_of(1, 1);
	assert_true(run(&alone).published);
	expect_same(in_root("reference"), in_root("out"));
	must(directory_remove(in_root("out")));
	one.mode = PREPROCESS_PART_TOGETHER;
	struct preprocess_result result = run(&one);
	assert_true(result.complete && result.published && result.documents > 10 && result.shards > 1);
	expect_reference();
	unsynced.unlink = file_operations_system.unlink;
	near_bands = 0;
}

static void nothing_in_the_inputs(void **state)
{
	(void)state;
	must(directory_remove(in_root("in")));
	must(directory_create(in_root("in")));
	FILE *file = fopen(in_root("in/a.jsonl"), "wb");
	assert_non_null(file);
	fputs("{\"body\": 1}\n", file);
	assert_int_equal(fclose(file), 0);
	struct preprocess_config config = part_of(1, 1), finish = finishing();
	run(&config);
	refuse(&finish, STATUS_USAGE, "no documents in the inputs: 0 empty, 1 rejected");
	assert_true(file_exists(in_root("out/rejects.jsonl")));
	assert_false(file_exists(in_root("out/work")));
	must(directory_remove(in_root("out")));
}

/* The n-th allocation fails, in either command: an error, and the same command then goes on. */
static void survives_lack_of_memory(void **state)
{
	(void)state;
	make_inputs(2, 20);
	shard_bytes = 0;
	remake_reference_of(1);
	struct preprocess_config commands[2] = {part_of(1, 1), finishing()};
	for (int i = 0; i < 2; i++) {
		enum status status = STATUS_MEMORY;
		for (int n = 0; status != STATUS_OK; n += 1 + n / (UNDER_TSAN ? 2 : 16)) {
			struct preprocess_result result;
			commands[i].workers = 1;
			memory_fail_after(n);
			status = preprocess_run(&commands[i], &result);
			memory_fail_after(-1);
			assert_true(status == STATUS_OK || status == STATUS_MEMORY);
			assert_false(file_exists(in_root("out/.lock")));
			if (i == 1 && status != STATUS_OK && file_exists(in_root("out/corpus.json")))
				break;
		}
	}
	run(&commands[1]);
	expect_reference();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parts_one_after_another),
		cmocka_unit_test(at_the_same_time),
		cmocka_unit_test(parts_that_finish),
		cmocka_unit_test(killed_and_started_again),
		cmocka_unit_test(finishers_are_killed),
		cmocka_unit_test(claims_exclude),
		cmocka_unit_test(others_are_waited_for),
		cmocka_unit_test(who_may_work_there),
		cmocka_unit_test(damaged_units),
		cmocka_unit_test(other_tokenizers),
		cmocka_unit_test(near_duplicates),
		cmocka_unit_test(overwriting),
		cmocka_unit_test(parts_that_come_late),
		cmocka_unit_test(on_nfs_who_published_says_so),
		cmocka_unit_test(nothing_in_the_inputs),
		cmocka_unit_test(survives_lack_of_memory),
	};
	return cmocka_run_group_tests(tests, begin, end);
}
