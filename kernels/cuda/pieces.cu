/* Pieces of 64 elements, brought together and put back: 16 bytes a thread, a piece's side by side. */
#include "kernels/cuda/backend.cuh"

enum { move_threads = 256 };

/* W: a piece's words of 16 bytes. */
template <int W, bool gathers>
__global__ void __launch_bounds__(move_threads) move_pieces(
	uint4 *to, const uint4 *from, const uint32_t *pieces, int64_t words, uint32_t first, uint32_t room)
{
	int64_t i = (int64_t)blockIdx.x * move_threads + threadIdx.x;
	if (i >= words)
		return;
	uint32_t piece = pieces[i / W] - first;
	if (piece >= room)
		return;
	int64_t away = (int64_t)piece * W + i % W;
	to[gathers ? i : away] = from[gathers ? away : i];
}

template <bool gathers>
static void move(struct kernels *k, struct stream *s, void *to, const void *from, const uint32_t *pieces,
	uint64_t count, uint32_t first, uint32_t room, enum dtype type)
{
	constexpr int halves = KERNELS_PIECE * 2 / 16, floats = 2 * halves;
	struct backend *b = backend_enter(k);
	s = stream_of(k, s);
	if (!count)
		return;
	int64_t words = (int64_t)count * (type == DTYPE_F32 ? floats : halves);
	if (type == DTYPE_F32)
		launch(move_pieces<floats, gathers>, ceiling(words, move_threads), move_threads, 0, s->handle,
			(uint4 *)to, (const uint4 *)from, pieces, words, first, room);
	else
		launch(move_pieces<halves, gathers>, ceiling(words, move_threads), move_threads, 0, s->handle,
			(uint4 *)to, (const uint4 *)from, pieces, words, first, room);
	stream_launched(b, s, gathers ? "gather" : "scatter");
}

void cuda_gather(struct kernels *k, struct stream *s, void *to, const void *from, const uint32_t *pieces,
	uint64_t count, uint32_t first, uint32_t room, enum dtype type)
{
	move<true>(k, s, to, from, pieces, count, first, room, type);
}

void cuda_scatter(struct kernels *k, struct stream *s, void *to, const void *from, const uint32_t *pieces,
	uint64_t count, uint32_t first, uint32_t room, enum dtype type)
{
	move<false>(k, s, to, from, pieces, count, first, room, type);
}
