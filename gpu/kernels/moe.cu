// A layer of experts: routing, sorting rows by expert, adding up. The products between are those of
// product*.cu with groups.
//
// The steps: router product -> logits f32 [rows][experts]; moe_choose; moe_count; moe_place;
// moe_gather -> inputs [places][hidden]; grouped gate-up product; silu_mul over all places; grouped
// down product -> outputs [places][hidden]; moe_combine. `places` = rows * per_token is the bound
// that buffers and grids have; how many are really used is ends[local - 1] on the device, and what
// lies behind is never read by grouped products (silu_mul works on whatever is there).
// What a row chooses depends on that row alone, so a row's result does not depend on the batch.

#include "common.cuh"

constexpr u32 MOST_EXPERTS = 1024, MOST_GROUPS = 64, MOST_CHOICES = 64;

// How rows choose; by value, fields in this order. Mirrors Routing of the config.
struct Routing {
    const f32* correction;  // [experts], or null: added to scores for the choice alone
    u32 experts;            // at most MOST_EXPERTS
    u32 per_token;          // at most MOST_CHOICES
    u32 sigmoid;            // 1: each logit by itself, 0: softmax over all
    u32 groups;             // at most MOST_GROUPS; 1 if there are none
    u32 groups_kept;
    u32 best_two;  // 1: a group is as good as the sum of its two best, 0: as its best
    u32 normalize;
    f32 scale;
};

// A value and where it is; the better of two is the greater, of equals the first.
struct Best {
    f32 value;
    u32 at;  // NONE: nothing yet
};

DEVICE Best better(const Best& a, const Best& b) {
    if (a.at == NONE) return b;
    if (b.at == NONE) return a;
    bool second = b.value > a.value || (!(a.value > b.value) && b.at < a.at);
    return second ? b : a;
}

// chosen[r][i], weights[r][i]: the experts of each row in ascending order and what they weigh. Of
// equals the first is chosen. grid = rows, 128 threads, experts * 8 bytes of dynamic shared memory.
//
// A softmax's sum has a chain for each of 32 lanes (expert i in lane i % 32, in order), then
// warp_sum. The best is looked for choice by choice, by the first warp: there are few of both.
KERNEL(128, moe_choose, (const f32* logits, Routing routing, u32* chosen, f32* weights)) {
    SHARED_BYTES(memory);
    f32* scores = (f32*)memory;
    f32* ranked = scores + routing.experts;
    __shared__ f32 room[4];
    __shared__ f32 common;
    __shared__ f32 of_groups[MOST_GROUPS];
    __shared__ u32 picks[MOST_CHOICES];
    const f32 lowest = -__uint_as_float(0x7f800000);
    u32 thread = threadIdx.x, lane = thread % 32, experts = routing.experts;
    const f32* own = logits + (size_t)blockIdx.x * experts;

    f32 peak = lowest;
    for (u32 at = thread; at < experts; at += 128) peak = greater(peak, own[at]);
    for (int step = 16; step > 0; step /= 2)
        peak = greater(peak, __shfl_xor_sync(NONE, peak, step));
    if (lane == 0) room[thread / 32] = peak;
    __syncthreads();
    peak = greater(greater(room[0], room[1]), greater(room[2], room[3]));
    for (u32 at = thread; at < experts; at += 128) {
        scores[at] = routing.sigmoid ? 1.0f / (1.0f + exp_of(-own[at])) : exp_of(own[at] - peak);
    }
    __syncthreads();
    if (!routing.sigmoid && thread < 32) {
        f32 sum = 0.0f;
        for (u32 at = lane; at < experts; at += 32) sum += scores[at];
        sum = warp_sum(sum);
        if (lane == 0) common = sum;
    }
    __syncthreads();
    for (u32 at = thread; at < experts; at += 128) {
        if (!routing.sigmoid) scores[at] /= common;
        ranked[at] =
            routing.correction != nullptr ? scores[at] + routing.correction[at] : scores[at];
    }
    __syncthreads();
    if (thread >= 32) return;

    // Bit i of `open` is expert lane + 32 * i: may it still be chosen?
    u32 open = 0;
    for (u32 at = lane; at < experts; at += 32) open |= 1u << (at / 32);
    if (routing.groups > 1) {
        u32 size = experts / routing.groups;
        for (u32 group = lane; group < routing.groups; group += 32) {
            f32 first = lowest, second = lowest;
            for (u32 i = 0; i < size; ++i) {
                f32 score = ranked[group * size + i];
                if (score > first) second = first, first = score;
                else if (score > second) second = score;
            }
            of_groups[group] = routing.best_two ? first + second : first;
        }
        __syncwarp();
        // Every lane finds the same groups: there are at most 64.
        u64 left = routing.groups == 64 ? ~0ull : (1ull << routing.groups) - 1, kept = 0;
        for (u32 i = 0; i < routing.groups_kept; ++i) {
            Best best = {0.0f, NONE};
            for (u32 group = 0; group < routing.groups; ++group) {
                if (left >> group & 1) best = better(best, {of_groups[group], group});
            }
            left &= ~(1ull << best.at);
            kept |= 1ull << best.at;
        }
        for (u32 at = lane; at < experts; at += 32) {
            if (!(kept >> (at / size) & 1)) open &= ~(1u << (at / 32));
        }
    }
    for (u32 choice = 0; choice < routing.per_token; ++choice) {
        Best best = {0.0f, NONE};
        for (u32 at = lane; at < experts; at += 32) {
            if (open >> (at / 32) & 1) best = better(best, {ranked[at], at});
        }
        for (int step = 16; step > 0; step /= 2) {
            Best other = {__shfl_xor_sync(NONE, best.value, step),
                          __shfl_xor_sync(NONE, best.at, step)};
            best = better(best, other);
        }
        if (best.at % 32 == lane) open &= ~(1u << (best.at / 32));
        if (lane == 0) picks[choice] = best.at;
    }
    __syncwarp();
    // Ascending: a choice's place is how many are before it.
    u32* row = chosen + (size_t)blockIdx.x * routing.per_token;
    for (u32 choice = lane; choice < routing.per_token; choice += 32) {
        u32 place = 0;
        for (u32 other = 0; other < routing.per_token; ++other)
            place += picks[other] < picks[choice];
        row[place] = picks[choice];
    }
    __syncwarp();
    f32 sum = 1.0f;
    if (routing.normalize) {
        sum = 0.0f;
        for (u32 i = 0; i < routing.per_token; ++i) sum += scores[row[i]];
        sum += 1e-20f;
    }
    for (u32 i = lane; i < routing.per_token; i += 32) {
        f32 weight = scores[row[i]] / sum;
        weights[(size_t)blockIdx.x * routing.per_token + i] = weight * routing.scale;
    }
}

// Whether a choice is for an expert: padding rows (NONE in `sequence_of`) choose nothing.
DEVICE bool is_for(const u32* chosen, const u32* sequence_of, u32 choice, u32 per_token,
                   u32 expert) {
    return chosen[choice] == expert && sequence_of[choice / per_token] != NONE;
}

// counts[e] = how many choices are for expert first + e. grid = local experts, 256 threads.
KERNEL(256, moe_count,
       (const u32* chosen, const u32* sequence_of, u32 choices, u32 per_token, u32 first,
        u32* counts)) {
    __shared__ u32 of_warps[8];
    u32 count = 0;
    for (u32 choice = threadIdx.x; choice < choices; choice += 256) {
        count += is_for(chosen, sequence_of, choice, per_token, first + blockIdx.x);
    }
    for (int step = 16; step > 0; step /= 2) count += __shfl_xor_sync(NONE, count, step);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = count;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (u32 warp = 1; warp < 8; ++warp) count += of_warps[warp];
    counts[blockIdx.x] = count;
}

// ends[e]: where the rows of each local expert end. place_of[choice]: where a choice's row is, NONE
// if its expert is elsewhere. row_of[place]: the row that is there. Places of an expert are in the
// order of choices. grid = local experts, 256 threads; place_of is all NONE (memset 0xff) before.
KERNEL(256, moe_place,
       (const u32* chosen, const u32* sequence_of, u32 choices, u32 per_token, u32 first,
        const u32* counts, u32* ends, u32* place_of, u32* row_of)) {
    __shared__ u32 of_warps[8];
    u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, next = 0;
    for (u32 expert = 0; expert < blockIdx.x; ++expert) next += counts[expert];
    for (u32 base = 0; base < choices; base += 256) {
        u32 choice = base + threadIdx.x;
        bool own =
            choice < choices && is_for(chosen, sequence_of, choice, per_token, first + blockIdx.x);
        u32 votes = __ballot_sync(NONE, own);
        if (lane == 0) of_warps[warp] = __popc(votes);
        __syncthreads();
        u32 place = next + __popc(votes & ((1u << lane) - 1));
        for (u32 other = 0; other < 8; ++other) {
            if (other < warp) place += of_warps[other];
            next += of_warps[other];
        }
        if (own) {
            place_of[choice] = place;
            row_of[place] = choice / per_token;
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) ends[blockIdx.x] = next;
}

// out[place] = x[row_of[place]] below ends[local - 1]. grid = places, 256 threads.
template <class T>
DEVICE void moe_gather(const T* x, const u32* row_of, const u32* ends, u32 local, u32 columns,
                       T* out) {
    if (blockIdx.x >= ends[local - 1]) return;
    const T* from = x + (size_t)row_of[blockIdx.x] * columns;
    for (u32 at = threadIdx.x; at < columns; at += 256) {
        out[(size_t)blockIdx.x * columns + at] = from[at];
    }
}

// out[r] = (add ? out[r] : 0), then fmaf(weight, outputs[place], .) in the order of experts, in
// f32; rounded at the end. grid = rows, 256 threads.
template <class T>
DEVICE void moe_combine(const T* outputs, const u32* place_of, const f32* weights, u32 per_token,
                        u32 columns, u32 add, T* out) {
    size_t first = (size_t)blockIdx.x * per_token, row = (size_t)blockIdx.x * columns;
    for (u32 at = threadIdx.x; at < columns; at += 256) {
        f32 value = add ? widen(out[row + at]) : 0.0f;
        for (u32 i = 0; i < per_token; ++i) {
            u32 place = place_of[first + i];
            if (place == NONE) continue;
            value = fmaf(weights[first + i], widen(outputs[(size_t)place * columns + at]), value);
        }
        out[row + at] = narrow<T>(value);
    }
}

#define MOE_OF(T)                                                                                  \
    KERNEL(256, moe_gather_##T,                                                                    \
           (const T* x, const u32* row_of, const u32* ends, u32 local, u32 columns, T* out)) {     \
        moe_gather(x, row_of, ends, local, columns, out);                                          \
    }                                                                                              \
    KERNEL(256, moe_combine_##T,                                                                   \
           (const T* outputs, const u32* place_of, const f32* weights, u32 per_token, u32 columns, \
            u32 add, T* out)) {                                                                    \
        moe_combine(outputs, place_of, weights, per_token, columns, add, out);                     \
    }

MOE_OF(bf16)
MOE_OF(f16)
MOE_OF(f32)
