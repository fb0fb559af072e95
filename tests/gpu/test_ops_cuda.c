/*
 * Every operation of the CUDA table: the op tester's formulas at small shapes; larger shapes against the
 * CPU's f32 table on the same numbers; two runs that must agree in every bit. A program of its own (no
 * cmocka), so that it builds on a bare GPU machine. Usage: test_ops_cuda [small] [attention]  (small: the op tester
 * alone, in two types, for the sanitizers; attention: attention alone). With GPU_DRY_RUN defined it is a trial of itself, on the
 * emulated device. Where cuDNN is found attention goes by it in some cases; with FERRY_CUDNN=off it does not.
 */
#include "tests/gpu/tap.h"
#include "tests/ops/choices.h"
#include "tests/ops/op_tester.h"

#include "tests/ops/op_tester.c"

#ifdef GPU_DRY_RUN
enum { SMALLER = 16, DRY = 1 };
#else
enum { SMALLER = 1, DRY = 0 };
#endif

static void opened(enum status status)
{
	if (status == STATUS_OK)
		return;
	fprintf(stderr, "%s\n", error_message());
	exit(status == STATUS_UNSUPPORTED ? 77 : 1);
}

static void test_small(enum dtype act, enum dtype grad, bool alone)
{
	struct kernels_config config = {.act = act, .grad = grad, .logits_bytes = OP_TESTER_LOGITS};
	struct kernels k;
	struct op_tester t;
	opened(kernels_open_cuda(&config, &k));
	op_tester_open(&t, &k);
	t.rounded_logits = true;
	t.brief = DRY;
	alone ? op_test_attention(&t, false) : op_test_all(&t);
	op_tester_report(&t, stdout);
	ok(op_tester_close(&t) == 0, "op tester, %s with gradients in %s", dtype_name(act), dtype_name(grad));
	k.close(&k);
}

/* ---- larger shapes, against the CPU's f32 ---- */

/* The same numbers in two tables: the GPU's, in its types, and the CPU's, in f32. */
struct pair {
	struct kernels *k; /* [2]: GPU, CPU */
	uint64_t random;
};
struct both {
	void *at[2];
	size_t n;
	bool statistics; /* f32 on both */
};

static enum dtype type_of(const struct pair *p, const struct both *x, int side)
{
	return x->statistics ? DTYPE_F32 : p->k[side].act;
}

static void put_floats(struct kernels *k, void *to, const float *from, size_t n, enum dtype type)
{
	void *plain;
	if (k->memory_alloc(k, &plain, n * 4, "test data") != STATUS_OK)
		abort();
	opened(pinned_copy_in(k, plain, from, n * 4));
	k->convert(k, NULL, to, type, plain, DTYPE_F32, n);
	opened(k->stream_wait(k, NULL));
	k->memory_free(k, plain, n * 4);
}

static struct both make(struct pair *p, size_t n, double scale, bool statistics)
{
	struct both x = {.n = n, .statistics = statistics};
	float *values = malloc(n * sizeof *values);
	enum dtype rounding = statistics ? DTYPE_F32 : p->k[0].act;
	for (size_t i = 0; i < n; i++)
		values[i] = (float)round_to(scale * normal(&p->random), rounding);
	for (int side = 0; side < 2; side++) {
		enum dtype type = type_of(p, &x, side);
		struct kernels *k = &p->k[side];
		if (k->memory_alloc(k, &x.at[side], n * dtype_bytes(type), "test data") != STATUS_OK)
			abort();
		put_floats(k, x.at[side], values, n, type);
	}
	free(values);
	return x;
}

static struct both make_ints(struct pair *p, const int32_t *from, size_t n)
{
	struct both x = {.n = n, .statistics = true};
	for (int side = 0; side < 2; side++) {
		struct kernels *k = &p->k[side];
		if (k->memory_alloc(k, &x.at[side], n * 4, "test data") != STATUS_OK)
			abort();
		opened(pinned_copy_in(k, x.at[side], from, n * 4));
	}
	return x;
}

static void drop_both(struct pair *p, struct both *x)
{
	for (int side = 0; side < 2; side++)
		p->k[side].memory_free(&p->k[side], x->at[side], x->n * dtype_bytes(type_of(p, x, side)));
}

static float *fetch(struct kernels *k, const void *from, size_t n, enum dtype type)
{
	float *values = malloc(n * sizeof *values);
	void *plain;
	if (k->memory_alloc(k, &plain, n * 4, "test data") != STATUS_OK)
		abort();
	k->convert(k, NULL, plain, DTYPE_F32, from, type, n);
	opened(pinned_copy_out(k, values, plain, n * 4));
	k->memory_free(k, plain, n * 4);
	return values;
}

static void compare(struct pair *p, const char *what, const struct both *x, double depth)
{
	float *got = fetch(&p->k[0], x->at[0], x->n, type_of(p, x, 0));
	float *want = fetch(&p->k[1], x->at[1], x->n, type_of(p, x, 1));
	double difference = 0, norm = 0;
	for (size_t i = 0; i < x->n; i++) {
		difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
		norm += (double)want[i] * want[i];
	}
	double error = sqrt(difference / (norm > 0 ? norm : 1)), bound = bound_of(p->k[0].act, depth);
	ok(error <= bound, "%s, %s: error %.2e, bound %.1e", what, dtype_name(p->k[0].act), error, bound);
	free(got);
	free(want);
}

static uint64_t hash_of(struct kernels *k, const void *from, size_t bytes)
{
	unsigned char *copy = malloc(bytes);
	opened(pinned_copy_out(k, copy, from, bytes));
	uint64_t hash = 1469598103934665603u;
	for (size_t i = 0; i < bytes; i++)
		hash = (hash ^ copy[i]) * 1099511628211u;
	free(copy);
	return hash;
}

/* The GPU's side of x must hold the same bits as when `before` was taken. */
static void same_bits(struct pair *p, const char *what, const struct both *x, uint64_t before)
{
	uint64_t now = hash_of(&p->k[0], x->at[0], x->n * dtype_bytes(type_of(p, x, 0)));
	ok(now == before, "%s, %s: two runs, the same bits", what, dtype_name(p->k[0].act));
}
#define HASH(x) hash_of(&p->k[0], (x).at[0], (x).n *dtype_bytes(type_of(p, &(x), 0)))

static void large_attention(struct pair *p, int B, int T, int H, int D, float rate, bool masked)
{
	size_t n = (size_t)B * T * H * D;
	struct dropout drop = {rate, 77, 1ull << 33, 3, DROPOUT_ATTENTION};
	struct both qkv = make(p, 3 * n, 1, false), out = make(p, n, 1, false), dout = make(p, n, 1, false);
	struct both dqkv = make(p, 3 * n, 1, false), lse = make(p, (size_t)B * H * T, 1, true);
	int32_t *first = calloc((size_t)B * T, sizeof *first);
	for (int r = 0; r < B * T; r++)
		first[r] = r % T == 0 ? 0 : next_random(&p->random) % 100 == 0 ? r % T : first[r - 1];
	struct both starts = make_ints(p, first, (size_t)B * T);
	uint64_t before = 0;
	for (int run = 0; run < 2; run++) {
		for (int side = run; side < 2 - run; side++) {
			struct kernels *k = &p->k[side];
			const int32_t *f = masked ? starts.at[side] : NULL;
			k->attention_forward(
				k, NULL, out.at[side], lse.at[side], qkv.at[side], f, B, T, H, D, &drop);
			k->attention_backward(k, NULL, dqkv.at[side], dout.at[side], out.at[side],
				lse.at[side], qkv.at[side], f, B, T, H, D, &drop);
			opened(k->stream_wait(k, NULL));
		}
	}
	char name[120];
	snprintf(name, sizeof name, "attention B=%d T=%d H=%d D=%d p=%g%s", B, T, H, D, (double)rate,
		masked ? " masked" : "");
	compare(p, name, &out, 2);
	compare(p, name, &lse, 1);
	compare(p, name, &dqkv, 5);
	before = HASH(dqkv);
	p->k[0].attention_backward(&p->k[0], NULL, dqkv.at[0], dout.at[0], out.at[0], lse.at[0], qkv.at[0],
		masked ? starts.at[0] : NULL, B, T, H, D, &drop);
	same_bits(p, name, &dqkv, before);
	free(first);
	struct both *all[] = {&qkv, &out, &dout, &dqkv, &lse, &starts};
	for (int i = 0; i < 6; i++)
		drop_both(p, all[i]);
}

/* A forward by one way and a backward by the other, cuDNN's and our kernels': each goes on from what the other left. */
static void mixed_attention(struct pair *p, struct kernels *own, int B, int T, int H, int D)
{
	size_t n = (size_t)B * T * H * D;
	struct dropout none = {.p = 0};
	struct both qkv = make(p, 3 * n, 1, false), out = make(p, n, 1, false), dout = make(p, n, 1, false);
	struct both dqkv = make(p, 3 * n, 1, false), lse = make(p, (size_t)B * H * T, 1, true);
	struct kernels *gpu = &p->k[0], *cpu = &p->k[1];
	struct kernels *ways[][2] = {{cpu, cpu}, {gpu, own}, {own, gpu}};
	static const char *const names[] = {"", "cuDNN, then own", "own, then cuDNN"};
	for (int way = 0; way < 3; way++) {
		struct kernels *forward = ways[way][0], *backward = ways[way][1];
		int side = way == 0;
		forward->attention_forward(
			forward, NULL, out.at[side], lse.at[side], qkv.at[side], NULL, B, T, H, D, &none);
		opened(forward->stream_wait(forward, NULL));
		backward->attention_backward(backward, NULL, dqkv.at[side], dout.at[side], out.at[side],
			lse.at[side], qkv.at[side], NULL, B, T, H, D, &none);
		opened(backward->stream_wait(backward, NULL));
		char name[120];
		snprintf(name, sizeof name, "attention B=%d T=%d H=%d D=%d, %s", B, T, H, D, names[way]);
		if (way == 0)
			continue;
		compare(p, name, &out, 2);
		compare(p, name, &lse, 1);
		compare(p, name, &dqkv, 5);
	}
	struct both *all[] = {&qkv, &out, &dout, &dqkv, &lse};
	for (int i = 0; i < 5; i++)
		drop_both(p, all[i]);
}

/* With attention by cuDNN where it is found and takes it; which is said. */
static void large_attentions(struct pair *p, const struct kernels_config *config)
{
	struct kernels own;
	const char *given = getenv("FERRY_CUDNN");
	char *named = given ? strdup(given) : NULL;
	setenv("FERRY_CUDNN", "off", 1);
	opened(kernels_open_cuda(config, &own));
	named ? setenv("FERRY_CUDNN", named, 1) : unsetenv("FERRY_CUDNN");
	free(named);
	large_attention(p, 2, 1024 / SMALLER, 3, 64, 0, false);
	large_attention(p, 2, 1024 / SMALLER, 3, 64, 0.1f, false);
	large_attention(p, 1, 900 / SMALLER, 3, 64, 0.1f, true);
	large_attention(p, 1, 777 / SMALLER, 2, 64, 0, true);
	large_attention(p, 1, 777 / SMALLER, 2, 64, 0.3f, false);
	large_attention(p, 1, 512 / SMALLER, 2, 128, 0.1f, false);
	large_attention(p, 1, 512 / SMALLER, 2, 80, 0.1f, true);
	/* What cuDNN may take: lengths that are no multiple of its tiles, many sequences, the widest heads. */
	large_attention(p, 2, 777 / SMALLER, 2, 64, 0, false);
	large_attention(p, DRY ? 3 : 12, 1024 / SMALLER, 12, 64, 0, false);
	large_attention(p, 1, 512 / SMALLER, 2, 128, 0, false);
	large_attention(p, 1, 1000 / SMALLER, 2, 80, 0, false);
	mixed_attention(p, &own, 2, 1024 / SMALLER, 3, 64);
	mixed_attention(p, &own, 1, 777 / SMALLER, 2, 128);
	printf("# %s: attention: %s; %d shapes and directions by cuDNN\n", dtype_name(config->act),
		p->k[0].attention, attention_by_cudnn(&p->k[0]));
	own.close(&own);
}

static void large_layernorm(struct pair *p, int B, int T, int C)
{
	size_t R = (size_t)B * T, n = R * C;
	struct dropout drop = {0.1f, 5, 9, 2, DROPOUT_MLP_OUTPUT};
	struct both x = make(p, n, 1, false), in = make(p, n, 1, false), branch = make(p, n, 1, false);
	struct both out = make(p, n, 1, false), gamma = make(p, C, 1, false), beta = make(p, C, 1, false);
	struct both mean = make(p, R, 1, true), rstd = make(p, R, 1, true), dx = make(p, n, 1, false);
	struct both dgamma = make(p, C, 1, true), dbeta = make(p, C, 1, true), dout = make(p, n, 1, false);
	struct both dbranch = make(p, n, 1, false);
	for (int side = 0; side < 2; side++) {
		struct kernels *k = &p->k[side];
		k->layernorm_forward(k, NULL, out.at[side], x.at[side], mean.at[side], rstd.at[side],
			in.at[side], branch.at[side], gamma.at[side], beta.at[side], B, T, C, 1e-5f, &drop);
		k->layernorm_backward(k, NULL, dx.at[side], dx.at[side], dbranch.at[side], dgamma.at[side],
			dbeta.at[side], dout.at[side], x.at[side], gamma.at[side], mean.at[side],
			rstd.at[side], B, T, C, &drop, true);
		opened(k->stream_wait(k, NULL));
	}
	char name[120];
	snprintf(name, sizeof name, "layernorm R=%zu C=%d", R, C);
	struct both *checked[] = {&out, &x, &dx, &dbranch, &dgamma, &dbeta};
	for (int i = 0; i < 6; i++)
		compare(p, name, checked[i], 3);
	struct both *all[] = {
		&x, &in, &branch, &out, &gamma, &beta, &mean, &rstd, &dx, &dgamma, &dbeta, &dout, &dbranch};
	for (int i = 0; i < 13; i++)
		drop_both(p, all[i]);
}

/* Text-like tokens: a few are very frequent. */
static void large_embedding(struct pair *p, int B, int T, int C, int V)
{
	size_t R = (size_t)B * T, n = R * C;
	struct dropout drop = {0.1f, 5, 9, 0, DROPOUT_EMBEDDING};
	int32_t *tokens = calloc(R, sizeof *tokens), *positions = calloc(R, sizeof *positions);
	for (size_t r = 0; r < R; r++) {
		tokens[r] = (int32_t)(V * pow(uniform(&p->random), 6));
		positions[r] = r % (size_t)T < 10 ? (int32_t)(r % (size_t)T) : (int32_t)(r % (size_t)T) - 10;
	}
	struct both ids = make_ints(p, tokens, R), places = make_ints(p, positions, R);
	struct both wte = make(p, (size_t)V * C, 1, false), wpe = make(p, (size_t)T * C, 1, false);
	struct both out = make(p, n, 1, false), dout = make(p, n, 1, false);
	struct both dwte = make(p, (size_t)V * C, 1, true), dwpe = make(p, (size_t)(T + 3) * C, 1, true);
	for (int variant = 0; variant < 2; variant++) {
		for (int side = 0; side < 2; side++) {
			struct kernels *k = &p->k[side];
			const int32_t *where = variant ? places.at[side] : NULL;
			k->embedding_forward(k, NULL, out.at[side], ids.at[side], where, wte.at[side],
				wpe.at[side], B, T, C, &drop);
			k->embedding_backward(k, NULL, dwte.at[side], dwpe.at[side], dout.at[side],
				ids.at[side], where, B, T, C, T + 3, &drop, false);
			opened(k->stream_wait(k, NULL));
		}
		compare(p, "embedding", &out, 2);
		compare(p, "embedding, tokens' gradient", &dwte, 1);
		compare(p, "embedding, positions' gradient", &dwpe, 1);
	}
	free(tokens);
	free(positions);
	struct both *all[] = {&ids, &places, &wte, &wpe, &out, &dout, &dwte, &dwpe};
	for (int i = 0; i < 8; i++)
		drop_both(p, all[i]);
}

static void large_classifier(struct pair *p, int R, int C, int V, int VP)
{
	size_t n = (size_t)R * C, wn = (size_t)VP * C;
	struct both x = make(p, n, 1, false), wte = make(p, wn, 2 / sqrt(C), false);
	struct both dx = make(p, n, 1, false), dwte = make(p, wn, 1, true), loss = make(p, R, 1, true);
	int32_t *targets = calloc((size_t)R, sizeof *targets);
	for (int r = 0; r < R; r++)
		targets[r] = r % 7 == 3 ? -1 : (int32_t)(next_random(&p->random) % (unsigned)V);
	struct both ids = make_ints(p, targets, (size_t)R);
	uint64_t before = 0;
	for (int run = 0; run < 3; run++) {
		int side = run % 2;
		struct kernels *k = &p->k[side];
		k->classifier(k, NULL, loss.at[side], dx.at[side], dwte.at[side], x.at[side], wte.at[side],
			ids.at[side], R, C, V, VP, p->k[0].act == DTYPE_F16 ? 64 : 1.0f / R, false);
		opened(k->stream_wait(k, NULL));
		if (run == 0)
			before = HASH(dwte);
	}
	char name[120];
	snprintf(name, sizeof name, "classifier R=%d C=%d V=%d", R, C, V);
	same_bits(p, name, &dwte, before);
	compare(p, name, &loss, 1);
	compare(p, name, &dx, 5); /* logits of the activations' type: a rounding more */
	compare(p, name, &dwte, 5);
	for (int side = 0; side < 2; side++) {
		struct kernels *k = &p->k[side];
		k->classifier(k, NULL, loss.at[side], NULL, NULL, x.at[side], wte.at[side], ids.at[side], R,
			C, V, VP, 1, false);
		opened(k->stream_wait(k, NULL));
	}
	compare(p, "evaluation's loss", &loss, p->k[0].act == DTYPE_F32 ? 1 : 0.01);
	free(targets);
	struct both *all[] = {&x, &wte, &dx, &dwte, &loss, &ids};
	for (int i = 0; i < 6; i++)
		drop_both(p, all[i]);
}

static void large_linear(struct pair *p, int R, int K, int N)
{
	struct both in = make(p, (size_t)R * K, 1, false), w = make(p, (size_t)K * N, 1 / sqrt(K), false);
	struct both bias = make(p, N, 1, false), pre = make(p, (size_t)R * N, 1, false);
	struct both out = make(p, (size_t)R * N, 1, false), din = make(p, (size_t)R * K, 1, false);
	struct both below = make(p, (size_t)R * K, 1, false), dout = make(p, (size_t)R * N, 1, false);
	struct both dw = make(p, (size_t)K * N, 1, true), dbias = make(p, N, 1, true);
	uint64_t before = 0;
	for (int run = 0; run < 3; run++) {
		int side = run % 2;
		struct kernels *k = &p->k[side];
		k->linear_forward(
			k, NULL, out.at[side], pre.at[side], in.at[side], w.at[side], bias.at[side], R, K, N);
		k->linear_backward(k, NULL, din.at[side], dw.at[side], dbias.at[side], dout.at[side],
			in.at[side], w.at[side], below.at[side], R, K, N, false);
		opened(k->stream_wait(k, NULL));
		if (run == 0)
			before = HASH(dw);
	}
	char name[120];
	snprintf(name, sizeof name, "linear R=%d K=%d N=%d", R, K, N);
	same_bits(p, name, &dw, before);
	struct both *checked[] = {&out, &pre, &din, &dw, &dbias};
	for (int i = 0; i < 5; i++)
		compare(p, name, checked[i], 2);
	struct both *all[] = {&in, &w, &bias, &pre, &out, &din, &below, &dout, &dw, &dbias};
	for (int i = 0; i < 10; i++)
		drop_both(p, all[i]);
}

/* AdamW's and convert's bits are the CPU's own. */
static void same_adamw(void)
{
	struct kernels k[2];
	struct kernels_config config = {.act = DTYPE_BF16, .grad = DTYPE_F32};
	opened(kernels_open_cuda(&config, &k[0]));
	opened(kernels_open_cpu(&config, &k[1]));
	enum { n = 1000003 / SMALLER };
	uint64_t random = 3, hashes[2][4];
	float *data = malloc(4 * sizeof *data * n);
	for (int i = 0; i < 4 * n; i++)
		data[i] = (float)(normal(&random) * (i < n ? 1 : 1e-2));
	for (int i = 0; i < n; i++)
		data[2 * n + i] *= data[2 * n + i];
	for (int side = 0; side < 2; side++) {
		float *p;
		void *work;
		if (k[side].memory_alloc(&k[side], (void **)&p, 16 * (size_t)n, "test data") ||
			k[side].memory_alloc(&k[side], &work, 2 * (size_t)n, "test data"))
			abort();
		opened(pinned_copy_in(&k[side], p, data, 16 * (size_t)n));
		for (uint64_t step = 1; step <= 5; step++) {
			struct adamw a = {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f, step, 0.37f};
			k[side].adamw(&k[side], NULL, &a, p, p + n, p + 2 * n, work, p, p + n, p + 2 * n,
				p + 3 * n, n);
		}
		for (int i = 0; i < 3; i++)
			hashes[side][i] = hash_of(&k[side], p + i * n, 4 * (size_t)n);
		hashes[side][3] = hash_of(&k[side], work, 2 * (size_t)n);
		k[side].memory_free(&k[side], p, 16 * (size_t)n);
		k[side].memory_free(&k[side], work, 2 * (size_t)n);
	}
	for (int i = 0; i < 4; i++)
		ok(hashes[0][i] == hashes[1][i], "adamw: the CPU's bits, array %d of p, m, v, work", i);
	free(data);
	k[0].close(&k[0]);
	k[1].close(&k[1]);
}

/* alone: attention, and nothing else. */
static void test_large(enum dtype act, bool alone)
{
	struct kernels k[2];
	/* Logits in chunks. */
	struct kernels_config config = {.act = act, .grad = DTYPE_F32, .logits_bytes = 32 << 20};
	struct kernels_config plain = {.act = DTYPE_F32};
	opened(kernels_open_cuda(&config, &k[0]));
	opened(kernels_open_cpu(&plain, &k[1]));
	struct pair pair = {k, 11};
	struct pair *p = &pair;
	struct kernel_shapes shapes = {4, 1100 / SMALLER, 2048, 4, 50257 / SMALLER, 50304 / SMALLER, 1, true};
	opened(k[0].reserve(&k[0], &shapes));
	opened(k[1].reserve(&k[1], &shapes));
	large_attentions(p, &config);
	if (alone) {
		k[0].close(&k[0]);
		k[1].close(&k[1]);
		return;
	}
	large_layernorm(p, 3, 1000 / SMALLER, 1024);
	large_layernorm(p, 3, 1000 / SMALLER, 768);
	large_layernorm(p, 2, 300 / SMALLER, 1600);
	large_layernorm(p, 1, 300 / SMALLER, 3072);
	large_embedding(p, 4, 1024 / SMALLER, 256, 5000 / SMALLER);
	large_classifier(p, 700 / SMALLER, 128, 50257 / SMALLER, 50304 / SMALLER);
	large_linear(p, 2048 / SMALLER, 1024 / SMALLER, 3072 / SMALLER);
	large_linear(p, 1024 / SMALLER, 768 / SMALLER, 2304 / SMALLER);
	large_linear(p, 333, 260, 130);
	int choices = choices_kept(&k[0], &config);
	ok(choices > 10, "%s: %d choices of algorithms, as text and back", dtype_name(act), choices);
	k[0].close(&k[0]);
	k[1].close(&k[1]);
}

int main(int argc, char **argv)
{
	bool small = false, alone = false;
	for (int i = 1; i < argc; i++) {
		small = small || !strcmp(argv[i], "small");
		alone = alone || !strcmp(argv[i], "attention");
	}
	static const enum dtype combinations[][2] = {{DTYPE_F32, DTYPE_F32}, {DTYPE_BF16, DTYPE_F32},
		{DTYPE_BF16, DTYPE_BF16}, {DTYPE_F16, DTYPE_F32}, {DTYPE_F16, DTYPE_F16}};
	for (int i = 0; i < (small ? 2 : 5); i++)
		test_small(combinations[i][0], combinations[i][1], alone);
	if (!small && !alone)
		same_adamw();
	if (!small) {
		test_large(DTYPE_F32, alone);
		test_large(DTYPE_BF16, alone);
		test_large(DTYPE_F16, alone);
	}
	printf("1..%d\n# %d failed\n", number, failed);
	return failed != 0;
}
