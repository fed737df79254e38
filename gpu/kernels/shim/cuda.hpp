// Enough of CUDA for a C++ compiler to make a library of a .cu file that runs its kernels on the
// CPU, one block after the other: what tests call.
//
// The threads of a block are fibres of one thread, so barriers, shuffles and votes are real: a
// fibre runs until it has to wait for others, and a warp until it has to wait for other warps. Each
// launch says in which order they take turns; a kernel that lacks a barrier gives different results
// in different orders, and tests run both. A barrier that can never be passed ends the launch with
// an error. Shared memory is filled with 0xff (no number in any element type) before each block.
//
// Instructions for which C++ has no word (tensor cores, ldmatrix, asynchronous copies) are
// functions of mma.cuh, whose bodies for the shim are in instructions.hpp, by the layout of
// fragments that the PTX manual gives.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

struct dim3 {
    unsigned x, y, z;
};

namespace shim {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 256 << 10;
constexpr size_t SHARED = 232448;  // the most that any GPU of ours gives a block

// What lanes of a warp wait for together.
struct Rendezvous {
    unsigned expected = 0;  // a bit for each lane that must come
    unsigned arrived = 0;
    unsigned generation = 0;
    const void* slots[WARP] = {};
};

// An asynchronous copy of 16 bytes to shared memory, of zeros if there is no source.
struct Copy {
    void* to;
    const void* from;
};

struct Fibre {
    dim3 thread;
    std::vector<Copy> open;                // copies that belong to no group yet
    std::deque<std::vector<Copy>> groups;  // and those that nobody has waited for
    unsigned number = 0;
    bool done = false;
#if defined(__x86_64__)
    void* stack_pointer = nullptr;
#else
    ucontext_t context = {};
#endif
};

// One launch at a time: `lock` of `launch`.
struct State {
    std::vector<Fibre> fibres;
    Fibre* self = nullptr;
    dim3 block_index, block_size, grid_size;
    unsigned live = 0, waiting = 0, generation = 0;
    std::vector<Rendezvous> warps;
    unsigned long long progress = 0;
    std::string failure;
    void (*call)(void*, void**) = nullptr;
    void* function = nullptr;
    void** arguments = nullptr;
    char* stacks = nullptr;
    alignas(128) unsigned char dynamic[SHARED];
#if defined(__x86_64__)
    void* scheduler = nullptr;
#else
    ucontext_t scheduler;
#endif
};

inline State state;

#if defined(__x86_64__)
// Saves what a function must keep, leaves on one stack and goes on where the other one left.
extern "C" __attribute__((visibility("hidden"))) void shim_switch(void** save, void* load);
asm(R"(
.text
.hidden shim_switch
.globl shim_switch
.type shim_switch,@function
shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
inline void leave() { shim_switch(&state.self->stack_pointer, state.scheduler); }
#else
inline void leave() { swapcontext(&state.self->context, &state.scheduler); }
#endif

[[noreturn]] inline void leave_for_ever() {
    for (;;) leave();
}

[[noreturn]] inline void fail(std::string why) {
    if (state.failure.empty()) {
        char where[96];
        std::snprintf(where, sizeof where, " (block %u,%u,%u thread %u)", state.block_index.x,
                      state.block_index.y, state.block_index.z, state.self->number);
        state.failure = why + where;
    }
    leave_for_ever();
}

inline void barrier() {
    unsigned generation = state.generation;
    if (++state.waiting == state.live) {
        state.waiting = 0;
        ++state.generation;
        ++state.progress;
        return;
    }
    while (state.generation == generation) leave();
}

inline void meet(unsigned mask) {
    Fibre* own = state.self;
    unsigned lane = own->number % WARP;
    Rendezvous& warp = state.warps[own->number / WARP];
    if (!(mask >> lane & 1)) fail("a lane takes part that its mask leaves out");
    if (warp.arrived == 0) warp.expected = mask;
    if (warp.expected != mask) fail("lanes of a warp meet with different masks");
    for (unsigned other = 0; other < WARP; ++other) {
        unsigned number = own->number / WARP * WARP + other;
        if (!(mask >> other & 1)) continue;
        if (number >= state.fibres.size() || state.fibres[number].done) {
            fail("a lane of the mask has ended or is none");
        }
    }
    warp.arrived |= 1u << lane;
    unsigned generation = warp.generation;
    if (warp.arrived == mask) {
        warp.arrived = 0;
        ++warp.generation;
        ++state.progress;
        return;
    }
    while (warp.generation == generation) leave();
}

// Calls `use` with what each lane of the mask has brought, by lane.
template <class T, class F>
auto exchange(unsigned mask, const T& mine, F use) {
    Rendezvous& warp = state.warps[state.self->number / WARP];
    warp.slots[state.self->number % WARP] = &mine;
    meet(mask);
    auto result =
        use([&](unsigned lane) -> const T& { return *(const T*)warp.slots[lane % WARP]; });
    meet(mask);
    return result;
}

inline void run_fibre() {
    state.call(state.function, state.arguments);
    state.self->done = true;
    ++state.progress;
    if (--state.live > 0 && state.waiting == state.live) {
        state.waiting = 0;
        ++state.generation;
    }
    leave_for_ever();
}

#if defined(__x86_64__)
inline void prepare(Fibre& fibre, char* stack) {
    // As if run_fibre had been called: its stack is 8 off a multiple of 16.
    void** top = (void**)(stack + STACK - 64);
    *--top = nullptr;
    *--top = (void*)&run_fibre;
    for (int kept = 0; kept < 6; ++kept) *--top = nullptr;
    fibre.stack_pointer = top;
}
inline void enter(Fibre& fibre) { shim_switch(&state.scheduler, fibre.stack_pointer); }
#else
inline void prepare(Fibre& fibre, char* stack) {
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = stack;
    fibre.context.uc_stack.ss_size = STACK;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, run_fibre, 0);
}
inline void enter(Fibre& fibre) { swapcontext(&state.scheduler, &fibre.context); }
#endif

// Lets the fibres of a warp take turns until none can go on without another warp. So one warp is
// always as far ahead of the others as barriers let it be.
inline void run_warp(unsigned warp, bool backwards) {
    unsigned long long before;
    do {
        before = state.progress;
        for (unsigned turn = 0; turn < WARP && state.failure.empty(); ++turn) {
            unsigned number = warp * WARP + (backwards ? WARP - 1 - turn : turn);
            if (number >= state.fibres.size() || state.fibres[number].done) continue;
            state.self = &state.fibres[number];
            enter(*state.self);
        }
    } while (state.progress != before && state.failure.empty());
}

inline void run_block(bool backwards) {
    unsigned threads = state.block_size.x;
    state.fibres.assign(threads, Fibre{});
    state.warps.assign((threads + WARP - 1) / WARP, Rendezvous{});
    state.live = threads;
    state.waiting = 0;
    std::memset(state.dynamic, 0xff, sizeof state.dynamic);
    for (unsigned number = 0; number < threads; ++number) {
        state.fibres[number].number = number;
        state.fibres[number].thread = dim3{number, 0, 0};
        prepare(state.fibres[number], state.stacks + number * STACK);
    }
    while (state.live > 0 && state.failure.empty()) {
        unsigned long long before = state.progress;
        unsigned warps = (unsigned)state.warps.size();
        for (unsigned turn = 0; turn < warps; ++turn) {
            run_warp(backwards ? warps - 1 - turn : turn, backwards);
        }
        if (state.progress == before && state.failure.empty()) {
            state.failure = "threads wait for each other for ever";
        }
    }
}

using Caller = void (*)(void*, void**);

template <class... A, size_t... I>
void call_with(void (*function)(A...), void** arguments, std::index_sequence<I...>) {
    function(*(std::remove_reference_t<A>*)arguments[I]...);
}

template <class... A>
Caller caller_of(void (*)(A...)) {
    return [](void* function, void** arguments) {
        call_with((void (*)(A...))function, arguments, std::index_sequence_for<A...>{});
    };
}

struct Known {
    Caller call;
    void* function;
    unsigned threads;
    size_t arguments;
};

inline std::map<std::string, Known>& kernels() {
    static std::map<std::string, Known> all;
    return all;
}

struct Entry {
    template <class... A>
    Entry(const char* name, unsigned threads, void (*function)(A...)) {
        kernels()[name] = {caller_of(function), (void*)function, threads, sizeof...(A)};
    }
};

}  // namespace shim

// Runs a kernel; returns 0, or 1 with the reason in `why`.
extern "C" __attribute__((visibility("default"))) int shim_launch(
    const char* name, const unsigned* grid, unsigned threads, unsigned shared, void** arguments,
    size_t count, int backwards, char* why, size_t room) {
    static std::mutex lock;
    std::lock_guard<std::mutex> held(lock);
    auto found = shim::kernels().find(name);
    auto& state = shim::state;
    state.failure.clear();
    if (found == shim::kernels().end()) {
        state.failure = std::string("no kernel ") + name;
    } else if (threads != found->second.threads || count != found->second.arguments) {
        state.failure = "a kernel of " + std::to_string(found->second.threads) + " threads and " +
                        std::to_string(found->second.arguments) + " arguments";
    } else if (shared > shim::SHARED) {
        state.failure = "too much shared memory";
    } else {
        if (state.stacks == nullptr) state.stacks = (char*)std::malloc(shim::STACK * 1024);
        state.call = found->second.call;
        state.function = found->second.function;
        state.arguments = arguments;
        state.block_size = {threads, 1, 1};
        state.grid_size = {grid[0], grid[1], grid[2]};
        unsigned blocks = grid[0] * grid[1] * grid[2];
        for (unsigned at = 0; at < blocks && state.failure.empty(); ++at) {
            unsigned block = backwards ? blocks - 1 - at : at;
            state.block_index = {block % grid[0], block / grid[0] % grid[1],
                                 block / grid[0] / grid[1]};
            shim::run_block(backwards != 0);
            for (size_t byte = shared; byte < shim::SHARED && state.failure.empty(); ++byte) {
                if (state.dynamic[byte] != 0xff) {
                    state.failure = "shared memory written beyond its " + std::to_string(shared) +
                                    " bytes, at " + std::to_string(byte);
                }
            }
        }
    }
    std::snprintf(why, room, "%s", state.failure.c_str());
    return state.failure.empty() ? 0 : 1;
}

// --- What a .cu file sees -----------------------------------------------------------------------

#define KERNEL(threads, name, parameters)                     \
    extern "C" void name parameters;                          \
    static shim::Entry entry_of_##name{#name, threads, name}; \
    extern "C" void name parameters
#define SHARED_BYTES(name) unsigned char* name = shim::state.dynamic
#define __shared__ static
#define __align__(bytes) alignas(bytes)
#define __restrict__
#define threadIdx (shim::state.self->thread)
#define blockIdx (shim::state.block_index)
#define blockDim (shim::state.block_size)
#define gridDim (shim::state.grid_size)

inline void __syncthreads() { shim::barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::meet(mask); }

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    unsigned lane = threadIdx.x % shim::WARP;
    return shim::exchange(mask, value, [&](auto of) { return of(lane ^ lanes); });
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
    return shim::exchange(mask, value, [&](auto of) { return of(lane); });
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes) {
    unsigned lane = threadIdx.x % shim::WARP;
    return shim::exchange(mask, value,
                          [&](auto of) { return of(lane < lanes ? lane : lane - lanes); });
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
    return shim::exchange(mask, vote, [&](auto of) {
        unsigned votes = 0;
        for (unsigned lane = 0; lane < shim::WARP; ++lane) {
            if (mask >> lane & 1 && of(lane)) votes |= 1u << lane;
        }
        return votes;
    });
}

template <class To, class From>
To shim_bits(From from) {
    To to;
    static_assert(sizeof to == sizeof from);
    std::memcpy(&to, &from, sizeof to);
    return to;
}
inline float __uint_as_float(unsigned bits) { return shim_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return shim_bits<unsigned>(value); }
inline long long __double_as_longlong(double value) { return shim_bits<long long>(value); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz((unsigned)bits); }

inline unsigned atomicAdd(unsigned* at, unsigned value) {
    unsigned before = *at;
    *at += value;
    return before;
}
inline unsigned long long atomicAdd(unsigned long long* at, unsigned long long value) {
    unsigned long long before = *at;
    *at += value;
    return before;
}
inline unsigned long long atomicMax(unsigned long long* at, unsigned long long value) {
    unsigned long long before = *at;
    if (value > before) *at = value;
    return before;
}

inline float shim_widen_f16(unsigned short bits) {
    unsigned sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, rest = bits & 0x3ff;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | rest << 13);
    float size = exponent == 0 ? std::ldexp((float)rest, -24)
                               : std::ldexp((float)(rest | 0x400), (int)exponent - 25);
    return sign ? -size : size;
}
inline unsigned short shim_narrow_f16(float value) {
    unsigned sign = __float_as_uint(value) >> 16 & 0x8000;
    double size = std::fabs((double)value);
    if (size != size) return (unsigned short)(sign | 0x7e00);
    if (size >= 65520.0) return (unsigned short)(sign | 0x7c00);
    int exponent;
    std::frexp(size, &exponent);
    if (exponent < -13) exponent = -13;  // subnormals have the steps of the smallest normal
    double steps = std::nearbyint(std::ldexp(size, 11 - exponent));
    if (steps == 0.0) return (unsigned short)sign;
    if (steps >= 2048.0) steps /= 2.0, exponent += 1;
    if (steps < 1024.0) return (unsigned short)(sign | (unsigned)steps);
    return (unsigned short)(sign | (unsigned)(exponent + 14) << 10 | ((unsigned)steps & 0x3ff));
}
