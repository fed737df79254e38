// Activations rounded to eight bits, row by row as they come, by a scale that takes the largest
// magnitude of a row, or of a group of its inputs, to the end of the range.
//
// Where ranks divide a row's inputs that magnitude is the largest of all ranks': `peaks` are those
// if not null, [rows][peak_stride] by groups of all ranks; else each row's own decide. A rank's
// inputs may begin within a group: `skip` inputs of it are elsewhere, and `first_group` is its
// number. (gpu/src/cpu/rounding.rs is the judge.)

#include "common.cuh"

constexpr f32 FP8_MOST = 448.0f;

// The run of inputs of group blockIdx.y of this rank.
struct Run {
    u32 first, end;
};

DEVICE Run run_of_block(u32 columns, u32 group, u32 skip) {
    u32 before = blockIdx.y * group;
    return {before > skip ? before - skip : 0, least(columns, before + group - skip)};
}

template <class T>
DEVICE f32 peak_of(const T* row, Run run) {
    __shared__ f32 room[8];
    f32 peak = 0.0f;
    for (u32 at = run.first + threadIdx.x; at < run.end; at += blockDim.x) {
        peak = larger(peak, fabsf(widen(row[at])));
    }
    return block_larger(peak, room);
}

// codes[r][i] = x * (127 / peak), to the nearest, zeros up to code_stride, and scales[r] = peak /
// 127. `peaks` has one number of each row. grid = rows, 256 threads.
template <class T>
DEVICE void quantize_int8(const T* x, u32 columns, u32 code_stride, const f32* peaks, i8* codes,
                          f32* scales) {
    const T* row = x + (size_t)blockIdx.x * columns;
    f32 peak = peaks != nullptr ? peaks[blockIdx.x] : peak_of(row, {0, columns});
    f32 inverse = peak > 0.0f ? 127.0f / peak : 0.0f;
    for (u32 at = threadIdx.x; at < code_stride; at += blockDim.x) {
        f32 steps = at < columns ? widen(row[at]) * inverse : 0.0f;
        codes[(size_t)blockIdx.x * code_stride + at] = round_int8(steps);
    }
    if (threadIdx.x == 0) scales[blockIdx.x] = peak / 127.0f;
}

// What a group's inputs are divided by in fp8.
template <class T>
DEVICE f32 fp8_scale(const T* row, Run run, f32 static_scale, const f32* peaks, u32 peak_stride,
                     u32 first_group) {
    if (static_scale > 0.0f) return static_scale;
    size_t group = (size_t)blockIdx.x * peak_stride + first_group + blockIdx.y;
    return (peaks != nullptr ? peaks[group] : peak_of(row, run)) / FP8_MOST;
}

// codes[r][i] = x / scale in fp8, to the nearest, and scales[r][group]: by groups of `group` inputs
// (all of them: one scale for a row), or static_scale > 0 for all. grid = (rows, groups of this
// rank), 128 threads.
template <class T>
DEVICE void quantize_fp8(const T* x, u32 columns, u32 group, u32 skip, f32 static_scale,
                         const f32* peaks, u32 peak_stride, u32 first_group, fp8* codes,
                         f32* scales) {
    const T* row = x + (size_t)blockIdx.x * columns;
    Run run = run_of_block(columns, group, skip);
    f32 scale = fp8_scale(row, run, static_scale, peaks, peak_stride, first_group);
    f32 divisor = scale == 0.0f ? 1.0f : scale;
    for (u32 at = run.first + threadIdx.x; at < run.end; at += blockDim.x) {
        codes[(size_t)blockIdx.x * columns + at] = narrow<fp8>(widen(row[at]) / divisor);
    }
    if (threadIdx.x == 0) scales[(size_t)blockIdx.x * gridDim.y + blockIdx.y] = scale;
}

// out = the numbers that such codes stand for, of int8 (`integers` 1; one group) or fp8. Launch as
// quantize_fp8.
template <class T>
DEVICE void round_rows(const T* x, u32 columns, u32 integers, u32 group, u32 skip, f32 static_scale,
                       const f32* peaks, u32 peak_stride, u32 first_group, T* out) {
    const T* row = x + (size_t)blockIdx.x * columns;
    T* to = out + (size_t)blockIdx.x * columns;
    Run run = run_of_block(columns, group, skip);
    if (integers) {
        f32 peak = peaks != nullptr ? peaks[(size_t)blockIdx.x * peak_stride] : peak_of(row, run);
        f32 scale = peak / 127.0f, inverse = peak > 0.0f ? 127.0f / peak : 0.0f;
        for (u32 at = run.first + threadIdx.x; at < run.end; at += blockDim.x) {
            to[at] = narrow<T>(widen(round_int8(widen(row[at]) * inverse)) * scale);
        }
        return;
    }
    f32 scale = fp8_scale(row, run, static_scale, peaks, peak_stride, first_group);
    f32 divisor = scale == 0.0f ? 1.0f : scale;
    for (u32 at = run.first + threadIdx.x; at < run.end; at += blockDim.x) {
        to[at] = narrow<T>(widen(narrow<fp8>(widen(row[at]) / divisor)) * scale);
    }
}

// peaks[r][first_group + g] = the largest magnitude of each run of this rank. Launch as
// quantize_fp8; what other ranks have is zero before.
template <class T>
DEVICE void peaks_of(const T* x, u32 columns, u32 group, u32 skip, u32 peak_stride, u32 first_group,
                     f32* peaks) {
    f32 peak = peak_of(x + (size_t)blockIdx.x * columns, run_of_block(columns, group, skip));
    if (threadIdx.x == 0) {
        peaks[(size_t)blockIdx.x * peak_stride + first_group + blockIdx.y] = peak;
    }
}

#define QUANTIZE_OF(T)                                                                             \
    KERNEL(256, quantize_int8_##T,                                                                 \
           (const T* x, u32 columns, u32 code_stride, const f32* peaks, i8* codes, f32* scales)) { \
        quantize_int8(x, columns, code_stride, peaks, codes, scales);                              \
    }                                                                                              \
    KERNEL(128, quantize_fp8_##T,                                                                  \
           (const T* x, u32 columns, u32 group, u32 skip, f32 static_scale, const f32* peaks,      \
            u32 peak_stride, u32 first_group, fp8* codes, f32* scales)) {                          \
        quantize_fp8(x, columns, group, skip, static_scale, peaks, peak_stride, first_group,       \
                     codes, scales);                                                               \
    }                                                                                              \
    KERNEL(128, round_##T,                                                                         \
           (const T* x, u32 columns, u32 integers, u32 group, u32 skip, f32 static_scale,          \
            const f32* peaks, u32 peak_stride, u32 first_group, T* out)) {                         \
        round_rows(x, columns, integers, group, skip, static_scale, peaks, peak_stride,            \
                   first_group, out);                                                              \
    }                                                                                              \
    KERNEL(128, peaks_##T,                                                                         \
           (const T* x, u32 columns, u32 group, u32 skip, u32 peak_stride, u32 first_group,        \
            f32* peaks)) {                                                                         \
        peaks_of(x, columns, group, skip, peak_stride, first_group, peaks);                        \
    }

QUANTIZE_OF(bf16)
QUANTIZE_OF(f16)
QUANTIZE_OF(f32)
