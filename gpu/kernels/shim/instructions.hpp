// What mma.cuh's instructions do, for the shim: by the PTX manual's tables of which lane holds
// which element, and in exact arithmetic (sums in double, rounded once), because how tensor cores
// round inside is not documented. Tests of kernels that use them compare with a tolerance.

#pragma once

// Element `half` (0 is the low one) of a register of two.
template <class T>
inline float shim_half(u32 both, u32 half) {
    return widen(T{(u16)(half == 0 ? both & 0xffff : both >> 16)});
}

struct ShimOperands {
    u32 a[4], b[2];
};

template <class T>
inline void mma(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    ShimOperands mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    unsigned lane = threadIdx.x % 32;
    shim::exchange(0xffffffffu, mine, [&](auto of) {
        // A(row, k): the lane with g = row % 8 and q = k % 8 / 2, register by row and k halves.
        auto element_a = [&](unsigned row, unsigned k) {
            const ShimOperands& holder = of(row % 8 * 4 + k % 8 / 2);
            return shim_half<T>(holder.a[row / 8 + k / 8 * 2], k % 2);
        };
        // B(k, column): the lane with g = column and q = k % 8 / 2, register by half of k.
        auto element_b = [&](unsigned k, unsigned column) {
            const ShimOperands& holder = of(column * 4 + k % 8 / 2);
            return shim_half<T>(holder.b[k / 8], k % 2);
        };
        for (unsigned i = 0; i < 4; ++i) {
            unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            double sum = d[i];
            for (unsigned k = 0; k < 16; ++k) {
                sum += (double)element_a(row, k) * (double)element_b(k, column);
            }
            d[i] = (float)sum;
        }
        return 0;
    });
}

inline void mma_int8(int (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    ShimOperands mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    unsigned lane = threadIdx.x % 32;
    shim::exchange(0xffffffffu, mine, [&](auto of) {
        // As above, with q = k % 16 / 4 and four elements in a register.
        auto byte = [](u32 four, unsigned at) { return (int)(i8)(four >> (at * 8)); };
        for (unsigned i = 0; i < 4; ++i) {
            unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            for (unsigned k = 0; k < 32; ++k) {
                const ShimOperands& left = of(row % 8 * 4 + k % 16 / 4);
                const ShimOperands& right = of(column * 4 + k % 16 / 4);
                d[i] += byte(left.a[row / 8 + k / 16 * 2], k % 4) * byte(right.b[k / 16], k % 4);
            }
        }
        return 0;
    });
}

template <bool TURNED>
inline void shim_load_matrices(u32 (&to)[4], const void* row) {
    unsigned lane = threadIdx.x % 32;
    if ((size_t)row % 16 != 0) shim::fail("ldmatrix of a row that is not at 16 bytes");
    shim::exchange(0xffffffffu, row, [&](auto of) {
        for (unsigned matrix = 0; matrix < 4; ++matrix) {
            auto element = [&](unsigned r, unsigned c) -> u32 {
                return ((const u16*)of(matrix * 8 + r))[c];
            };
            unsigned r = lane / 4, c = lane % 4 * 2;
            to[matrix] = TURNED ? element(c, r) | element(c + 1, r) << 16
                                : element(r, c) | element(r, c + 1) << 16;
        }
        return 0;
    });
}
inline void load_matrices(u32 (&to)[4], const void* row) { shim_load_matrices<false>(to, row); }
inline void load_matrices_turned(u32 (&to)[4], const void* row) {
    shim_load_matrices<true>(to, row);
}

// A copy happens when its thread waits for it, and not before.
inline void copy_later(void* shared, const void* from, bool there) {
    if ((size_t)shared % 16 != 0 || (size_t)from % 16 != 0) {
        shim::fail("an asynchronous copy that is not at 16 bytes");
    }
    shim::state.self->open.push_back({shared, there ? from : nullptr});
}
inline void end_of_copies() {
    shim::Fibre* self = shim::state.self;
    self->groups.push_back(std::move(self->open));
    self->open.clear();
}
template <u32 N>
inline void wait_for_copies() {
    auto& groups = shim::state.self->groups;
    while (groups.size() > N) {
        for (const shim::Copy& copy : groups.front()) {
            if (copy.from != nullptr) std::memcpy(copy.to, copy.from, 16);
            else std::memset(copy.to, 0, 16);
        }
        groups.pop_front();
    }
}

inline f32 power_of_two(f32 x) { return std::exp2(x); }

inline int dot4(u32 a, u32 b, int sum) {
    for (unsigned shift = 0; shift < 32; shift += 8) sum += (i8)(a >> shift) * (i8)(b >> shift);
    return sum;
}
