/* The ring of long words: exact where hashes are equal, and forgets the oldest. */
#include "tests/unit/tokenizer/vectors_fixture.h"

#include "common/memory.h"
#include "tokenizer/long_words.h"

enum { HASH = 77 }; /* of every word: one bucket */

static struct long_words words;

static int set_up(void **state)
{
	void *memory;
	(void)state;
	assert_int_equal(
		memory_alloc_large(&memory, LONG_INDEX_BYTES + LONG_RING_BYTES, "the ring"), STATUS_OK);
	long_words_init(&words, memory, sizeof(uint16_t));
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	memory_free_large(words.index, LONG_INDEX_BYTES + LONG_RING_BYTES);
	return 0;
}

static void add(const char *word, uint32_t id)
{
	long_words_add(&words, HASH, (const uint8_t *)word, strlen(word), &id, 1);
}

/* The word's one id; 0: not there. */
static uint32_t find(const char *word)
{
	const struct long_record *record = long_words_find(&words, HASH, (const uint8_t *)word, strlen(word));
	uint16_t id = 0;
	if (record)
		memcpy(&id, long_record_ids(record), sizeof id);
	return id;
}

static void tells_words_of_one_hash_apart(void **state)
{
	(void)state;
	add("the same beginning", 1);
	assert_int_equal(find("the same"), 0); /* its record's bytes begin with these */
	add("the same beginning, longer", 2);
	add("another beginning", 3);
	assert_int_equal(find("the same beginning"), 1);
	assert_int_equal(find("the same beginning, longer"), 2);
	assert_int_equal(find("another beginning"), 3);
	assert_int_equal(find("another word"), 0);
	for (uint32_t i = 0; i < LONG_BUCKET - 2; i++) /* the first has to make room */
		add("filler filler", 10 + i);
	assert_int_equal(find("the same beginning"), 0);
	assert_int_equal(find("another beginning"), 3);
}

/* Records of 256 bytes, one of which comes to stand over the first once the ring is full. */
static void forgets_what_is_written_over(void **state)
{
	(void)state;
	enum { LENGTH = 200, IDS = 24 };
	uint8_t word[LENGTH] = {0};
	uint32_t ids[IDS] = {5};
	long_words_add(&words, 1, word, LENGTH, ids, IDS);
	uint64_t first = words.end, records = 0;
	const struct long_record *record = long_words_find(&words, 1, word, LENGTH);
	assert_non_null(record);
	uint8_t before[sizeof *record + IDS * 2 + LENGTH];
	memcpy(before, record, sizeof before);
	for (; long_words_find(&words, 1, word, LENGTH); records++) {
		assert_memory_equal(record, before, sizeof before);
		uint8_t other[LENGTH] = {1};
		memcpy(other + 1, &records, sizeof records);
		long_words_add(&words, (records + 2) << 48, other, LENGTH, ids, IDS);
		assert_int_equal(long_words_find(&words, (records + 2) << 48, other, LENGTH)->length, LENGTH);
	}
	assert_in_range(records, LONG_RING_BYTES / 256 - 3, LONG_RING_BYTES / 256 + 1);
	assert_true(words.end - first > LONG_UNITS - 32);
}

/* A text may hold what looks like a record. Where one has been written over by such a text's, the bytes there
 * are no answer. */
static void takes_no_text_for_a_record(void **state)
{
	(void)state;
	enum { WORD = 8, BEFORE = sizeof(struct long_record) + sizeof(uint16_t), FILLER = 240 };
	static const uint8_t word[WORD + 1] = "a phrase", filler[FILLER];
	const struct long_record forged = {.length = WORD, .count = 1};
	const uint16_t forged_id = 666;
	uint8_t text[LONG_UNIT - BEFORE + sizeof forged + sizeof forged_id + WORD] = {0};
	uint8_t *to = text + LONG_UNIT - BEFORE; /* where the text's own record has its second unit */
	memcpy(to, &forged, sizeof forged);
	memcpy(to + sizeof forged, &forged_id, sizeof forged_id);
	memcpy(to + sizeof forged + sizeof forged_id, word, WORD);
	uint32_t id = 5;
	add("a unit", 4); /* the word stands in the second one */
	uint64_t entry = long_words_add(&words, HASH, word, WORD, &id, 1);
	const struct long_record *record = long_words_check(&words, entry, word, WORD);
	assert_non_null(record);
	for (uint64_t left; (left = (entry >> 16) - 1 + LONG_UNITS - words.end) > 0;) {
		bool fits = left > 2 * FILLER / LONG_UNIT;
		assert_ptr_equal(long_words_check(&words, entry, word, WORD), record);
		long_words_add(&words, 0, filler, fits ? FILLER - BEFORE : 1, &id, 1);
	}
	long_words_add(&words, 0, text, sizeof text, &id, 1);
	assert_memory_equal(record, &forged, sizeof forged);
	assert_null(long_words_check(&words, entry, word, WORD));
	assert_int_equal(find("a phrase"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(tells_words_of_one_hash_apart, set_up, tear_down),
		cmocka_unit_test_setup_teardown(forgets_what_is_written_over, set_up, tear_down),
		cmocka_unit_test_setup_teardown(takes_no_text_for_a_record, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
