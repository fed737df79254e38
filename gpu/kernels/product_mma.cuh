// Products of a few rows by tensor cores, whatever weights are stored as: the body of product_few
// and product_coded.
//
// A lane reads eight consecutive inputs at once, of a row of x as of an output's weights. That is
// not how mma counts inputs, but as long as both sides are counted alike it does not matter: of a
// block of 32 inputs, one instruction takes the first four of each lane's eight, and another the
// rest.

#pragma once

#include "mma.cuh"
#include "product.cuh"

constexpr u32 RUNS = 8;

// sums += 16 rows times 8 outputs over a block of 32 inputs: eight of a lane's row g (`low`), of
// its row g + 8 (`high`) and of its output g (`right`).
template <class T>
DEVICE void multiply_block(f32 (&sums)[4], const Bytes16& low, const Bytes16& high,
                           const Bytes16& right) {
#pragma unroll
    for (u32 half = 0; half < 4; half += 2) {
        u32 a[4] = {low.word[half], high.word[half], low.word[half + 1], high.word[half + 1]};
        u32 b[2] = {right.word[half], right.word[half + 1]};
        mma<T>(sums, a, b);
    }
}

// `weights(output, input)` gives eight weights from an input on, a multiple of 8.
template <class T, class Weights>
DEVICE void few_rows(const Product& p, const Group& group, Weights weights) {
    __shared__ f32 runs[RUNS][2][4][32];
    constexpr u32 AHEAD = 4;  // blocks whose loads are under way at once
    u32 first_row = group.first + blockIdx.y * 16;
    if (first_row >= group.end) return;
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, q = lane % 4;
    u32 output = blockIdx.x * 16 + g;
    const T* x = (const T*)p.x + (size_t)(first_row + g) * p.inputs;
    bool has_low = first_row + g < group.end, has_high = first_row + g + 8 < group.end;
    bool has[2] = {output < p.outputs, output + 8 < p.outputs};

    u32 blocks = divide_up(p.inputs, 32), run = divide_up(blocks, RUNS);
    u32 last = least(blocks, (warp + 1) * run);
    f32 sums[2][4] = {};
    for (u32 block = warp * run; block < last; block += AHEAD) {
        Bytes16 low[AHEAD] = {}, high[AHEAD] = {}, right[AHEAD][2] = {};
#pragma unroll
        for (u32 i = 0; i < AHEAD; ++i) {
            u32 input = (block + i) * 32 + q * 8;
            if (block + i >= last || input >= p.inputs) continue;
#pragma unroll
            for (u32 n = 0; n < 2; ++n) {
                if (has[n]) right[i][n] = weights(output + n * 8, input);
            }
            if (has_low) low[i] = *(const Bytes16*)(x + input);
            if (has_high) high[i] = *(const Bytes16*)(x + (size_t)8 * p.inputs + input);
        }
#pragma unroll
        for (u32 i = 0; i < AHEAD; ++i) {
            // Blocks past the end are zeros, which change no sum.
#pragma unroll
            for (u32 n = 0; n < 2; ++n) multiply_block<T>(sums[n], low[i], high[i], right[i][n]);
        }
    }
#pragma unroll
    for (u32 n = 0; n < 2; ++n) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) runs[warp][n][i][lane] = sums[n][i];
    }
    __syncthreads();
    // 256 sums, and as many threads.
    u32 n = threadIdx.x / 128, i = threadIdx.x / 32 % 4, from = threadIdx.x % 32;
    f32 total = 0.0f;
    for (u32 number = 0; number < RUNS; ++number) total += runs[number][n][i][from];
    u32 row = first_row + from / 4 + i / 2 * 8;
    u32 to = blockIdx.x * 16 + n * 8 + from % 4 * 2 + i % 2;
    if (row < group.end && to < p.outputs) finish(p, row, to, total);
}
