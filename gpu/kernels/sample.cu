// Sampling on the device: adjustments, one token of each row of logits, log-probabilities.
//
// The token is to the bit what the host would have chosen (gpu/src/sampling): the exponential is
// the same multiplications and additions, probability mass is counted in whole numbers whose sum
// does not depend on order, and the random number follows from (seed, choice, position). Nothing is
// sorted: where to cut is found digit by digit, from the most significant on, by counting (or
// adding up the mass of) what has each digit. Logits are f32 [rows][vocabulary].

#include "common.cuh"

typedef double f64;

constexpr u32 THREADS = 512;
constexpr u32 UNUSABLE = NONE;       // as a token: a logit is no number or +inf
constexpr u32 NOTHING = NONE - 1;    // as a token: nothing is allowed
constexpr u32 LOWEST = 0xff800000u;  // -inf

// How a row is sampled; an array of these is on the device.
struct Sampling {
    u64 seed;
    u64 position;  // of the output
    u32 choice;
    f32 temperature;  // below 1e-5: the largest logit
    u32 top_k;        // 0: all
    f32 top_p;
    f32 min_p;
    u32 unused;
};

// --- Adjustments --------------------------------------------------------------------------------

// What happens to one logit. There is at most one for a row and token.
struct Edit {
    u32 row, token;
    f32 bias;        // added first
    u32 seen;        // 1: the repetition penalty applies
    u32 repeats;     // how often it is in the output
    f32 repetition;  // 1: none
    f32 frequency;
    f32 presence;
    u32 banned;  // 1: becomes -inf at the end
    u32 unused;
};

// Applies `count` edits. grid = ceil(count / 256), 256 threads.
KERNEL(256, edit_logits, (const Edit* edits, u32 count, u32 vocabulary, f32* logits)) {
    u32 at = blockIdx.x * 256 + threadIdx.x;
    if (at >= count) return;
    Edit edit = edits[at];
    if (edit.token >= vocabulary) return;
    f32* logit = logits + (size_t)edit.row * vocabulary + edit.token;
    f32 value = *logit + edit.bias;
    if (edit.seen) value = value > 0.0f ? value / edit.repetition : value * edit.repetition;
    if (edit.repeats > 0) {
        value -= (f32)edit.repeats * edit.frequency;
        value -= edit.presence;
    }
    *logit = edit.banned ? __uint_as_float(LOWEST) : value;
}

// Makes -inf of tokens whose bit in the row's mask is 0: a bit for each token, from a word's lowest
// on; mask number mask_of[row] of `words` words, none for NONE. Tokens beyond a mask are not
// allowed. grid = (rows, any number of blocks), 256 threads.
KERNEL(256, mask_logits,
       (const u32* masks, const u32* mask_of, u32 words, u32 vocabulary, f32* logits)) {
    u32 mask = mask_of[blockIdx.x];
    if (mask == NONE) return;
    f32* row = logits + (size_t)blockIdx.x * vocabulary;
    for (u32 token = blockIdx.y * 256 + threadIdx.x; token < vocabulary; token += gridDim.y * 256) {
        u32 word = token / 32 < words ? masks[(size_t)mask * words + token / 32] : 0;
        if (!(word >> (token % 32) & 1)) row[token] = __uint_as_float(LOWEST);
    }
}

// --- Choosing -----------------------------------------------------------------------------------

// e to the x for x <= 0, as gpu/src/sampling/math.rs has it.
DEVICE f32 exp_negative(f32 x) {
    f32 clamped = x > -87.0f ? x : -87.0f;
    f32 shifted = clamped * 1.44269504f + 12582912.0f;
    f32 power = shifted - 12582912.0f;
    f32 rest = (clamped - power * (355.0f / 512.0f)) - power * -2.1219444e-4f;
    f32 sum = 1.0f / 5040.0f;
    sum = sum * rest + 1.0f / 720.0f;
    sum = sum * rest + 1.0f / 120.0f;
    sum = sum * rest + 1.0f / 24.0f;
    sum = sum * rest + 1.0f / 6.0f;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    u32 exponent = (__float_as_uint(shifted) - 0x4b400000u + 127) << 23;
    return __float_as_uint(x) == LOWEST ? 0.0f : sum * __uint_as_float(exponent);
}

// A weight of 1 has a mass of 2^40: 2^12 has 40 bits behind the point.
DEVICE u64 mass(f32 weight) {
    return (u64)__double_as_longlong((f64)weight + 4096.0) & ((1ull << 52) - 1);
}

// Philox4x32-10 (Salmon et al., 2011), as gpu/src/sampling/random.rs has it.
DEVICE u64 uniform(u64 seed, u32 choice, u64 position) {
    u32 counter[4] = {(u32)position, (u32)(position >> 32), choice, 0};
    u32 key[2] = {(u32)seed, (u32)(seed >> 32)};
    for (u32 round = 0; round < 10; ++round) {
        u64 first = (u64)0xd2511f53u * counter[0], second = (u64)0xcd9e8d57u * counter[2];
        u32 next[4] = {(u32)(second >> 32) ^ counter[1] ^ key[0], (u32)second,
                       (u32)(first >> 32) ^ counter[3] ^ key[1], (u32)first};
        for (u32 i = 0; i < 4; ++i) counter[i] = next[i];
        key[0] += 0x9e3779b9u;
        key[1] += 0xbb67ae85u;
    }
    return (u64)counter[1] << 32 | counter[0];
}

// Numbers in the order of floats, -0 before 0.
DEVICE u32 ordered(f32 value) {
    u32 bits = __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// What the threads of a block share.
struct Room {
    u64 of_warps[THREADS / 32];
    u64 digits[256];
    u64 found[2];
};

DEVICE u64 block_total(u64 value, Room& room) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(NONE, value, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room.of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    u64 total = 0;
    for (u32 warp = 0; warp < THREADS / 32; ++warp) total += room.of_warps[warp];
    return total;
}

DEVICE u64 block_most(u64 value, Room& room) {
    for (int step = 16; step > 0; step /= 2) {
        u64 other = __shfl_xor_sync(NONE, value, step);
        value = other > value ? other : value;
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) room.of_warps[threadIdx.x / 32] = value;
    __syncthreads();
    u64 best = 0;
    for (u32 warp = 0; warp < THREADS / 32; ++warp) {
        best = room.of_warps[warp] > best ? room.of_warps[warp] : best;
    }
    return best;
}

// The greatest key such that those of at least it have `needed` together, `key_of(token)` being a
// token's key and `share_of(token)` what it has. `needed` becomes what is still needed of those
// that equal it. There must be as much.
template <class Key, class Share>
DEVICE u32 crossing(u32 vocabulary, u64& needed, Room& room, Key key_of, Share share_of) {
    u32 prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        __syncthreads();
        for (u32 at = threadIdx.x; at < 256; at += THREADS) room.digits[at] = 0;
        __syncthreads();
        for (u32 token = threadIdx.x; token < vocabulary; token += THREADS) {
            u32 key = key_of(token);
            // Those that begin as what was found so far.
            bool begins = shift == 24 || key >> (shift + 8) == prefix >> (shift + 8);
            u64 share = begins ? share_of(token) : 0;
            if (share > 0) atomicAdd(&room.digits[key >> shift & 255], share);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            u32 digit = 255;
            u64 left = needed;
            while (digit > 0 && room.digits[digit] < left) left -= room.digits[digit--];
            room.found[0] = digit;
            room.found[1] = left;
        }
        __syncthreads();
        prefix |= (u32)room.found[0] << shift;
        needed = room.found[1];
    }
    return prefix;
}

// A token of each row: token[r]. Logits are overwritten. grid = rows, 512 threads. Rows whose
// number in `sampling_of` is NONE are left out (what fills a captured size up).
KERNEL(512, sample,
       (f32 * logits, u32 vocabulary, const Sampling* samplings, const u32* sampling_of,
        u32* tokens)) {
    __shared__ Room room;
    if (sampling_of[blockIdx.x] == NONE) return;
    Sampling own = samplings[sampling_of[blockIdx.x]];
    f32* row = logits + (size_t)blockIdx.x * vocabulary;
    u32* to = tokens + blockIdx.x;

    // The largest logit and the first token that has it, in one key; -0 counts as 0.
    u64 best = 0;
    u32 bad = 0;
    for (u32 token = threadIdx.x; token < vocabulary; token += THREADS) {
        f32 value = row[token] + 0.0f;
        bad |= !(value < __uint_as_float(0x7f800000));
        u64 key = (u64)ordered(value) << 32 | ~token;
        best = key > best ? key : best;
    }
    best = block_most(best, room);
    if (block_total(bad, room) > 0) {
        if (threadIdx.x == 0) *to = UNUSABLE;
        return;
    }
    u32 first = ~(u32)best;
    f32 peak = row[first];
    if (__float_as_uint(peak) == LOWEST) {
        if (threadIdx.x == 0) *to = NOTHING;
        return;
    }
    if (own.temperature < 1e-5f) {
        if (threadIdx.x == 0) *to = first;
        return;
    }

    // Top-k: no less than the k-th largest logit.
    f32 smallest = __uint_as_float(LOWEST);
    if (own.top_k > 0 && own.top_k < vocabulary) {
        u64 needed = own.top_k;
        u32 key = crossing(
            vocabulary, needed, room, [&](u32 token) { return ordered(row[token]); },
            [](u32) { return (u64)1; });
        smallest = __uint_as_float(key & 0x80000000u ? key & 0x7fffffff : ~key);
    }
    // Weights, and min-p: no less than so much of the likeliest, which always stays.
    f32 least_weight = own.min_p < 1.0f ? own.min_p : 1.0f, scale = 1.0f / own.temperature;
    u64 total = 0;
    __syncthreads();
    for (u32 token = threadIdx.x; token < vocabulary; token += THREADS) {
        f32 value = row[token];
        f32 weight = exp_negative((value - peak) * scale);
        weight = value >= smallest && weight >= least_weight ? weight : 0.0f;
        row[token] = weight;
        total += mass(weight);
    }
    total = block_total(total, room);

    // Top-p: the likeliest whose mass reaches the share; of equals the first.
    u32 last_bits = 0, last_token = NONE;
    if (own.top_p < 1.0f) {
        f64 wanted = (f64)own.top_p * (f64)total;
        u64 needed = (u64)wanted;
        needed += (f64)needed < wanted;
        needed = needed < 1 ? 1 : needed > total ? total : needed;
        last_bits = crossing(
            vocabulary, needed, room, [&](u32 token) { return __float_as_uint(row[token]); },
            [&](u32 token) { return mass(row[token]); });
        // All that have this weight have the same mass: so many of them, in the order of ids.
        u64 each = mass(__uint_as_float(last_bits));
        u64 wanted_of_equals = each == 0 ? ~0ull : (needed + each - 1) / each;
        // The id that so many of them are at most is found digit by digit too, downwards.
        u64 left = wanted_of_equals;
        if (each > 0) {
            u32 key = crossing(
                vocabulary, left, room, [](u32 token) { return ~token; },
                [&](u32 token) { return (u64)(__float_as_uint(row[token]) == last_bits); });
            last_token = ~key;
        }
    }

    // The draw: every thread has a run of tokens in the order of ids.
    u32 run = divide_up(vocabulary, THREADS);
    u32 begin = least(threadIdx.x * run, vocabulary), end = least(begin + run, vocabulary);
    auto mass_of = [&](u32 token) {
        u32 bits = __float_as_uint(row[token]);
        bool stays = bits > last_bits || (bits == last_bits && token <= last_token);
        return stays ? mass(row[token]) : 0;
    };
    u64 in_run = 0;
    for (u32 token = begin; token < end; ++token) in_run += mass_of(token);
    // Sums up to each thread's run: within its warp, then of the warps before.
    u64 up_to = in_run;
    u32 lane = threadIdx.x % 32;
    for (u32 step = 1; step < 32; step *= 2) {
        u64 other = __shfl_up_sync(NONE, up_to, step);
        if (lane >= step) up_to += other;
    }
    __syncthreads();
    if (lane == 31) room.of_warps[threadIdx.x / 32] = up_to;
    __syncthreads();
    u64 before = up_to - in_run, all = 0;
    for (u32 warp = 0; warp < THREADS / 32; ++warp) {
        if (warp < threadIdx.x / 32) before += room.of_warps[warp];
        all += room.of_warps[warp];
    }
    u64 drawn = __umul64hi(uniform(own.seed, own.choice, own.position), all);
    if (drawn < before || drawn >= before + in_run) return;
    u64 left = drawn - before;
    for (u32 token = begin; token < end; ++token) {
        u64 own_mass = mass_of(token);
        if (left < own_mass) {
            *to = token;
            return;
        }
        left -= own_mass;
    }
}

// --- Log-probabilities --------------------------------------------------------------------------

// Of the model as it is: over rows before any adjustment. logprobs[r], ranks[r] of token[r], and
// the `top` likeliest of the row, best first, of equals the lower id: top_tokens, top_logprobs
// [rows][top]. Rows without a token (NONE, NOTHING) are left out. grid = rows, 512 threads.
KERNEL(512, logprobs,
       (const f32* logits, u32 vocabulary, const u32* tokens, u32 top, f32* logprobs, u32* ranks,
        u32* top_tokens, f32* top_logprobs)) {
    __shared__ Room room;
    __shared__ f64 sums[THREADS / 32];
    u32 token = tokens[blockIdx.x];
    if (token >= vocabulary) return;
    const f32* row = logits + (size_t)blockIdx.x * vocabulary;
    u64 best = 0;
    for (u32 at = threadIdx.x; at < vocabulary; at += THREADS) {
        u64 key = (u64)ordered(row[at] + 0.0f) << 32 | ~at;
        best = key > best ? key : best;
    }
    best = block_most(best, room);
    f32 peak = row[~(u32)best], logit = row[token];
    f64 sum = 0.0;
    u64 ahead = 0;
    for (u32 at = threadIdx.x; at < vocabulary; at += THREADS) {
        sum += (f64)exp_negative(row[at] - peak);
        ahead += at < token ? row[at] >= logit : at > token && row[at] > logit;
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(NONE, sum, step);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    ahead = block_total(ahead, room);
    f64 all = 0.0;
    for (u32 warp = 0; warp < THREADS / 32; ++warp) all += sums[warp];
    f64 normalizer = (f64)peak + log(all);
    if (threadIdx.x == 0) {
        logprobs[blockIdx.x] = (f32)((f64)logit - normalizer);
        ranks[blockIdx.x] = (u32)ahead + 1;
    }
    // One after the other: the greatest key below the one before.
    for (u32 place = 0; place < top; ++place) {
        size_t to = (size_t)blockIdx.x * top + place;
        if (threadIdx.x == 0) {
            top_tokens[to] = best == 0 ? NONE : ~(u32)best;
            top_logprobs[to] = best == 0 ? 0.0f : (f32)((f64)row[~(u32)best] - normalizer);
        }
        u64 next = 0;
        for (u32 at = threadIdx.x; at < vocabulary; at += THREADS) {
            u64 key = (u64)ordered(row[at] + 0.0f) << 32 | ~at;
            if (key < best && key > next) next = key;
        }
        best = block_most(next, room);
    }
}
