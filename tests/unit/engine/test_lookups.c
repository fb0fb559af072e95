/* Which pieces of the token embedding are final early, against a walk through every element. */
#include "engine/lookups.h"

#include "tests/unit/engine/model_rig.h"
#include "tests/unit/engine/stream_kernels.h"
#include "tests/unit/engine/thread_ranks.h"

enum { TOKENS = 12, RANKS = 3, ROUNDS = 20 };

struct team {
	struct parameter_table table;
	int32_t tokens[RANKS][TOKENS];
	bool late[CROWD][4096], early[CROWD][4096]; /* what each rank was told, of each piece */
	bool differs[CROWD];                        /* from what is in the kernels' memory, or out of order */
};

/* Pieces of a list are noted in `out`. */
static void note(bool *differs, struct kernels *k, struct lookups_list list, bool *out)
{
	uint64_t bytes = list.count * sizeof(uint32_t);
	void *there;
	if (!bytes)
		return;
	if (k->host_alloc(k, &there, bytes, "pieces") != STATUS_OK)
		abort();
	k->copy_out(k, NULL, there, list.on_table, bytes);
	if (k->stream_wait(k, NULL) != STATUS_OK || memcmp(there, list.pieces, bytes))
		*differs = true;
	k->host_free(k, there, bytes);
	for (uint64_t i = 0; i < list.count; i++) {
		*differs |= i && list.pieces[i - 1] >= list.pieces[i];
		*differs |= out[list.pieces[i]];
		out[list.pieces[i]] = true;
	}
}

/* Asked for in stretches, as blocks and buckets are. */
static enum status look_up(void *user, struct collective *c)
{
	struct team *team = user;
	struct kernels_config config = {.act = DTYPE_F32, .grad = DTYPE_F32, .threads = 1};
	struct kernels k;
	struct lookups *lookups;
	uint64_t end = parameter_span(&team->table, PARAMETER_WTE);
	TRY(streamed_open(&config, &k));
	TRY(lookups_open(&k, &team->table, c, &lookups));
	for (int again = 0; again < 2; again++) { /* what was found before is forgotten */
		TRY(lookups_find(lookups, team->tokens[again ? c->rank : 0], TOKENS));
		TRY(k.stream_wait(&k, NULL));
	}
	for (uint64_t from = 0, to; from < end; from = to) {
		to = from + KERNELS_PIECE * (1 + from / KERNELS_PIECE % 5);
		to = to < end ? to : end;
		note(&team->differs[c->rank], &k, lookups_early(lookups, from, to), team->early[c->rank]);
		note(&team->differs[c->rank], &k, lookups_late(lookups, from, to), team->late[c->rank]);
	}
	lookups_close(lookups);
	k.close(&k);
	return STATUS_OK;
}

static void check_lists(struct team *team, int ranks)
{
	const struct parameter *wte = &team->table.items[PARAMETER_WTE];
	uint64_t pieces = parameter_span(&team->table, PARAMETER_WTE) / KERNELS_PIECE;
	bool late[4096] = {false};
	for (int r = 0; r < ranks; r++)
		for (int i = 0; i < TOKENS; i++)
			for (int c = 0; c < wte->columns; c++)
				late[(team->tokens[r][i] * wte->columns + c) / KERNELS_PIECE] = true;
	for (int r = 0; r < ranks; r++) {
		assert_false(team->differs[r]);
		for (uint64_t p = 0; p < pieces; p++) {
			assert_int_equal(team->late[r][p], late[p]);
			assert_int_equal(team->early[r][p], !late[p]);
		}
	}
}

/* Rows of less than a piece, of one, of several, and of no whole number of them; the first row, the last, all. */
static void every_piece_is_in_one_list(void **state)
{
	(void)state;
	static const int widths[] = {20, 64, 128, 200};
	uint32_t random = 1;
	for (int round = 0; round < ROUNDS; round++) {
		struct team *team = calloc(1, sizeof *team);
		struct model_config model = {.layers = 1,
			.hidden = widths[round % 4],
			.heads = 1,
			.positions = 8,
			.vocabulary = 301,
			.vocabulary_padded = round % 3 ? 384 : 301, /* then a gap is behind it */
			.layernorm_epsilon = 1e-5f};
		int ranks = 1 + round % RANKS, below = round < 4 ? 2 : round < 12 ? 60 : 301;
		assert_ok(parameter_table_open(&model, &team->table));
		for (int r = 0; r < RANKS; r++)
			for (int i = 0; i < TOKENS; i++) {
				random = random * 1664525 + 1013904223;
				team->tokens[r][i] = (int32_t)(random >> 8) % below;
			}
		if (round % 5 == 1)
			team->tokens[0][0] = 300;
		assert_ok(crowd_run(ranks, look_up, team));
		check_lists(team, ranks);
		parameter_table_close(&team->table);
		free(team);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(every_piece_is_in_one_list)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
