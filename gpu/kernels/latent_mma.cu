// Latent attention by tensor cores, for rows of 512 compressed and 64 rotated elements: what every
// model of DeepSeek's has. Where it stands among the steps of the operation is in latent.cu.
//
// A block has 16 entries and four warps. Each warp makes the scores of a quarter of a chunk's
// positions and puts them into shared memory; then each has all of them, makes the same weights,
// and adds up a quarter of the values' elements.

#include "attention_mma.cuh"

constexpr u32 RANK = 512, WIDTH = 576, ROW = WIDTH + 8, ENTRIES = 16, WARPS = 4;
constexpr u32 SCORES = CHUNK + 4;  // floats from one entry's scores to the next's
constexpr u32 DIM = RANK / WARPS;  // a warp's elements of values

// Eight elements of an entry's query: absorbed, then rotated.
template <class T>
DEVICE Bytes16 eight_of_query(const Attention& a, u32 row, u32 head, u32 element) {
    size_t absorbed = ((size_t)head * a.rows + row) * RANK;
    if (element < RANK) return *(const Bytes16*)((const T*)a.query + absorbed + element);
    size_t end = ((size_t)row * a.query_heads + head + 1) * a.query_stride;
    return *(const Bytes16*)((const T*)a.query_end + end - WIDTH + element);
}

template <class T>
DEVICE void latent_mma(const Attention& a, u8* memory) {
    T* queries = (T*)memory;                      // [ENTRIES][ROW]
    T* rows = queries + ENTRIES * ROW;            // [CHUNK][ROW]
    f32* exchanged = (f32*)(rows + CHUNK * ROW);  // [ENTRIES][SCORES]
    Entries entries = entries_of_block(a, ENTRIES);
    if (entries.count == 0) return;
    Stretch stretch = stretch_of_block(a, entries);
    const u32* table = a.tables + (size_t)entries.tile.sequence * a.table_width;
    u32 shift = __popc(a.kv.block_size - 1);
    for (u32 piece = threadIdx.x; piece < ENTRIES * (WIDTH / 8); piece += WARPS * 32) {
        u32 entry = piece / (WIDTH / 8), element = piece % (WIDTH / 8) * 8;
        Bytes16 eight = {{0, 0, 0, 0}};
        if (entry < entries.count) {
            eight = eight_of_query<T>(a, entries.row(entry), entries.head(entry), element);
        }
        *(Bytes16*)(queries + entry * ROW + element) = eight;
    }
    // A lane has elements of two entries: g and 8 further.
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
    Visible seen[2];
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        u32 entry = least(g + half * 8, entries.count - 1);
        seen[half] = seen_by(a, entries, entries.row(entry));
    }
    Softmax span_state[2] = {nothing_seen(), nothing_seen()};
    Softmax state[2] = {nothing_seen(), nothing_seen()};
    f32 values[DIM / 8][4], total[DIM / 8][4];
#pragma unroll
    for (u32 tile8 = 0; tile8 < DIM / 8; ++tile8) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) values[tile8][i] = total[tile8][i] = 0.0f;
    }

    for (u32 base = stretch.from / CHUNK * CHUNK; base < stretch.to; base += CHUNK) {
        __syncthreads();
        for (u32 piece = threadIdx.x; piece < CHUNK * (WIDTH / 8); piece += WARPS * 32) {
            u32 at = piece / (WIDTH / 8), element = piece % (WIDTH / 8) * 8, position = base + at;
            bool there = position >= stretch.from && position < stretch.to;
            u32 block = there ? table[position >> shift] : 0;
            size_t row = kv_row(a.kv, block, 0, 0, position & (a.kv.block_size - 1));
            size_t from = there ? row * WIDTH + element : 0;
            copy_later(rows + at * ROW + element, (const T*)a.kv.data + from, there);
        }
        end_of_copies();
        wait_for_copies<0>();
        __syncthreads();
        f32 own[2][4], scores[CHUNK / 8][4], by[2];
        make_scores<T, WIDTH, ROW>(queries, rows + warp * 16 * ROW, own);
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            u32 entry = g + i / 2 % 2 * 8, at = warp * 16 + i / 4 * 8 + q * 2 + i % 2;
            exchanged[entry * SCORES + at] = own[i / 4][i % 4];
        }
        __syncthreads();
#pragma unroll
        for (u32 i = 0; i < CHUNK / 2; ++i) {
            u32 entry = g + i / 2 % 2 * 8, at = i / 4 * 8 + q * 2 + i % 2;
            scores[i / 4][i % 4] = exchanged[entry * SCORES + at];
        }
        make_weights<false>(a, seen, base, nullptr, nullptr, scores, span_state, by);
        add_values<T, DIM, ROW>(scores, rows + warp * DIM, by, values);
        bool ends_span = (base + CHUNK) % SPAN == 0 || base + CHUNK >= stretch.to;
        if (!ends_span) continue;
        add_columns(span_state[0]);
        add_columns(span_state[1]);
        if (a.split) break;
        Factors factors[2] = {merge(state[0], span_state[0]), merge(state[1], span_state[1])};
        span_state[0] = span_state[1] = nothing_seen();
#pragma unroll
        for (u32 tile8 = 0; tile8 < DIM / 8; ++tile8) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                f32 part = values[tile8][i] * factors[i / 2].part;
                total[tile8][i] = total[tile8][i] * factors[i / 2].old + part;
                values[tile8][i] = 0.0f;
            }
        }
    }

#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        u32 entry = g + half * 8;
        if (entry >= entries.count) continue;
        if (a.split && !has_slot(seen[half], stretch.first_span)) continue;
        u32 row = entries.row(entry), head = entries.head(entry);
        size_t out = out_at(a, row, head), slot = 0;
        if (a.split) slot = partial_at(a, row, head, stretch.first_span - seen[half].from / SPAN);
#pragma unroll
        for (u32 i = 0; i < DIM / 4; ++i) {
            u32 element = warp * DIM + i / 2 * 8 + q * 2 + i % 2, of = half * 2 + i % 2;
            if (a.split) {
                a.partial[slot * RANK + element] = values[i / 2][of];
            } else {
                f32 value = total[i / 2][of] / state[half].sum;
                ((T*)a.out)[out + element] = narrow<T>(value);
            }
        }
        if (a.split && warp == 0 && q == 0) {
            partial_states(a)[2 * slot] = span_state[half].peak;
            partial_states(a)[2 * slot + 1] = span_state[half].sum;
        }
    }
}

// As latent_attention (latent.cu) with kv.head_dim = 576, rank = 512, query, rows, KV and out in
// one type, and rotated parts that begin at multiples of 16 bytes. ENTRIES = 16, 128 threads, 97792
// bytes of dynamic shared memory. `split` may be 1, with attention_combine after it.
KERNEL(128, latent_attention_bf16, (Attention a)) {
    SHARED_BYTES(memory);
    latent_mma<bf16>(a, memory);
}
KERNEL(128, latent_attention_f16, (Attention a)) {
    SHARED_BYTES(memory);
    latent_mma<f16>(a, memory);
}
