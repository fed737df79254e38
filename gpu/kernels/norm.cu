// RMS norm: x / sqrt(mean(x^2) + epsilon) * weight (Zhang and Sennrich, 2019), for activations in
// bf16, f16 and f32. Squares of a row go by fmaf into one chain per thread, then over each warp as
// a tree, then warps in order. A thread has every 256th run of eight elements where the width is a
// multiple of eight, else every 256th element. Weights are f32.
//
// Layer norm (Ba, Kiros and Hinton, 2016), for models that read texts whole, adds up a row's
// elements, and then the squares of what is left without their mean, in the same way.
//
// Fused with the residual sum because both only wait for memory: the residual is read once.

#include "common.cuh"

DEVICE f32 norm_scale(f32 squares, u32 count, f32 epsilon) {
    return 1.0f / sqrtf(squares / (f32)count + epsilon);
}

DEVICE f32 more_squares(const Eight& x, f32 squares) {
#pragma unroll
    for (u32 i = 0; i < 8; ++i) squares = fmaf(x.of[i], x.of[i], squares);
    return squares;
}

DEVICE Eight normed(const Eight& x, f32 scale, const f32* weight) {
    Eight by = load_eight(weight), out;
#pragma unroll
    for (u32 i = 0; i < 8; ++i) out.of[i] = x.of[i] * scale * by.of[i];
    return out;
}

// out = norm(x). Any width. grid.x = rows, 256 threads, no dynamic shared memory.
template <class T>
DEVICE void rms_norm(const T* x, const f32* weight, f32 epsilon, u32 columns, T* out) {
    __shared__ f32 room[8];
    const T* from = x + (size_t)blockIdx.x * columns;
    T* to = out + (size_t)blockIdx.x * columns;
    f32 squares = 0.0f;
    if (columns % 8 == 0) {
        for (u32 at = threadIdx.x * 8; at < columns; at += 256 * 8) {
            squares = more_squares(load_eight(from + at), squares);
        }
        f32 scale = norm_scale(block_sum(squares, room), columns, epsilon);
        for (u32 at = threadIdx.x * 8; at < columns; at += 256 * 8) {
            store_eight(to + at, normed(load_eight(from + at), scale, weight + at));
        }
        return;
    }
    for (u32 at = threadIdx.x; at < columns; at += 256) {
        f32 value = widen(from[at]);
        squares = fmaf(value, value, squares);
    }
    f32 scale = norm_scale(block_sum(squares, room), columns, epsilon);
    for (u32 at = threadIdx.x; at < columns; at += 256) {
        to[at] = narrow<T>(widen(from[at]) * scale * weight[at]);
    }
}

// residual += x, then out = norm(residual): the norm is of what the residual then holds, rounded.
// Launch as rms_norm.
template <class T>
DEVICE void add_rms_norm(const T* x, T* residual, const f32* weight, f32 epsilon, u32 columns,
                         T* out) {
    __shared__ f32 room[8];
    size_t first = (size_t)blockIdx.x * columns;
    f32 squares = 0.0f;
    if (columns % 8 == 0) {
        for (u32 at = threadIdx.x * 8; at < columns; at += 256 * 8) {
            Eight sum = load_eight(residual + first + at), own = load_eight(x + first + at);
#pragma unroll
            for (u32 i = 0; i < 8; ++i) sum.of[i] = widen(narrow<T>(sum.of[i] + own.of[i]));
            store_eight(residual + first + at, sum);
            squares = more_squares(sum, squares);
        }
        f32 scale = norm_scale(block_sum(squares, room), columns, epsilon);
        for (u32 at = threadIdx.x * 8; at < columns; at += 256 * 8) {
            Eight sum = load_eight(residual + first + at);
            store_eight(out + first + at, normed(sum, scale, weight + at));
        }
        return;
    }
    for (u32 at = threadIdx.x; at < columns; at += 256) {
        T sum = narrow<T>(widen(residual[first + at]) + widen(x[first + at]));
        residual[first + at] = sum;
        squares = fmaf(widen(sum), widen(sum), squares);
    }
    f32 scale = norm_scale(block_sum(squares, room), columns, epsilon);
    for (u32 at = threadIdx.x; at < columns; at += 256) {
        out[first + at] = narrow<T>(widen(residual[first + at]) * scale * weight[at]);
    }
}

// out = (x - mean) / sqrt(variance + epsilon) * weight + bias. Launch as rms_norm.
template <class T>
DEVICE void layer_norm(const T* x, const f32* weight, const f32* bias, f32 epsilon, u32 columns,
                       T* out) {
    __shared__ f32 room[8];
    const T* from = x + (size_t)blockIdx.x * columns;
    T* to = out + (size_t)blockIdx.x * columns;
    f32 sum = 0.0f, squares = 0.0f;
    for (u32 at = threadIdx.x; at < columns; at += 256) sum += widen(from[at]);
    f32 mean = block_sum(sum, room) / (f32)columns;
    for (u32 at = threadIdx.x; at < columns; at += 256) {
        f32 left = widen(from[at]) - mean;
        squares = fmaf(left, left, squares);
    }
    f32 scale = norm_scale(block_sum(squares, room), columns, epsilon);
    for (u32 at = threadIdx.x; at < columns; at += 256) {
        to[at] = narrow<T>((widen(from[at]) - mean) * scale * weight[at] + bias[at]);
    }
}

// In place over each of `heads` runs of `head_dim` elements from column `first` on: the query or
// key heads of a fused row. One warp per head. grid = (rows, ceil(heads / 8)), 256 threads.
template <class T>
DEVICE void head_rms_norm(T* x, u32 columns, u32 first, u32 heads, u32 head_dim, const f32* weight,
                          f32 epsilon) {
    u32 head = blockIdx.y * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (head >= heads) return;
    T* own = x + (size_t)blockIdx.x * columns + first + head * head_dim;
    f32 squares = 0.0f;
    for (u32 at = lane; at < head_dim; at += 32) {
        squares = fmaf(widen(own[at]), widen(own[at]), squares);
    }
    f32 scale = norm_scale(warp_sum(squares), head_dim, epsilon);
    for (u32 at = lane; at < head_dim; at += 32) {
        own[at] = narrow<T>(widen(own[at]) * scale * weight[at]);
    }
}

#define NORMS_OF(T)                                                                                \
    KERNEL(256, rms_norm_##T, (const T* x, const f32* weight, f32 epsilon, u32 columns, T* out)) { \
        rms_norm(x, weight, epsilon, columns, out);                                                \
    }                                                                                              \
    KERNEL(256, add_rms_norm_##T,                                                                  \
           (const T* x, T* residual, const f32* weight, f32 epsilon, u32 columns, T* out)) {       \
        add_rms_norm(x, residual, weight, epsilon, columns, out);                                  \
    }                                                                                              \
    KERNEL(256, layer_norm_##T,                                                                    \
           (const T* x, const f32* weight, const f32* bias, f32 epsilon, u32 columns, T* out)) {   \
        layer_norm(x, weight, bias, epsilon, columns, out);                                        \
    }                                                                                              \
    KERNEL(256, head_rms_norm_##T,                                                                 \
           (T * x, u32 columns, u32 first, u32 heads, u32 head_dim, const f32* weight,             \
            f32 epsilon)) {                                                                        \
        head_rms_norm(x, columns, first, heads, head_dim, weight, epsilon);                        \
    }

NORMS_OF(bf16)
NORMS_OF(f16)
NORMS_OF(f32)
