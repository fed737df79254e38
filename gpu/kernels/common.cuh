// What every kernel is written with: short names for types, element types and their conversions,
// scalar functions, reductions over a warp and a block.
//
// Kernels are compiled at run time or at release build by NVRTC, which has no toolkit headers, and
// in tests by a C++ compiler with shim/cuda.hpp in front, which runs them on the CPU. So nothing
// here or in a kernel may need a header, and every instruction that C++ does not have is a function
// of this file or of mma.cuh with two bodies: one for the GPU (`__CUDACC__`), one of the shim.
//
// Arithmetic: elements are widened to float, sums are in float, a multiply-add is rounded once
// where `fmaf` is written and nowhere else (`--fmad=false`). `exp_of` is operation for operation
// the CPU device's (gpu/src/cpu/math.rs), so that results of element-wise kernels are equal to the
// bit. Each reduction has one order, a function of widths and block sizes that never depends on
// how many rows or sequences there are.

#pragma once

typedef unsigned char u8;
typedef signed char i8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef float f32;

// Element types as they lie in memory.
struct bf16 {
    u16 bits;
};
struct f16 {
    u16 bits;
};
struct int8 {  // signed
    u8 bits;
};
struct fp8 {  // e4m3 without infinities: 448 is the largest, 0x7f and 0xff are no numbers
    u8 bits;
};

// Element types as arguments: the numbers that the host passes.
enum Type : u32 { BF16 = 0, F16 = 1, F32 = 2, INT8 = 3, FP8 = 4 };

// Eight or sixteen bytes at once, at an address that is a multiple of as many.
struct __align__(8) Bytes8 {
    u32 word[2];
};
struct __align__(16) Bytes16 {
    u32 word[4];
};

// Stands for "there is none": a padding row's sequence, another rank's expert.
constexpr u32 NONE = 0xffffffffu;

// A run of rows of one sequence that one block works on: see attention.cuh.
struct Tile {
    u32 sequence;
    u32 row;   // its first row in the step
    u32 rows;  // 0 for a tile that only fills up a fixed number of them
    u32 unused;
};

// Defines a kernel that the host finds by its name. It is launched with exactly `threads` threads
// in a block unless its comment says otherwise. The shim has a macro of its own that also enters
// the kernel into a table.
#ifdef __CUDACC__
#define KERNEL(threads, name, parameters) \
    extern "C" __global__ void __launch_bounds__(threads, 1) name parameters
#define SHARED_BYTES(name) extern __shared__ __align__(16) u8 name[]
#define DEVICE __device__ __forceinline__
#else
#define DEVICE inline
#endif

// --- Conversions --------------------------------------------------------------------------------

DEVICE f32 widen(f32 value) { return value; }
DEVICE f32 widen(bf16 value) { return __uint_as_float((u32)value.bits << 16); }
// An eight-bit float's bits mean the same in a float, but for where exponents begin: 2^120 lies
// between the two.
DEVICE f32 widen(fp8 value) {
    u32 code = value.bits;
    return __uint_as_float((code & 0x80) << 24 | (code & 0x7f) << 20) * 0x1p120f;
}
DEVICE f32 widen(int8 value) { return (f32)(i8)value.bits; }
DEVICE f32 widen(i8 value) { return (f32)value; }
DEVICE f32 widen(f16 value) {
#ifdef __CUDACC__
    f32 wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
#else
    return shim_widen_f16(value.bits);
#endif
}

// To the nearest, ties to even; what is no number stays none.
template <class T>
DEVICE T narrow(f32 value);
template <>
DEVICE f32 narrow<f32>(f32 value) {
    return value;
}
template <>
DEVICE bf16 narrow<bf16>(f32 value) {
    u32 bits = __float_as_uint(value);
    u32 rounded = bits + 0x7fff + (bits >> 16 & 1);
    bool number = (bits & 0x7fffffff) <= 0x7f800000;
    return bf16{(u16)((number ? rounded : bits | 0x400000) >> 16)};
}
template <>
DEVICE f16 narrow<f16>(f32 value) {
#ifdef __CUDACC__
    f16 result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
#else
    return f16{shim_narrow_f16(value)};
#endif
}
// Beyond 448 lies nothing: what is greater becomes 448.
template <>
DEVICE fp8 narrow<fp8>(f32 value) {
    u32 bits = __float_as_uint(value);
    u32 sign = bits >> 24 & 0x80, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return fp8{(u8)(sign | 0x7f)};
    if (size >= 0x43e00000) return fp8{(u8)(sign | 0x7e)};
    if (size < 0x3c800000) {
        // Below 2^-6 steps are 2^-9: adding 1.5 * 2^14 leaves whole steps in the low bits.
        f32 shifted = __uint_as_float(size) + 24576.0f;
        return fp8{(u8)(sign | (__float_as_uint(shifted) & 0xf))};
    }
    u32 rounded = size + 0x7ffff + (size >> 20 & 1);
    return fp8{(u8)(sign | ((rounded >> 20) - (120 << 3)))};
}

// Eight elements at once, at an address that is a multiple of sixteen: what memory likes best.
struct Eight {
    f32 of[8];
};
template <class T>
DEVICE Eight load_eight(const T* from) {
    Bytes16 own = *(const Bytes16*)from;
    Eight eight;
#pragma unroll
    for (u32 i = 0; i < 8; ++i) eight.of[i] = widen(T{(u16)(own.word[i / 2] >> (i % 2 * 16))});
    return eight;
}
template <>
DEVICE Eight load_eight<f32>(const f32* from) {
    Bytes16 own[2] = {((const Bytes16*)from)[0], ((const Bytes16*)from)[1]};
    Eight eight;
#pragma unroll
    for (u32 i = 0; i < 8; ++i) eight.of[i] = __uint_as_float(own[i / 4].word[i % 4]);
    return eight;
}
template <class T>
DEVICE void store_eight(T* to, const Eight& eight) {
    Bytes16 own;
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        u32 high = narrow<T>(eight.of[2 * i + 1]).bits;
        own.word[i] = high << 16 | narrow<T>(eight.of[2 * i]).bits;
    }
    *(Bytes16*)to = own;
}
template <>
DEVICE void store_eight<f32>(f32* to, const Eight& eight) {
    Bytes16 own[2];
#pragma unroll
    for (u32 i = 0; i < 8; ++i) own[i / 4].word[i % 4] = __float_as_uint(eight.of[i]);
    ((Bytes16*)to)[0] = own[0];
    ((Bytes16*)to)[1] = own[1];
}

// Element `at` of memory whose type is only known at run time.
DEVICE f32 load_any(const void* data, u32 type, size_t at) {
    switch (type) {
        case BF16: return widen(((const bf16*)data)[at]);
        case F16: return widen(((const f16*)data)[at]);
        case F32: return ((const f32*)data)[at];
        case INT8: return widen(((const i8*)data)[at]);
        default: return widen(((const fp8*)data)[at]);
    }
}

// The same for types that activations and logits have.
DEVICE void store_any(void* data, u32 type, size_t at, f32 value) {
    switch (type) {
        case BF16: ((bf16*)data)[at] = narrow<bf16>(value); break;
        case F16: ((f16*)data)[at] = narrow<f16>(value); break;
        default: ((f32*)data)[at] = value;
    }
}

// A value as an integer of eight bits, ties to even: adding 1.5 * 2^23 and taking it away rounds.
DEVICE i8 round_int8(f32 steps) {
    f32 bounded = fminf(fmaxf(steps, -127.0f), 127.0f);
    return (i8)(int)((bounded + 12582912.0f) - 12582912.0f);
}

// --- Functions ----------------------------------------------------------------------------------

// The greater of two, the second if they do not compare.
DEVICE f32 greater(f32 a, f32 b) { return a > b ? a : b; }

// The greater of two magnitudes, no number if one is none.
DEVICE f32 larger(f32 a, f32 b) { return b > a || b != b ? b : a; }

// e to the x within 2 units in the last place; bounded to normal, finite results.
DEVICE f32 exp_of(f32 x) {
    f32 low = greater(-87.3f, x);
    f32 bounded = 88.0f < low ? 88.0f : low;
    f32 shifted = fmaf(bounded, 1.44269504f, 12582912.0f);
    f32 n = shifted - 12582912.0f;
    f32 r = fmaf(n, 2.1219444e-4f, fmaf(n, -0.6933594f, bounded));
    f32 p = 1.9875691e-4f;
    p = fmaf(p, r, 1.3981999e-3f);
    p = fmaf(p, r, 8.333452e-3f);
    p = fmaf(p, r, 4.1665796e-2f);
    p = fmaf(p, r, 1.6666665e-1f);
    p = fmaf(p, r, 0.5f);
    f32 y = fmaf(p, r * r, r) + 1.0f;
    return __uint_as_float(__float_as_uint(y) + (__float_as_uint(shifted) << 23));
}

DEVICE f32 silu(f32 x) { return x / (1.0f + exp_of(-x)); }

// x * (1 + tanh(u)) / 2 for u = sqrt(2 / pi) (x + 0.044715 x^3).
DEVICE f32 gelu(f32 x) { return x / (1.0f + exp_of(x * fmaf(x * x, -0.07135481f, -1.595769f))); }

// x times the share of a normal distribution below x: max(x, 0) less |x| times the share beyond
// |x|, which is e^(-x^2 / 2) times a polynomial.
DEVICE f32 gelu_exact(f32 x) {
    f32 t = greater(x, -x), k = 1.0f / fmaf(t, 0.3f, 1.0f);
    f32 p = 0.03567412f;
    p = fmaf(p, k, -0.15720018f);
    p = fmaf(p, k, 0.20634821f);
    p = fmaf(p, k, -0.05367852f);
    p = fmaf(p, k, 0.1285588f);
    p = fmaf(p, k, 0.09991438f);
    p = fmaf(p, k, 0.12075381f);
    p = fmaf(p, k, 0.11962931f);
    return greater(x, 0.0f) - t * (p * k * exp_of(t * t * -0.5f));
}

// cap * tanh(x / cap).
DEVICE f32 capped(f32 x, f32 cap) {
    f32 t = exp_of(-2.0f * fabsf(x / cap));
    return cap * copysignf((1.0f - t) / (1.0f + t), x / cap);
}

DEVICE u32 divide_up(u32 a, u32 b) { return (a + b - 1) / b; }
DEVICE u32 least(u32 a, u32 b) { return a < b ? a : b; }
DEVICE u32 most(u32 a, u32 b) { return a > b ? a : b; }

// --- Reductions ---------------------------------------------------------------------------------

// Lane i takes lane i ^ 16, then ^ 8, 4, 2, 1: every lane has the result, the same bits in each.
DEVICE f32 warp_sum(f32 value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(NONE, value, step);
    return value;
}

DEVICE f32 warp_larger(f32 value) {
    for (int step = 16; step > 0; step /= 2) {
        value = larger(value, __shfl_xor_sync(NONE, value, step));
    }
    return value;
}

// The sum over a block of whole warps; `room` is shared memory for one number of each warp. Sums of
// warps are added in order. Every thread has the result.
DEVICE f32 block_sum(f32 value, f32* room) {
    u32 warps = blockDim.x / 32;
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
    __syncthreads();
    f32 total = room[0];
    for (u32 warp = 1; warp < warps; ++warp) total += room[warp];
    __syncthreads();
    return total;
}

DEVICE f32 block_larger(f32 value, f32* room) {
    u32 warps = blockDim.x / 32;
    value = warp_larger(value);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
    __syncthreads();
    f32 total = room[0];
    for (u32 warp = 1; warp < warps; ++warp) total = larger(total, room[warp]);
    __syncthreads();
    return total;
}
