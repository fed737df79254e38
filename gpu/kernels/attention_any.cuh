// Attention in plain f32 arithmetic: the body of attention_any and latent_attention.
//
// A block of 128 threads has 8 entries. For each chunk it puts keys into shared memory, each thread
// makes some scores of the chunk, each warp the softmax of two entries, then values take the keys'
// place and each thread adds up its elements of all entries.

#pragma once

#include "attention.cuh"

constexpr u32 ENTRIES = 8;

// Loads keys (`value` 0) or values (1) of `STEP` positions from `base` on, with their scales: zeros
// for positions outside of the stretch, because zero times whatever lies there need not be zero.
template <u32 STEP>
DEVICE void load_rows(const Attention& a, const Entries& entries, const Stretch& stretch, u32 base,
                      u32 value, f32* rows, f32* scales) {
    const u32* table = a.tables + (size_t)entries.tile.sequence * a.table_width;
    u32 dim = a.kv.head_dim;
    auto row_of = [&](u32 position) {
        u32 block = table[position / a.kv.block_size];
        return kv_row(a.kv, block, value, entries.kv_head, position % a.kv.block_size);
    };
    for (u32 at = threadIdx.x; at < STEP * dim; at += 128) {
        u32 position = base + at / dim;
        f32 element = 0.0f;
        if (position >= stretch.from && position < stretch.to) {
            element = load_any(a.kv.data, a.kv.type, row_of(position) * dim + at % dim);
        }
        rows[at / dim * (dim + 1) + at % dim] = element;
    }
    for (u32 at = threadIdx.x; at < STEP; at += 128) {
        u32 position = base + at;
        bool is_scaled = a.kv.scales != nullptr;
        bool there = is_scaled && position >= stretch.from && position < stretch.to;
        scales[at] = there ? a.kv.scales[row_of(position)] : 1.0f;
    }
}

// Makes weights of an entry's scores of a chunk, by one warp: every lane has the same state. Gives
// what values of before are to be multiplied by.
DEVICE f32 weigh(f32* scores, Softmax& state) {
    u32 lane = threadIdx.x % 32;
    f32 low = scores[lane], high = scores[lane + 32], peak = greater(low, high);
    for (int step = 16; step > 0; step /= 2) {
        peak = greater(peak, __shfl_xor_sync(NONE, peak, step));
    }
    peak = greater(state.peak, peak);
    f32 base = peak == nothing_seen().peak ? 0.0f : peak;
    low = power_of_two(low - base);
    high = power_of_two(high - base);
    f32 old = power_of_two(state.peak - base);
    state = {peak, state.sum * old + warp_sum(low + high)};
    scores[lane] = low;
    scores[lane + 32] = high;
    return old;
}

// `STEP` positions are in shared memory at a time (they divide CHUNK), and a thread has `DIMS`
// elements of a value. `query(row, head, at)` is an element of an entry's query.
template <u32 STEP, u32 DIMS, class Query>
DEVICE void attend(const Attention& a, f32* memory, Query query) {
    u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32, dim = a.kv.head_dim;
    Entries entries = entries_of_block(a, ENTRIES);
    if (entries.count == 0) return;
    f32* queries = memory;                           // [8][dim]
    f32* rows = queries + ENTRIES * dim;             // [STEP][dim + 1]: keys, then values
    f32* weights = rows + (size_t)STEP * (dim + 1);  // [8][64]: scores, then weights
    __shared__ f32 factors[ENTRIES][2];              // what old values and those of a span are
    __shared__ f32 row_scales[CHUNK];
    for (u32 at = thread; at < ENTRIES * dim; at += 128) {
        u32 entry = at / dim;
        bool there = entry < entries.count;
        queries[at] = there ? query(entries.row(entry), entries.head(entry), at % dim) : 0.0f;
    }

    // Softmax of the entries 2 * warp and 2 * warp + 1.
    Softmax span_state[2] = {nothing_seen(), nothing_seen()};
    Softmax state[2] = {nothing_seen(), nothing_seen()};
    f32 values[ENTRIES][DIMS], total[ENTRIES][DIMS];
#pragma unroll
    for (u32 entry = 0; entry < ENTRIES; ++entry) {
#pragma unroll
        for (u32 i = 0; i < DIMS; ++i) values[entry][i] = total[entry][i] = 0.0f;
    }

    Stretch stretch = stretch_of_block(a, entries);
    for (u32 chunk = stretch.from / CHUNK * CHUNK; chunk < stretch.to; chunk += CHUNK) {
        for (u32 step = 0; step < CHUNK; step += STEP) {
            __syncthreads();
            load_rows<STEP>(a, entries, stretch, chunk + step, 0, rows, row_scales);
            __syncthreads();
            for (u32 pair = thread; pair < STEP * ENTRIES; pair += 128) {
                u32 entry = pair / STEP, at = pair % STEP, position = chunk + step + at;
                f32 sum = 0.0f;
                const f32* key = rows + (size_t)at * (dim + 1);
                for (u32 i = 0; i < dim; ++i) sum = fmaf(queries[entry * dim + i], key[i], sum);
                Visible seen = seen_by(a, entries, entries.row(least(entry, entries.count - 1)));
                bool is_seen = position >= seen.from && position < seen.to;
                f32 score = scaled_score(a, sum * row_scales[at]);
                weights[entry * CHUNK + step + at] = is_seen ? score : nothing_seen().peak;
            }
        }
        __syncthreads();
#pragma unroll
        for (u32 own = 0; own < 2; ++own) {
            f32 old = weigh(weights + (warp * 2 + own) * CHUNK, span_state[own]);
            if (lane == 0) factors[warp * 2 + own][0] = old;
        }
        for (u32 step = 0; step < CHUNK; step += STEP) {
            __syncthreads();
            load_rows<STEP>(a, entries, stretch, chunk + step, 1, rows, row_scales);
            __syncthreads();
#pragma unroll
            for (u32 entry = 0; entry < ENTRIES; ++entry) {
                f32 old = step == 0 ? factors[entry][0] : 1.0f;
#pragma unroll
                for (u32 i = 0; i < DIMS; ++i) {
                    u32 element = thread + i * 128;
                    if (element >= a.value_dim) continue;
                    f32 sum = 0.0f;
                    for (u32 at = 0; at < STEP; ++at) {
                        f32 weight = weights[entry * CHUNK + step + at] * row_scales[at];
                        sum = fmaf(weight, rows[(size_t)at * (dim + 1) + element], sum);
                    }
                    values[entry][i] = values[entry][i] * old + sum;
                }
            }
        }
        bool ends_span = (chunk + CHUNK) % SPAN == 0 || chunk + CHUNK >= stretch.to;
        if (a.split || !ends_span) continue;
        __syncthreads();
#pragma unroll
        for (u32 own = 0; own < 2; ++own) {
            Factors by = merge(state[own], span_state[own]);
            span_state[own] = nothing_seen();
            if (lane == 0) factors[warp * 2 + own][0] = by.old;
            if (lane == 0) factors[warp * 2 + own][1] = by.part;
        }
        __syncthreads();
#pragma unroll
        for (u32 entry = 0; entry < ENTRIES; ++entry) {
#pragma unroll
            for (u32 i = 0; i < DIMS; ++i) {
                f32 part = values[entry][i] * factors[entry][1];
                total[entry][i] = total[entry][i] * factors[entry][0] + part;
                values[entry][i] = 0.0f;
            }
        }
    }

    __syncthreads();
#pragma unroll
    for (u32 own = 0; own < 2; ++own) {
        f32* to = factors[warp * 2 + own];
        if (lane == 0) to[0] = a.split ? span_state[own].peak : state[own].peak;
        if (lane == 0) to[1] = a.split ? span_state[own].sum : state[own].sum;
    }
    __syncthreads();
#pragma unroll
    for (u32 entry = 0; entry < ENTRIES; ++entry) {
        if (entry >= entries.count) continue;
        u32 row = entries.row(entry), head = entries.head(entry);
        f32 peak = factors[entry][0], sum = factors[entry][1];
        Visible seen = seen_by(a, entries, row);
        if (a.split && !has_slot(seen, stretch.first_span)) continue;
        size_t slot = 0;
        if (a.split) slot = partial_at(a, row, head, stretch.first_span - seen.from / SPAN);
#pragma unroll
        for (u32 i = 0; i < DIMS; ++i) {
            u32 element = thread + i * 128;
            if (element >= a.value_dim) continue;
            if (a.split) a.partial[slot * a.value_dim + element] = values[entry][i];
            else store_any(a.out, a.type, out_at(a, row, head) + element, total[entry][i] / sum);
        }
        if (a.split && thread < 2) partial_states(a)[2 * slot + thread] = thread ? sum : peak;
    }
}
