// Attention by tensor cores: what a warp does with 16 entries and a chunk of 64 positions. Scores
// (queries times keys) become weights where they are, in registers, because scores of one product
// lie as the next wants its left side; then weights times values are added up. `ROW` is the
// elements from one row to the next in shared memory.

#pragma once

#include "attention.cuh"

// Scores of a warp's 16 entries for `TILES` times eight positions, over DIM elements.
template <class T, u32 DIM, u32 ROW, u32 TILES>
DEVICE void make_scores(const T* queries, const T* keys, f32 (&scores)[TILES][4]) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 tile8 = 0; tile8 < TILES; ++tile8) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) scores[tile8][i] = 0.0f;
    }
#pragma unroll
    for (u32 k = 0; k < DIM; k += 16) {
        // The four quarters of a 16 x 16 matrix, in the order of mma's registers.
        u32 left[4];
        u32 row = lane % 8 + lane / 8 % 2 * 8;
        load_matrices(left, queries + row * ROW + k + lane / 16 * 8);
#pragma unroll
        for (u32 tile8 = 0; tile8 < TILES; tile8 += 2) {
            // Keys lie as the right side's columns: two runs of eight positions.
            u32 right[4];
            u32 at = tile8 * 8 + lane % 8 + lane / 16 * 8;
            load_matrices(right, keys + at * ROW + k + lane / 8 % 2 * 8);
            u32 first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
            mma<T>(scores[tile8], left, first);
            mma<T>(scores[tile8 + 1], left, second);
        }
    }
}

// Makes weights of scores, and of a lane's two entries what their softmax then is; the sum is of
// the lane's own columns alone. `by` is what values of before are to be multiplied by.
template <bool SCALED>
DEVICE void make_weights(const Attention& a, const Visible (&seen)[2], u32 base,
                         const f32* key_scales, const f32* value_scales,
                         f32 (&scores)[CHUNK / 8][4], Softmax (&state)[2], f32 (&by)[2]) {
    u32 q = threadIdx.x % 4;
    f32 peak[2] = {state[0].peak, state[1].peak}, bases[2];
#pragma unroll
    for (u32 tile8 = 0; tile8 < CHUNK / 8; ++tile8) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            u32 at = tile8 * 8 + q * 2 + i % 2, position = base + at;
            f32 product = scores[tile8][i];
            if constexpr (SCALED) product *= key_scales[at];
            f32 score = scaled_score(a, product);
            bool is_seen = position >= seen[i / 2].from && position < seen[i / 2].to;
            scores[tile8][i] = is_seen ? score : nothing_seen().peak;
            peak[i / 2] = greater(peak[i / 2], scores[tile8][i]);
        }
    }
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        peak[half] = greater(peak[half], __shfl_xor_sync(NONE, peak[half], 1));
        peak[half] = greater(peak[half], __shfl_xor_sync(NONE, peak[half], 2));
        bases[half] = peak[half] == nothing_seen().peak ? 0.0f : peak[half];
        by[half] = power_of_two(state[half].peak - bases[half]);
        state[half] = {peak[half], state[half].sum * by[half]};
    }
#pragma unroll
    for (u32 tile8 = 0; tile8 < CHUNK / 8; ++tile8) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            f32 weight = power_of_two(scores[tile8][i] - bases[i / 2]);
            state[i / 2].sum += weight;
            if constexpr (SCALED) weight *= value_scales[tile8 * 8 + q * 2 + i % 2];
            scores[tile8][i] = weight;
        }
    }
}

// values = values * by + weights * rows, 16 positions at a time: rows of values are turned.
template <class T, u32 DIM, u32 ROW>
DEVICE void add_values(const f32 (&weights)[CHUNK / 8][4], const T* rows, const f32 (&by)[2],
                       f32 (&values)[DIM / 8][4]) {
    u32 lane = threadIdx.x % 32;
#pragma unroll
    for (u32 tile8 = 0; tile8 < DIM / 8; ++tile8) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) values[tile8][i] *= by[i / 2];
    }
#pragma unroll
    for (u32 k = 0; k < CHUNK / 16; ++k) {
        const f32(&low)[4] = weights[2 * k];
        const f32(&high)[4] = weights[2 * k + 1];
        u32 left[4] = {pack<T>(low[0], low[1]), pack<T>(low[2], low[3]), pack<T>(high[0], high[1]),
                       pack<T>(high[2], high[3])};
#pragma unroll
        for (u32 tile8 = 0; tile8 < DIM / 8; tile8 += 2) {
            u32 right[4];
            u32 at = k * 16 + lane % 16;
            load_matrices_turned(right, rows + at * ROW + tile8 * 8 + lane / 16 * 8);
            u32 first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
            mma<T>(values[tile8], left, first);
            mma<T>(values[tile8 + 1], left, second);
        }
    }
}

// What a lane has of the sum of weights was of its own columns alone.
DEVICE void add_columns(Softmax& state) {
    state.sum += __shfl_xor_sync(NONE, state.sum, 1);
    state.sum += __shfl_xor_sync(NONE, state.sum, 2);
}
