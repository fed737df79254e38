// Where keys and values lie. One layer of a pool is
//
//     heads:   [block][key, value][head][position][dim]
//     scales:  [block][key, value][head][position]
//     latent:  [block][position][element]     (keys and values are the same rows)
//
// which is the canonical layout that blocks travel in, so that export and import are copies, and a
// head's positions of one block follow each other, which is what attention reads. INT8 and FP8
// elements are multiplied by the f32 scale of their position and head.

#pragma once

#include "common.cuh"

// One layer of a pool, as kernels take it (by value). `data` and `scales` begin at that layer.
struct KvLayer {
    void* data;
    f32* scales;     // null unless type is INT8 or FP8
    u32 type;        // a Type
    u32 heads;       // 1 for latent rows
    u32 head_dim;    // elements of a key, or of a latent row
    u32 block_size;  // positions, a power of two
    u32 latent;      // 1 if keys are values too
    u32 unused;
};

// The number of a row, from which follow its first element (times head_dim) and its scale. `value`
// is 0 for the key and 1 for the value.
DEVICE size_t kv_row(const KvLayer& kv, u32 block, u32 value, u32 head, u32 position) {
    size_t of_block = kv.latent ? block : ((size_t)block * 2 + value) * kv.heads + head;
    return of_block * kv.block_size + position;
}

DEVICE u32 type_bytes(u32 type) { return type == F32 ? 4 : type == BF16 || type == F16 ? 2 : 1; }
