// What happens to rows element by element: gathers, gates, scaling, sums. One kernel of each for
// activations in bf16, f16 and f32 (the end of its name).
//
// Launch of all: blocks of 256 threads, no dynamic shared memory. Row kernels have one block per
// row (`grid.x` = rows) unless they say otherwise; the others any number of blocks, which share the
// elements out among them (a good number is min(elements / 1024 + 1, 8 * multiprocessors)).

#include "common.cuh"

// out[r] = table[tokens[r] - first_token], zeros for tokens outside `table_rows` of them.
// `table_type` is a Type: BF16, F16 or F32. grid.x = rows.
template <class T>
DEVICE void embed(const u32* tokens, const void* table, u32 table_type, u32 table_stride,
                  u32 first_token, u32 table_rows, u32 columns, T* out) {
    u32 token = tokens[blockIdx.x] - first_token;  // wraps below the first, and so is outside
    T* to = out + (size_t)blockIdx.x * columns;
    for (u32 at = threadIdx.x; at < columns; at += blockDim.x) {
        bool inside = token < table_rows;
        f32 value = inside ? load_any(table, table_type, (size_t)token * table_stride + at) : 0.0f;
        to[at] = narrow<T>(value);
    }
}

// out[i] = x[rows[i]]: the rows that logits are asked for. grid.x = how many. A row of NONE (what
// fills a captured size up) gives zeros.
template <class T>
DEVICE void gather_rows(const T* x, const u32* rows, u32 columns, T* out) {
    u32 row = rows[blockIdx.x];
    const T* from = x + (size_t)row * columns;
    T* to = out + (size_t)blockIdx.x * columns;
    for (u32 at = threadIdx.x; at < columns; at += blockDim.x) {
        to[at] = row == NONE ? narrow<T>(0.0f) : from[at];
    }
}

// out = gate * up of rows [gate | up], `width` elements each. grid = (rows, any number of blocks
// that share a row's elements out), 256 threads.
enum Gate : u32 { SILU, GELU };

template <Gate GATE>
DEVICE f32 gated(f32 gate, f32 up) {
    return (GATE == SILU ? silu(gate) : gelu(gate)) * up;
}

template <Gate GATE, class T>
DEVICE void gate_mul(const T* gate_up, u32 width, T* out) {
    const T* gate = gate_up + (size_t)blockIdx.x * 2 * width;
    T* to = out + (size_t)blockIdx.x * width;
    u32 thread = blockIdx.y * 256 + threadIdx.x, threads = gridDim.y * 256;
    if (width % 8 == 0) {
        for (u32 at = thread * 8; at < width; at += threads * 8) {
            Eight gates = load_eight(gate + at), ups = load_eight(gate + width + at), product;
#pragma unroll
            for (u32 i = 0; i < 8; ++i) product.of[i] = gated<GATE>(gates.of[i], ups.of[i]);
            store_eight(to + at, product);
        }
        return;
    }
    for (u32 at = thread; at < width; at += threads) {
        to[at] = narrow<T>(gated<GATE>(widen(gate[at]), widen(gate[width + at])));
    }
}

// x *= factor.
template <class T>
DEVICE void scale(T* x, u64 elements, f32 factor) {
    for (u64 at = blockIdx.x * blockDim.x + threadIdx.x; at < elements;
         at += (u64)gridDim.x * blockDim.x) {
        x[at] = narrow<T>(widen(x[at]) * factor);
    }
}

// x = cap * tanh(x / cap).
template <class T>
DEVICE void soft_cap(T* x, u64 elements, f32 cap) {
    for (u64 at = blockIdx.x * blockDim.x + threadIdx.x; at < elements;
         at += (u64)gridDim.x * blockDim.x) {
        x[at] = narrow<T>(capped(widen(x[at]), cap));
    }
}

// x = x times the share of a normal distribution below it.
template <class T>
DEVICE void gelu_all(T* x, u64 elements) {
    for (u64 at = blockIdx.x * blockDim.x + threadIdx.x; at < elements;
         at += (u64)gridDim.x * blockDim.x) {
        x[at] = narrow<T>(gelu_exact(widen(x[at])));
    }
}

// out += x.
template <class T>
DEVICE void add(const T* x, u64 elements, T* out) {
    for (u64 at = blockIdx.x * blockDim.x + threadIdx.x; at < elements;
         at += (u64)gridDim.x * blockDim.x) {
        out[at] = narrow<T>(widen(out[at]) + widen(x[at]));
    }
}

// out (f32) = x: logits, and what is downloaded as f32.
template <class T>
DEVICE void widen_all(const T* x, u64 elements, f32* out) {
    for (u64 at = blockIdx.x * blockDim.x + threadIdx.x; at < elements;
         at += (u64)gridDim.x * blockDim.x) {
        out[at] = widen(x[at]);
    }
}

#define ROWS_OF(T)                                                                             \
    KERNEL(256, embed_##T,                                                                     \
           (const u32* tokens, const void* table, u32 table_type, u32 table_stride,            \
            u32 first_token, u32 table_rows, u32 columns, T* out)) {                           \
        embed(tokens, table, table_type, table_stride, first_token, table_rows, columns, out); \
    }                                                                                          \
    KERNEL(256, gather_rows_##T, (const T* x, const u32* rows, u32 columns, T* out)) {         \
        gather_rows(x, rows, columns, out);                                                    \
    }                                                                                          \
    KERNEL(256, silu_mul_##T, (const T* gate_up, u32 width, T* out)) {                         \
        gate_mul<SILU>(gate_up, width, out);                                                   \
    }                                                                                          \
    KERNEL(256, gelu_mul_##T, (const T* gate_up, u32 width, T* out)) {                         \
        gate_mul<GELU>(gate_up, width, out);                                                   \
    }                                                                                          \
    KERNEL(256, scale_##T, (T * x, u64 elements, f32 factor)) { scale(x, elements, factor); }  \
    KERNEL(256, soft_cap_##T, (T * x, u64 elements, f32 cap)) { soft_cap(x, elements, cap); }  \
    KERNEL(256, gelu_##T, (T * x, u64 elements)) { gelu_all(x, elements); }                    \
    KERNEL(256, add_##T, (const T* x, u64 elements, T* out)) { add(x, elements, out); }        \
    KERNEL(256, widen_##T, (const T* x, u64 elements, f32* out)) { widen_all(x, elements, out); }

ROWS_OF(bf16)
ROWS_OF(f16)
ROWS_OF(f32)
