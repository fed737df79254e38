// Products of integers: weights of eight or four bits that Troupe made (`--quantization`), with
// activations of eight bits (quantize_int8). Sums within a group of inputs are whole numbers and
// so exact in any order; groups of four-bit weights are added by fmaf in order. So every kernel
// here has the bits of the CPU device (gpu/src/cpu/integers.rs).
//
// Weights lie [output][word] in blocks of 64 inputs: of eight bits, which are signed with zero 0,
// 16 words of four inputs; of four bits 8 words, whose byte b of word i has input 4i + b below and
// 32 + 4i + b above, and zero is 8. Of Product only bias, out, ends, rows, outputs, out_type and
// add are read.
//
// Kernels that end in _groups take group g's weights from of_groups[g] and its rows as product.cuh
// says; their grids have groups as z, and the most rows of a group instead of rows.

#include "mma.cuh"
#include "product.cuh"

// By value; fields in this order.
struct Integers {
    const i8* x;          // [rows][x_stride], zeros behind a row's inputs
    const f32* x_scales;  // [rows]
    const u32* weight;    // [outputs][blocks * 16 or 8]
    const f32* scales;    // [outputs] with eight bits, [outputs][blocks] with four
    u32 x_stride;         // bytes, blocks * 64
    u32 blocks;           // ceil(inputs / 64)
};

// The weights of one group.
struct IntegerWeights {
    const u32* weight;
    const f32* scales;
};

DEVICE Integers with(Integers q, const IntegerWeights& own) {
    q.weight = own.weight;
    q.scales = own.scales;
    return q;
}

template <bool EIGHT>
struct Bits {
    static constexpr u32 WORDS = EIGHT ? 16 : 8;  // of a block
};

// Four bytes that are v - 8 of four bytes v below 16: no byte borrows of another, because each has
// its highest bit set while 8 is taken away.
DEVICE u32 less_eight(u32 bytes) { return ((bytes | 0x80808080u) - 0x08080808u) ^ 0x80808080u; }

// Inputs 4 * word .. 4 * word + 3 of a block as signed bytes.
template <bool EIGHT>
DEVICE u32 signed_bytes(const u32* words, u32 word) {
    if (EIGHT) return words[word];
    return less_eight(words[word % 8] >> (word / 8 * 4) & 0x0f0f0f0f);
}

// --- Few rows -----------------------------------------------------------------------------------

constexpr u32 ROWS = 8;

// A warp has one output of up to 8 rows; its lanes have a block of inputs each, and of four bits
// lane r then adds up the groups of row r. grid = (ceil(outputs / 8), ceil(rows / 8)), 256 threads.
template <bool EIGHT>
DEVICE void few_integers(const Product& p, const Integers& q, const Group& group) {
    constexpr u32 WORDS = Bits<EIGHT>::WORDS;
    __shared__ int dots[8][ROWS][33];
    __shared__ f32 scales[8][32];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, output = blockIdx.x * 8 + warp;
    u32 first_row = group.first + blockIdx.y * ROWS, end = group.end;
    if (output >= p.outputs || first_row >= end) return;
    int whole[ROWS] = {};
    f32 total = 0.0f;
    for (u32 base = 0; base < q.blocks; base += 32) {
        u32 block = base + lane;
        bool there = block < q.blocks;
        u32 words[WORDS];
        size_t of_block = (size_t)output * q.blocks + (there ? block : 0);
        const Bytes16* from = (const Bytes16*)(q.weight + of_block * WORDS);
#pragma unroll
        for (u32 i = 0; i < WORDS; ++i) words[i] = from[i / 4].word[i % 4];
        if (!EIGHT) scales[warp][lane] = q.scales[of_block];
#pragma unroll
        for (u32 row = 0; row < ROWS; ++row) {
            int sum = 0;
            if (there && first_row + row < end) {
                const i8* x = q.x + (size_t)(first_row + row) * q.x_stride + block * 64;
#pragma unroll
                for (u32 word = 0; word < 16; ++word) {
                    u32 four = ((const Bytes16*)x)[word / 4].word[word % 4];
                    sum = dot4(signed_bytes<EIGHT>(words, word), four, sum);
                }
            }
            if (EIGHT) whole[row] += sum;
            else dots[warp][row][lane] = sum;
        }
        if (!EIGHT) {
            __syncwarp();
            u32 count = least(32, q.blocks - base);
            for (u32 i = 0; lane < ROWS && i < count; ++i) {
                total = fmaf((f32)dots[warp][lane][i], scales[warp][i], total);
            }
            __syncwarp();
        }
    }
    if (!EIGHT) {
        u32 row = first_row + lane;
        if (lane < ROWS && row < end) finish(p, row, output, total * q.x_scales[row]);
        return;
    }
#pragma unroll
    for (u32 row = 0; row < ROWS; ++row) {
        for (int step = 16; step > 0; step /= 2)
            whole[row] += __shfl_xor_sync(NONE, whole[row], step);
        if (lane != row || first_row + row >= end) continue;
        f32 scale = q.x_scales[first_row + row] * q.scales[output];
        finish(p, first_row + row, output, (f32)whole[row] * scale);
    }
}

KERNEL(256, product_few_int8, (Product p, Integers q)) {
    few_integers<true>(p, q, Group{0, p.rows, nullptr});
}
KERNEL(256, product_few_int4, (Product p, Integers q)) {
    few_integers<false>(p, q, Group{0, p.rows, nullptr});
}
KERNEL(256, product_few_int8_groups, (Product p, Integers q, const IntegerWeights* of_groups)) {
    few_integers<true>(p, with(q, of_groups[blockIdx.z]), group_of_block(p));
}
KERNEL(256, product_few_int4_groups, (Product p, Integers q, const IntegerWeights* of_groups)) {
    few_integers<false>(p, with(q, of_groups[blockIdx.z]), group_of_block(p));
}

// --- Many rows ----------------------------------------------------------------------------------

// A block has a tile of 64 rows and 64 outputs, each of its four warps 32 by 32, by tensor cores:
// two instructions of 32 inputs for a block of 64. A lane reads sixteen consecutive inputs at once,
// of a row as of an output's weights, which is not how mma counts them, but alike on both sides.
// grid = (ceil(outputs / 64), ceil(rows / 64)), 128 threads, no dynamic shared memory.
template <bool EIGHT>
DEVICE void many_integers(const Product& p, const Integers& q, const Group& group) {
    constexpr u32 WORDS = Bits<EIGHT>::WORDS, SIDE = 64, COPIES = 3;
    constexpr u32 ROW = 64 + 16, WEIGHT_ROW = WORDS * 4 + 16;  // bytes, so that banks differ
    __align__(16) __shared__ u8 rows[COPIES][SIDE * ROW];
    __align__(16) __shared__ u8 weights[COPIES][SIDE * WEIGHT_ROW];
    u32 first_row = group.first + blockIdx.y * SIDE, first_output = blockIdx.x * SIDE;
    if (first_row >= group.end) return;
    u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32, g = lane / 4, l = lane % 4;
    u32 row_half = warp / 2 * 32, output_half = warp % 2 * 32;

    auto load = [&](u32 block) {
        for (u32 piece = thread; piece < SIDE * 4; piece += 128) {
            u32 row = piece / 4, part = piece % 4 * 16;
            bool there = first_row + row < group.end;
            size_t from = (size_t)(first_row + row) * q.x_stride + block * 64 + part;
            copy_later(&rows[block % COPIES][row * ROW + part], q.x + (there ? from : 0), there);
        }
        for (u32 piece = thread; piece < SIDE * WORDS / 4; piece += 128) {
            u32 output = piece / (WORDS / 4), part = piece % (WORDS / 4);
            bool there = first_output + output < p.outputs;
            size_t from = ((size_t)(first_output + output) * q.blocks + block) * WORDS + part * 4;
            copy_later(&weights[block % COPIES][output * WEIGHT_ROW + part * 16],
                       q.weight + (there ? from : 0), there);
        }
    };
    auto scale_of = [&](u32 output, u32 block) {
        output = least(output, p.outputs - 1);
        return EIGHT ? q.scales[output] : q.scales[(size_t)output * q.blocks + block];
    };

    int sums[2][4][4];
    f32 total[2][4][4];
#pragma unroll
    for (u32 m = 0; m < 2; ++m) {
#pragma unroll
        for (u32 n = 0; n < 4; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) sums[m][n][i] = 0, total[m][n][i] = 0.0f;
        }
    }
    for (u32 block = 0; block < COPIES - 1; ++block) {
        if (block < q.blocks) load(block);
        end_of_copies();
    }
    for (u32 block = 0; block < q.blocks; ++block) {
        wait_for_copies<COPIES - 2>();
        __syncthreads();
        if (block + COPIES - 1 < q.blocks) load(block + COPIES - 1);
        end_of_copies();
        u32 right[4][4];
#pragma unroll
        for (u32 n = 0; n < 4; ++n) {
            const u8* own = &weights[block % COPIES][(output_half + n * 8 + g) * WEIGHT_ROW];
            Bytes16 four = *(const Bytes16*)(own + (EIGHT ? l : l % 2) * 16);
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                // Words 0..7 of the block are below, words 8..15 above.
                u32 half = four.word[i] >> (l / 2 * 4) & 0x0f0f0f0f;
                right[n][i] = EIGHT ? four.word[i] : less_eight(half);
            }
        }
#pragma unroll
        for (u32 m = 0; m < 2; ++m) {
            const u8* own = &rows[block % COPIES][(row_half + m * 16 + g) * ROW + l * 16];
            Bytes16 low = *(const Bytes16*)own, high = *(const Bytes16*)(own + 8 * ROW);
#pragma unroll
            for (u32 n = 0; n < 4; ++n) {
#pragma unroll
                for (u32 half = 0; half < 4; half += 2) {
                    u32 a[4] = {low.word[half], high.word[half], low.word[half + 1],
                                high.word[half + 1]};
                    u32 b[2] = {right[n][half], right[n][half + 1]};
                    mma_int8(sums[m][n], a, b);
                }
            }
        }
        if (EIGHT) continue;
#pragma unroll
        for (u32 n = 0; n < 4; ++n) {
            u32 output = first_output + output_half + n * 8 + l * 2;
            f32 scales[2] = {scale_of(output, block), scale_of(output + 1, block)};
#pragma unroll
            for (u32 m = 0; m < 2; ++m) {
#pragma unroll
                for (u32 i = 0; i < 4; ++i) {
                    total[m][n][i] = fmaf((f32)sums[m][n][i], scales[i % 2], total[m][n][i]);
                    sums[m][n][i] = 0;
                }
            }
        }
    }
#pragma unroll
    for (u32 m = 0; m < 2; ++m) {
#pragma unroll
        for (u32 n = 0; n < 4; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                u32 row = first_row + row_half + m * 16 + g + i / 2 * 8;
                u32 output = first_output + output_half + n * 8 + l * 2 + i % 2;
                if (row >= group.end || output >= p.outputs) continue;
                f32 x_scale = q.x_scales[row];
                finish(p, row, output,
                       EIGHT ? (f32)sums[m][n][i] * (x_scale * q.scales[output])
                             : total[m][n][i] * x_scale);
            }
        }
    }
}

KERNEL(128, product_many_int8, (Product p, Integers q)) {
    many_integers<true>(p, q, Group{0, p.rows, nullptr});
}
KERNEL(128, product_many_int4, (Product p, Integers q)) {
    many_integers<false>(p, q, Group{0, p.rows, nullptr});
}
KERNEL(128, product_many_int8_groups, (Product p, Integers q, const IntegerWeights* of_groups)) {
    many_integers<true>(p, with(q, of_groups[blockIdx.z]), group_of_block(p));
}
KERNEL(128, product_many_int4_groups, (Product p, Integers q, const IntegerWeights* of_groups)) {
    many_integers<false>(p, with(q, of_groups[blockIdx.z]), group_of_block(p));
}
