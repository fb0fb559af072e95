/* choices.h: what a GPU's table chose (kernels.h), as text and back. */
#ifndef TESTS_OPS_CHOICES_H
#define TESTS_OPS_CHOICES_H

#include "kernels/kernels.h"

#include <stdio.h>
#include <string.h>

/* A text cut short, or changed, is no choice; the text itself is, once. */
static inline bool choice_taken_once(struct kernels *k, const char *text)
{
	char other[KERNELS_CHOICE];
	bool good = true;
	for (size_t cut = 0; cut < strlen(text); cut++) {
		snprintf(other, cut + 1, "%s", text);
		good = good && !k->choice_set(k, other);
	}
	snprintf(other, sizeof other, "%s0", text);
	good = good && !k->choice_set(k, other);
	snprintf(other, sizeof other, "%s", text);
	strchr(other, '-')[1]++; /* its version */
	good = good && !k->choice_set(k, other);
	return good && k->choice_set(k, text) && !k->choice_set(k, text);
}

/* Sets what `k` chose in a fresh table of `config`, which then says the same: how many; -1: it does not. */
static inline int choices_kept(struct kernels *k, const struct kernels_config *config)
{
	char text[KERNELS_CHOICE], other[KERNELS_CHOICE];
	struct kernels fresh;
	int count = 0;
	if (kernels_open_cuda(config, &fresh) != STATUS_OK)
		return -1;
	bool good = !fresh.choice_get(&fresh, 0, text);
	for (; good && k->choice_get(k, count, text); count++)
		good = choice_taken_once(&fresh, text);
	for (int i = 0; good && i < count; i++)
		good = k->choice_get(k, i, text) && fresh.choice_get(&fresh, i, other) &&
		       strcmp(text, other) == 0;
	good = good && !fresh.choice_get(&fresh, count, other);
	fresh.close(&fresh);
	return good ? count : -1;
}

/* How many of the directions and shapes of attention that were used go that way: "cudnn" or "ferry" (kernels/cuda/cudnn.cu
 * has the text). */
static inline int attention_by(struct kernels *k, const char *way)
{
	char text[KERNELS_CHOICE], word[8];
	int count = 0;
	for (int i = 0; k->choice_get(k, i, text); i++)
		count += sscanf(text, "attention-%*d %*d %*d %*d %*d %*d %*d %7s", word) == 1 &&
			 !strcmp(word, way);
	return count;
}

static inline int attention_by_cudnn(struct kernels *k)
{
	return attention_by(k, "cudnn");
}

#endif
