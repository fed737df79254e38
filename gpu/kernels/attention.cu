// Attention for any types and head dimensions, in plain f32 arithmetic, and the kernel that merges
// split rows. What models in bf16 and f16 use is in attention_mma.cu.

#include "attention_any.cuh"

// ENTRIES = 8, 128 threads, head_dim at most 256, shared bytes:
//     (8 * head_dim + 64 * (head_dim + 1) + 8 * 64) * 4
// (more than 48 KiB from head_dim 160 on: the host raises the kernel's limit).
KERNEL(128, attention_any, (Attention a)) {
    SHARED_BYTES(memory);
    auto query = [&](u32 row, u32 head, u32 at) {
        size_t first = (size_t)row * a.query_stride + head * a.kv.head_dim;
        return load_any(a.query, a.type, first + at);
    };
    attend<64, 2>(a, (f32*)memory, query);
}

// Merges what attention with `split` left: out[row][head] = values / sum over its spans in order.
// grid = (rows, query_heads), 128 threads. Rows of NONE in `sequence_of` give zeros.
KERNEL(128, attention_combine, (Attention a, const u32* sequence_of)) {
    u32 row = blockIdx.x, head = blockIdx.y, sequence = sequence_of[row];
    size_t to = out_at(a, row, head);
    if (sequence == NONE) {
        for (u32 at = threadIdx.x; at < a.value_dim; at += blockDim.x) {
            store_any(a.out, a.type, to + at, 0.0f);
        }
        return;
    }
    Visible seen = visible(a.window, a.positions[row], a.ends[sequence]);
    u32 slots = divide_up(seen.to, SPAN) - seen.from / SPAN;
    const f32* states = partial_states(a);
    for (u32 at = threadIdx.x; at < a.value_dim; at += blockDim.x) {
        Softmax total = nothing_seen();
        f32 values = 0.0f;
        for (u32 slot = 0; slot < slots; ++slot) {
            size_t from = partial_at(a, row, head, slot);
            Softmax part = {states[2 * from], states[2 * from + 1]};
            Factors by = merge(total, part);
            values = values * by.old + a.partial[from * a.value_dim + at] * by.part;
        }
        store_any(a.out, a.type, to + at, values / total.sum);
    }
}
