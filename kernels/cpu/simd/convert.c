#include "kernels/cpu/simd/rows.h"

enum { BLOCK = 1 << 14 };

static void convert_span(void *to, enum dtype to_type, const void *from, enum dtype from_type, int64_t n)
{
	float buffer[256];
	if (to_type == DTYPE_F32) {
		span_to_f32(to, from, from_type, n);
		return;
	}
	for (int64_t i = 0; i < n; i += 256) {
		int64_t some = n - i < 256 ? n - i : 256;
		const float *row = row_read(buffer, from, from_type, (size_t)i, some);
		span_from_f32((char *)to + (size_t)i * dtype_bytes(to_type), to_type, row, some);
	}
}

void SIMD(cpu_convert)(struct kernels *k, struct stream *s, void *to, enum dtype to_type, const void *from,
	enum dtype from_type, uint64_t count)
{
	(void)s;
	if (to_type == from_type) {
		k->copy(k, s, to, from, count * dtype_bytes(to_type));
		return;
	}
	int64_t blocks = (int64_t)((count + BLOCK - 1) / BLOCK);
#pragma omp parallel for num_threads(cpu_of(k)->threads) schedule(static) if (blocks > 4)
	for (int64_t b = 0; b < blocks; b++) {
		uint64_t first = (uint64_t)b * BLOCK, n = count - first < BLOCK ? count - first : BLOCK;
		convert_span((char *)to + first * dtype_bytes(to_type), to_type,
			element_at(from, from_type, first), from_type, (int64_t)n);
	}
}

void SIMD(cpu_convert_matrix)(struct kernels *k, void *to, enum dtype to_type, size_t to_ld, const void *from,
	enum dtype from_type, size_t from_ld, int rows, int columns)
{
	(void)k;
#pragma omp parallel for num_threads(cpu_of(k)->threads) schedule(static) if (rows > 16)
	for (int r = 0; r < rows; r++)
		convert_span((char *)to + (size_t)r * to_ld * dtype_bytes(to_type), to_type,
			element_at(from, from_type, (size_t)r * from_ld), from_type, columns);
}
