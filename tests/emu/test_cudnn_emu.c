/*
 * test_cudnn_emu [short]: attention in bf16 and fp16 on the emulated device, which goes by cuDNN where dropout is 0 and all
 * is seen ($FERRY_CUDA and $FERRY_CUDNN name the emulated library), against the op tester's formulas; on a stream of its own,
 * and by few sequences at a time, in the same bits. short: fewer shapes, for a sanitizer.
 */
#include "tests/ops/choices.h"
#include "tests/ops/numbers.h"
#include "tests/ops/op_tester.h"

#include <stdlib.h>

enum { B = 4, T = 21, H = 2, D = 16, C = H * D, R = B * T };

/* The bits of a forward and a backward on that stream, from what was copied in on it. */
static bool attention_on(struct kernels *k, struct stream *s, char out[R * 4 * C * 2 + B * H * T * 4])
{
	static const struct dropout none = {.p = 0};
	size_t qkv = R * 3 * C * 2, plane = R * C * 2, stats = B * H * T * 4;
	char *host, *device;
	if (k->host_alloc(k, (void **)&host, 2 * qkv + 2 * plane + stats, "a test's data") != STATUS_OK ||
		k->memory_alloc(k, (void **)&device, 2 * qkv + 2 * plane + stats, "a test's data") !=
			STATUS_OK)
		return false;
	char *dqkv = device + qkv, *plain = dqkv + qkv, *lse = plain + plane, *dout = lse + stats;
	uint64_t random = 9;
	for (size_t i = 0; i < (qkv + plane) / 2; i++)
		((uint16_t *)host)[i] = half_code(round_to(normal(&random), k->act), k->act);
	k->copy_in(k, s, device, host, qkv);
	k->copy_in(k, s, dout, host + qkv, plane);
	k->attention_forward(k, s, plain, (float *)lse, device, NULL, B, T, H, D, &none);
	k->attention_backward(k, s, dqkv, dout, plain, (float *)lse, device, NULL, B, T, H, D, &none);
	k->copy_out(k, s, host, dqkv, qkv + plane + stats);
	bool good = k->stream_wait(k, s) == STATUS_OK;
	memcpy(out, host, qkv + plane + stats);
	k->memory_free(k, device, 2 * qkv + 2 * plane + stats);
	k->host_free(k, host, 2 * qkv + 2 * plane + stats);
	if (!good)
		fprintf(stderr, "%s\n", error_message());
	return good;
}

/* The default stream, a stream of its own, and a table that may take little memory: the same bits. */
static bool attention_is_one(const struct kernels_config *config)
{
	static char bits[3][R * 4 * C * 2 + B * H * T * 4];
	struct kernels k, small;
	struct stream *own = NULL;
	bool good = kernels_open_cuda(config, &k) == STATUS_OK && k.stream_open(&k, &own) == STATUS_OK &&
		    attention_on(&k, own, bits[0]) && attention_on(&k, NULL, bits[1]) &&
		    attention_by_cudnn(&k) == 2;
	setenv("FERRY_CUDA_ATTENTION_KB", "140", 1); /* two sequences (kernels_attention_need) */
	good = good && kernels_open_cuda(config, &small) == STATUS_OK &&
	       attention_on(&small, NULL, bits[2]) && attention_by_cudnn(&small) == 2;
	unsetenv("FERRY_CUDA_ATTENTION_KB");
	if (!good)
		return false;
	k.stream_close(&k, own);
	k.close(&k);
	small.close(&small);
	return memcmp(bits[0], bits[1], sizeof bits[0]) == 0 && memcmp(bits[0], bits[2], sizeof bits[0]) == 0;
}

/* What attention would refuse has no way; at the limits it has. */
static bool impossible_is_no_choice(struct kernels *k)
{
	static const char *const shapes[] = {"65536 16 1 8", "32768 16 2 8", "2147483647 16 2 8",
		"1 16 1 264", "0 16 1 8", "65535 16 1 8", "1 16 1 256"};
	char text[KERNELS_CHOICE];
	for (int i = 0; i < 7; i++) {
		snprintf(text, sizeof text, "attention-1 0 %d %s ferry", k->act, shapes[i]);
		if (k->choice_set(k, text) != (i >= 5))
			return false;
	}
	return true;
}

int main(int argc, char **argv)
{
	bool brief = argc > 1 && strcmp(argv[1], "short") == 0;
	int failed = 0;
	for (enum dtype act = DTYPE_BF16; act <= DTYPE_F16; act++) {
		struct kernels_config config = {.act = act, .grad = DTYPE_F32};
		struct kernels k;
		struct op_tester t;
		bool one = attention_is_one(&config);
		if (kernels_open_cuda(&config, &k) != STATUS_OK) {
			fprintf(stderr, "%s\n", error_message());
			return 1;
		}
		op_tester_open(&t, &k);
		t.brief = brief;
		op_test_attention(&t, act == DTYPE_F16); /* what is not by cuDNN, in one of them */
		op_tester_report(&t, stdout);
		int ways = attention_by_cudnn(&k), kept = choices_kept(&k, &config);
		/* Of the shapes, heads of 12 elements are not cuDNN's, nor is the backward of one token. */
		bool good = op_tester_close(&t) == 0 && ways == (brief ? 5 : 19) && kept >= ways && one &&
			    impossible_is_no_choice(&k);
		printf("%sok %d - attention, %s: %d shapes and directions by cuDNN, %d choices kept%s\n",
			good ? "" : "not ", act, dtype_name(act), ways, kept,
			one ? "" : "; another stream or less memory, other bits");
		failed += !good;
		k.close(&k);
	}
	return failed > 0;
}
