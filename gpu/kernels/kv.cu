// Rotation and KV: what stands between the products of a layer and its attention, and how blocks
// move.
//
// A rotary table is [position][pair] of (cosine, sine), f32. A row of NONE in `sequence_of` is
// padding: it is rotated as position 0 is and writes no KV. Block tables are
// [sequence][table_width].

#include "kv.cuh"

// Stores one row of `count` elements by one warp; `value_of(i)` gives what the row is.
template <class F>
DEVICE void store_row(const KvLayer& kv, size_t row, u32 count, F value_of) {
    u32 lane = threadIdx.x % 32;
    size_t first = row * kv.head_dim;
    if (kv.type != INT8 && kv.type != FP8) {
        for (u32 at = lane; at < count; at += 32)
            store_any(kv.data, kv.type, first + at, value_of(at));
        return;
    }
    f32 peak = 0.0f;
    for (u32 at = lane; at < count; at += 32) peak = larger(peak, fabsf(value_of(at)));
    peak = warp_larger(peak);
    f32 end = kv.type == INT8 ? 127.0f : 448.0f;
    f32 inverse = peak > 0.0f ? end / peak : 0.0f;
    for (u32 at = lane; at < count; at += 32) {
        f32 steps = value_of(at) * inverse;
        if (kv.type == INT8) ((i8*)kv.data)[first + at] = round_int8(steps);
        else ((fp8*)kv.data)[first + at] = narrow<fp8>(steps);
    }
    if (lane == 0) kv.scales[row] = peak / end;
}

// Rotates pairs (i, i + pairs), or neighbors (2i, 2i + 1), of `own` by one warp.
template <class T>
DEVICE void rotate(T* own, const f32* angles, u32 pairs, bool neighbors) {
    for (u32 i = threadIdx.x % 32; i < pairs; i += 32) {
        u32 first = neighbors ? 2 * i : i, second = neighbors ? 2 * i + 1 : i + pairs;
        f32 a = widen(own[first]), b = widen(own[second]);
        f32 cos = angles[2 * i], sin = angles[2 * i + 1];
        own[first] = narrow<T>(a * cos - b * sin);
        own[second] = narrow<T>(b * cos + a * sin);
    }
}

// Rotates the query and key heads of fused rows [q | k | v] in place (not if `rope` is null) and
// writes keys and values, as the row then holds them, to the KV. One warp per head.
// grid.x = rows, 256 threads.
template <class T>
DEVICE void rope_write_kv(T* qkv, u32 query_heads, const f32* rope, u32 pairs, const u32* positions,
                          const u32* sequence_of, const u32* tables, u32 table_width,
                          const KvLayer& kv) {
    u32 row = blockIdx.x, dim = kv.head_dim, sequence = sequence_of[row];
    u32 position = sequence == NONE ? 0 : positions[row];
    T* own = qkv + (size_t)row * (query_heads + 2 * kv.heads) * dim;
    u32 block = 0;
    if (sequence != NONE) block = tables[(size_t)sequence * table_width + position / kv.block_size];
    for (u32 head = threadIdx.x / 32; head < query_heads + 2 * kv.heads; head += 8) {
        T* part = own + head * dim;
        if (rope != nullptr && head < query_heads + kv.heads) {
            rotate(part, rope + (size_t)position * pairs * 2, pairs, false);
            __syncwarp();
        }
        if (head < query_heads || sequence == NONE) continue;
        u32 of_kv = head - query_heads, value = of_kv >= kv.heads;
        u32 kv_head = of_kv - value * kv.heads;
        size_t to = kv_row(kv, block, value, kv_head, position % kv.block_size);
        store_row(kv, to, dim, [&](u32 at) { return widen(part[at]); });
    }
}

// Latent attention: rotates the last 2 * pairs elements of every query head (of `query_dim`) and of
// the latent row in place, and writes the row to the KV. `neighbors` says what pairs are.
// grid.x = rows, 256 threads.
template <class T>
DEVICE void write_latent(T* query, T* latent, u32 heads, u32 query_dim, const f32* rope, u32 pairs,
                         u32 neighbors, const u32* positions, const u32* sequence_of,
                         const u32* tables, u32 table_width, const KvLayer& kv) {
    u32 row = blockIdx.x, sequence = sequence_of[row], width = kv.head_dim;
    u32 position = sequence == NONE ? 0 : positions[row];
    const f32* angles = rope + (size_t)position * pairs * 2;
    for (u32 head = threadIdx.x / 32; head <= heads; head += 8) {
        T* end = head < heads ? query + ((size_t)row * heads + head + 1) * query_dim
                              : latent + ((size_t)row + 1) * width;
        rotate(end - 2 * pairs, angles, pairs, neighbors != 0);
        __syncwarp();
        if (head < heads || sequence == NONE) continue;
        u32 block = tables[(size_t)sequence * table_width + position / kv.block_size];
        const T* own = latent + (size_t)row * width;
        size_t to = kv_row(kv, block, 0, 0, position % kv.block_size);
        store_row(kv, to, width, [&](u32 at) { return widen(own[at]); });
    }
}

#define KV_OF(T)                                                                                  \
    KERNEL(256, rope_write_kv_##T,                                                                \
           (T * qkv, u32 query_heads, const f32* rope, u32 pairs, const u32* positions,           \
            const u32* sequence_of, const u32* tables, u32 table_width, KvLayer kv)) {            \
        rope_write_kv(qkv, query_heads, rope, pairs, positions, sequence_of, tables, table_width, \
                      kv);                                                                        \
    }                                                                                             \
    KERNEL(256, write_latent_##T,                                                                 \
           (T * query, T * latent, u32 heads, u32 query_dim, const f32* rope, u32 pairs,          \
            u32 neighbors, const u32* positions, const u32* sequence_of, const u32* tables,       \
            u32 table_width, KvLayer kv)) {                                                       \
        write_latent(query, latent, heads, query_dim, rope, pairs, neighbors, positions,          \
                     sequence_of, tables, table_width, kv);                                       \
    }

KV_OF(bf16)
KV_OF(f16)
KV_OF(f32)

// Copies `runs` runs of `run_bytes` bytes: run r is from + from_first[r] to to + to_first[r], whose
// offsets the host computes: one block over all layers (copy_kv, save, restore: a run is a layer's
// block, and another its scales), or some heads of some blocks (export, import: a run is one key or
// value head of a block, all positions). Sizes and offsets of elements are multiples of 4.
// grid = (runs, 1), 256 threads.
KERNEL(256, copy_runs,
       (const u8* from, const u64* from_first, u8* to, const u64* to_first, u64 run_bytes)) {
    const u8* source = from + from_first[blockIdx.x];
    u8* target = to + to_first[blockIdx.x];
    u64 align = (u64)(size_t)source | (u64)(size_t)target | run_bytes;
    if (align % 16 == 0) {
        const Bytes16* in = (const Bytes16*)source;
        Bytes16* out = (Bytes16*)target;
        for (u64 at = threadIdx.x; at < run_bytes / 16; at += blockDim.x) out[at] = in[at];
    } else {
        for (u64 at = threadIdx.x; at < run_bytes; at += blockDim.x) target[at] = source[at];
    }
}

// As copy_runs, for rows whose scale stands behind their elements where blocks travel: rows of
// `elements` bytes in the pool and `elements + 4` in `packed`. Row r of the pool is pool_rows[r].
// `pack` 1 is export, 0 import. grid.x = rows, 64 threads. INT8 and FP8 only.
KERNEL(64, copy_scaled_rows,
       (u8 * data, f32* scales, const u64* pool_rows, u8* packed, u32 elements, u32 pack)) {
    u64 row = pool_rows[blockIdx.x];
    u8* own = data + row * elements;
    u8* other = packed + (size_t)blockIdx.x * (elements + 4);
    u8* scale = (u8*)(scales + row);
    for (u32 at = threadIdx.x; at < elements + 4; at += blockDim.x) {
        u8* in_pool = at < elements ? own + at : scale + (at - elements);
        if (pack) other[at] = *in_pool;
        else *in_pool = other[at];
    }
}
