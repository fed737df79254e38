// Products by tensor cores (mma.sync m16n8k16) of bf16 or f16 activations and weights of one type.
// inputs and weight_stride are multiples of 8, and rows of both begin at multiples of 16 bytes.
//
// Order of sums, of both kernels: the inputs are eight runs of ceil(inputs / 256) * 32; a run is a
// chain of blocks of 32 inputs, two instructions each (first the inputs whose number modulo 8 is
// below 4, then the others); the runs are added in order; then as product_any. A row's bits depend
// neither on the kernel nor on other rows: `--batch-invariant` uses these alone, without it
// cuBLASLt does what has more rows.

#include "product_mma.cuh"

// For up to 16 rows of a group: each weight is read once. A block has 16 outputs, its eight warps a
// run of inputs each. grid = (ceil(outputs / 16), ceil(most rows of a group / 16), groups), 256
// threads, no dynamic shared memory.
template <class T>
DEVICE void product_few(const Product& p) {
    Group group = group_of_block(p);
    const T* weight = (const T*)group.weight;
    few_rows<T>(p, group, [&](u32 output, u32 input) {
        return *(const Bytes16*)(weight + (size_t)output * p.weight_stride + input);
    });
}

// For more rows: a block has a tile of 64 rows and 64 outputs. grid = (ceil(outputs / 64),
// ceil(most rows of a group / 64), groups), 128 threads, no dynamic shared memory.
// Each warp has a quarter of the tile, 32 by 32. Blocks of 32 inputs are in shared memory three
// times over: one is worked on while two are on their way.
template <class T>
DEVICE void product_many(const Product& p) {
    constexpr u32 ROW = 32 + 8, COPIES = 3, SIDE = 64;
    __align__(16) __shared__ T memory[COPIES][2][SIDE * ROW];
    Group group = group_of_block(p);
    u32 first_row = group.first + blockIdx.y * SIDE, first_output = blockIdx.x * SIDE;
    if (first_row >= group.end) return;
    u32 thread = threadIdx.x, lane = thread % 32, warp = thread / 32, g = lane / 4, q = lane % 4;
    u32 row_half = warp / 2 * 32, output_half = warp % 2 * 32;
    const T* x = (const T*)p.x;
    const T* weight = (const T*)group.weight;

    auto load = [&](u32 block) {
        // 64 rows of x and of the weight, four pieces of eight elements in each.
        for (u32 piece = thread; piece < 2 * SIDE * 4; piece += 128) {
            u32 side = piece / (SIDE * 4), row = piece / 4 % SIDE,
                input = block * 32 + piece % 4 * 8;
            T* to = &memory[block % COPIES][side][row * ROW + piece % 4 * 8];
            bool there = input < p.inputs;
            if (side == 0) {
                there = there && first_row + row < group.end;
                size_t at = (size_t)(first_row + row) * p.inputs + input;
                copy_later(to, there ? x + at : x, there);
            } else {
                there = there && first_output + row < p.outputs;
                size_t at = (size_t)(first_output + row) * p.weight_stride + input;
                copy_later(to, there ? weight + at : weight, there);
            }
        }
    };

    f32 sums[2][4][4], total[2][4][4];  // [16 rows][8 outputs][registers]
#pragma unroll
    for (u32 m = 0; m < 2; ++m) {
#pragma unroll
        for (u32 n = 0; n < 4; ++n) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) sums[m][n][i] = total[m][n][i] = 0.0f;
        }
    }
    u32 blocks = divide_up(p.inputs, 32), run = divide_up(blocks, RUNS);
    for (u32 block = 0; block < COPIES - 1; ++block) {
        if (block < blocks) load(block);
        end_of_copies();
    }
    for (u32 block = 0; block < blocks; ++block) {
        wait_for_copies<COPIES - 2>();
        __syncthreads();
        if (block + COPIES - 1 < blocks) load(block + COPIES - 1);
        end_of_copies();
        const T* rows = memory[block % COPIES][0];
        const T* weights = memory[block % COPIES][1];
        Bytes16 right[4];
#pragma unroll
        for (u32 n = 0; n < 4; ++n) {
            right[n] = *(const Bytes16*)(weights + (output_half + n * 8 + g) * ROW + q * 8);
        }
#pragma unroll
        for (u32 m = 0; m < 2; ++m) {
            const T* row = rows + (row_half + m * 16 + g) * ROW + q * 8;
            Bytes16 low = *(const Bytes16*)row, high = *(const Bytes16*)(row + 8 * ROW);
#pragma unroll
            for (u32 n = 0; n < 4; ++n) multiply_block<T>(sums[m][n], low, high, right[n]);
        }
        if ((block + 1) % run == 0 || block + 1 == blocks) {
#pragma unroll
            for (u32 m = 0; m < 2; ++m) {
#pragma unroll
                for (u32 n = 0; n < 4; ++n) {
#pragma unroll
                    for (u32 i = 0; i < 4; ++i) {
                        total[m][n][i] += sums[m][n][i];
                        sums[m][n][i] = 0.0f;
                    }
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
                u32 output = first_output + output_half + n * 8 + q * 2 + i % 2;
                if (row < group.end && output < p.outputs) finish(p, row, output, total[m][n][i]);
            }
        }
    }
}

KERNEL(256, product_few_bf16, (Product p)) { product_few<bf16>(p); }
KERNEL(256, product_few_f16, (Product p)) { product_few<f16>(p); }
KERNEL(128, product_many_bf16, (Product p)) { product_many<bf16>(p); }
KERNEL(128, product_many_f16, (Product p)) { product_many<f16>(p); }
