// Products out = x * weight^T (+ bias), stored or added: what their kernels share.
//
// # Groups
// One launch can do the products of several weights, each for its own rows of x (experts, heads):
// group g has rows ends[g - 1] .. ends[g] and weights[g]. `ends` and `weights` are device memory,
// so that who chose what is never read back; blocks beyond a group's rows end at once. Without
// groups `ends` and `weights` are null, all rows are one group and `weight` is its weight. Weights
// that are more than an address (codes, integers) are in an array of their own instead.

#pragma once

#include "common.cuh"

// By value; fields in this order, without holes.
struct Product {
    const void* x;               // [rows][inputs]
    const void* weight;          // [outputs][weight_stride], row by row
    const void* const* weights;  // [groups], or null
    const f32* bias;             // [outputs], or null
    void* out;                   // [rows][outputs]
    const u32* ends;             // [groups], or null
    u32 rows;                    // of x, padding included
    u32 inputs;
    u32 outputs;
    u32 weight_stride;  // elements from one output to the next
    u32 x_type;         // a Type
    u32 weight_type;    // a Type: product_any only
    u32 out_type;       // a Type: F32, or that of x
    u32 add;            // 1: out += product
};

// The rows and the weight of group blockIdx.z.
struct Group {
    u32 first, end;
    const void* weight;
};

DEVICE Group group_of_block(const Product& p) {
    if (p.ends == nullptr) return {0, p.rows, p.weight};
    u32 group = blockIdx.z;
    const void* weight = p.weights == nullptr ? nullptr : p.weights[group];
    return {group == 0 ? 0 : p.ends[group - 1], p.ends[group], weight};
}

// How every product ends: bias, what was there, rounding.
DEVICE void finish(const Product& p, u32 row, u32 output, f32 value) {
    size_t at = (size_t)row * p.outputs + output;
    if (p.bias != nullptr) value += p.bias[output];
    if (p.add) value += load_any(p.out, p.out_type, at);
    store_any(p.out, p.out_type, at, value);
}
