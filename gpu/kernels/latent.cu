// Latent attention (DeepSeek-V2, 2024): queries are taken into the space of the compressed rows, so
// that all heads attend over the rows as they are stored (one key head, whose first `value_dim`
// elements are its value). The steps of the operation:
//   split_heads         query [row][head][nope | rotated] -> [head][row][nope]
//   grouped product     (product.cu; a head is a group) -> absorbed [head][row][rank]
//   latent_attention    -> attended [head][row][rank] (by tensor cores: latent_mma.cu)
//   grouped product     -> values [head][row][value_dim]
//   merge_heads         -> out [row][head][value_dim]

#include "attention_any.cuh"

// out[head][row][..width] = x[row][head][..width] of heads of `stride` elements.
// grid = (rows, heads), 128 threads.
template <class T>
DEVICE void split_heads(const T* x, u32 stride, u32 width, T* out) {
    u32 row = blockIdx.x, head = blockIdx.y, rows = gridDim.x, heads = gridDim.y;
    const T* from = x + ((size_t)row * heads + head) * stride;
    T* to = out + ((size_t)head * rows + row) * width;
    for (u32 at = threadIdx.x; at < width; at += blockDim.x) to[at] = from[at];
}

// The reverse, whole heads. Launch as split_heads.
template <class T>
DEVICE void merge_heads(const T* x, u32 width, T* out) {
    u32 row = blockIdx.x, head = blockIdx.y, rows = gridDim.x, heads = gridDim.y;
    const T* from = x + ((size_t)head * rows + row) * width;
    T* to = out + ((size_t)row * heads + head) * width;
    for (u32 at = threadIdx.x; at < width; at += blockDim.x) to[at] = from[at];
}

#define LATENT_OF(T)                                                            \
    KERNEL(128, split_heads_##T, (const T* x, u32 stride, u32 width, T* out)) { \
        split_heads(x, stride, width, out);                                     \
    }                                                                           \
    KERNEL(128, merge_heads_##T, (const T* x, u32 width, T* out)) { merge_heads(x, width, out); }

LATENT_OF(bf16)
LATENT_OF(f16)
LATENT_OF(f32)

// As attention_any (attention.cu) with: a.query = absorbed [head][rows][rank] in a.type;
// a.query_end = the fused query rows [row][head][query_dim] in a.type, whose last
// kv.head_dim - rank elements of a head are rotated; a.query_stride = query_dim; a.value_dim =
// rank; a.out = [head][rows][rank] in a.type; kv.heads = 1, kv.latent = 1. ENTRIES = 8, 128
// threads, rank at most 512, kv.head_dim at most 640. Shared bytes:
//     (8 * head_dim + 32 * (head_dim + 1) + 8 * 64) * 4
KERNEL(128, latent_attention, (Attention a)) {
    SHARED_BYTES(memory);
    u32 rank = a.value_dim;
    auto query = [&](u32 row, u32 head, u32 at) {
        if (at < rank) {
            return load_any(a.query, a.type, ((size_t)head * a.rows + row) * rank + at);
        }
        size_t end = ((size_t)row * a.query_heads + head + 1) * a.query_stride;
        return load_any(a.query_end, a.type, end - a.kv.head_dim + at);
    };
    attend<32, 4>(a, (f32*)memory, query);
}
