// Products of any types in plain f32: what float32 models and odd shapes use.
//
// Order of sums: chains of 256 inputs; a chain takes its inputs in order by fmaf from 0; chains are
// added in order; then the bias; then what was in the output. That is the CPU device's order, and
// so with f32 activations the bits are its bits.

#include "product.cuh"

// A block has a tile of 32 rows and 32 outputs, a thread an output of four rows. grid =
// (ceil(outputs / 32), ceil(most rows of a group / 32), groups), 256 threads, no dynamic shared
// memory.
KERNEL(256, product_any, (Product p)) {
    constexpr u32 SIDE = 32, CHAIN = 256;
    __shared__ f32 rows[SIDE][SIDE + 1], weights[SIDE][SIDE + 1];
    Group group = group_of_block(p);
    u32 first_row = group.first + blockIdx.y * SIDE, first_output = blockIdx.x * SIDE;
    if (first_row >= group.end) return;
    u32 column = threadIdx.x % SIDE, line = threadIdx.x / SIDE;  // of 8 lines
    f32 sums[4] = {0.0f, 0.0f, 0.0f, 0.0f}, total[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (u32 base = 0; base < p.inputs; base += SIDE) {
        __syncthreads();
        for (u32 i = line; i < SIDE; i += 8) {
            u32 input = base + column;
            bool has_row = input < p.inputs && first_row + i < group.end;
            bool has_weight = input < p.inputs && first_output + i < p.outputs;
            size_t of_row = (size_t)(first_row + i) * p.inputs + input;
            size_t of_weight = (size_t)(first_output + i) * p.weight_stride + input;
            rows[i][column] = has_row ? load_any(p.x, p.x_type, of_row) : 0.0f;
            weights[i][column] =
                has_weight ? load_any(group.weight, p.weight_type, of_weight) : 0.0f;
        }
        __syncthreads();
        u32 count = least(SIDE, p.inputs - base);
        for (u32 i = 0; i < 4; ++i) {
            for (u32 k = 0; k < count; ++k) {
                sums[i] = fmaf(rows[line + i * 8][k], weights[column][k], sums[i]);
            }
        }
        if ((base + SIDE) % CHAIN == 0 || base + SIDE >= p.inputs) {
            for (u32 i = 0; i < 4; ++i) {
                // The first chain is not added to a zero: it may be a negative one.
                total[i] = base < CHAIN ? sums[i] : total[i] + sums[i];
                sums[i] = 0.0f;
            }
        }
    }
    for (u32 i = 0; i < 4; ++i) {
        u32 row = first_row + line + i * 8, output = first_output + column;
        if (row < group.end && output < p.outputs) finish(p, row, output, total[i]);
    }
}
