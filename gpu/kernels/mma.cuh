// The instructions that C++ has no word for: tensor cores, ldmatrix, asynchronous copies, dot
// products of bytes. On the GPU each is one PTX instruction (sm_80 and up); in tests shim/
// instructions.hpp does what the PTX manual says that it does, lane by lane.
//
// mma m16n8k16: a warp adds a 16 x 16 matrix times a 16 x 8 matrix to a 16 x 8 matrix of floats.
// With g = lane / 4 and q = lane % 4 a lane holds
//     a[0] (g, 2q..2q+1)   a[1] (g + 8, 2q..)   a[2] (g, 2q + 8..)   a[3] (g + 8, 2q + 8..)
//     b[0] (2q..2q+1, g)   b[1] (2q + 8.., g)
//     d[0..1] (g, 2q..2q+1)   d[2..3] (g + 8, 2q..2q+1)
// where of two elements in a register the first is in the low half.
//
// mma_int8, m16n8k32, is the same of signed bytes and whole numbers: a register has four elements,
// those at 4q..4q + 3 (and 16 further) where bf16 has two at 2q (and 8 further).

#pragma once

#include "common.cuh"

#ifdef __CUDACC__

template <class T>
DEVICE void mma(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
template <>
DEVICE void mma<bf16>(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
DEVICE void mma<f16>(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE void mma_int8(int (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE u32 shared_address(const void* shared) { return (u32)__cvta_generic_to_shared(shared); }

// Four 8 x 8 matrices of 16-bit elements from shared memory: lane i gives the address of row i % 8
// of matrix i / 8, and gets of each matrix the elements (lane / 4, 2 * (lane % 4)..).
DEVICE void load_matrices(u32 (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same, each matrix transposed.
DEVICE void load_matrices_turned(u32 (&to)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Copies 16 bytes from global to shared memory, or zeros if not `there`; both addresses are
// multiples of 16, and `from` must be readable even then.
DEVICE void copy_later(void* shared, const void* from, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}

// Ends a group of copies; `wait_for_copies<N>` waits until all but the last N groups of this
// thread are done (others need a barrier after it).
DEVICE void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <u32 N>
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// 2 to the x; 0 for -inf.
DEVICE f32 power_of_two(f32 x) {
    f32 y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// sum + the products of four signed bytes each.
DEVICE int dot4(u32 a, u32 b, int sum) {
    int to;
    asm("dp4a.s32.s32 %0, %1, %2, %3;" : "=r"(to) : "r"(a), "r"(b), "r"(sum));
    return to;
}

#else
#include "shim/instructions.hpp"
#endif

// Two elements in one register, `low` first.
template <class T>
DEVICE u32 pack(f32 low, f32 high) {
    return (u32)narrow<T>(high).bits << 16 | narrow<T>(low).bits;
}
#ifdef __CUDACC__
template <>
DEVICE u32 pack<bf16>(f32 low, f32 high) {
    u32 both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
template <>
DEVICE u32 pack<f16>(f32 low, f32 high) {
    u32 both;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
#endif
