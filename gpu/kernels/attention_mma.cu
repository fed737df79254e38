// Attention by tensor cores (mma.sync m16n8k16): queries, keys, values and weights in bf16 or f16,
// sums in f32.
//
// Names: attention_{prefill, decode}_{type}_{kv}_{dim}, where type is bf16 or f16 (query and out),
// kv is `same`, int8 or fp8 (the last two with bf16 only), dim is 64, 128 or 256 and head_dim is
// at most that and a multiple of 8 (rows must lie at 16 bytes). `decode` has ENTRIES = 16 and 32
// threads; `prefill` ENTRIES = 64, 128 threads, and there is none for 256 (decode serves prompts
// too). Dynamic shared bytes, with copies = 2 for dim 64 and 128, 1 for 256:
//     (ENTRIES + copies * 128) * (dim + 8) * 2 + copies * 512 + (dim == 256 ? 16384 : 0)
// `split` may be 1 in all. Everything else is in attention.cuh.
//
// A warp has 16 entries and does with each chunk what attention_mma.cuh says; meanwhile the next
// chunk's keys and values are on their way. Eight-bit elements are exact in bf16: their scales go
// to scores and weights.

#include "attention_mma.cuh"

struct Same {};
struct AsInt8 {};
struct AsFp8 {};

// Which type of eight bits, if any.
template <class KV>
struct Narrow {
    static constexpr bool is = false;
    typedef u8 Element;
};
template <>
struct Narrow<AsInt8> {
    static constexpr bool is = true;
    typedef int8 Element;
};
template <>
struct Narrow<AsFp8> {
    static constexpr bool is = true;
    typedef fp8 Element;
};

// Where things are in shared memory. A row has 8 elements more than it needs, so that the eight
// rows which ldmatrix reads at once lie in different banks.
template <class T, u32 DIM, u32 WARPS>
struct Layout {
    static constexpr u32 ROW = DIM + 8;
    static constexpr u32 COPIES = DIM == 256 ? 1 : 2;
    static constexpr bool TOTALS = DIM == 256;  // too many for registers
    T* queries;                                 // [WARPS * 16][ROW]
    T* chunks;                                  // [COPIES][key, value][CHUNK][ROW]
    f32* scales;                                // [COPIES][key, value][CHUNK]
    f32* totals;                                // [WARPS][DIM / 2][32 lanes]

    DEVICE explicit Layout(u8* memory) {
        queries = (T*)memory;
        chunks = queries + WARPS * 16 * ROW;
        scales = (f32*)(chunks + COPIES * 2 * CHUNK * ROW);
        totals = scales + COPIES * 2 * CHUNK;
    }
    DEVICE T* rows(u32 copy, u32 value) { return chunks + (copy * 2 + value) * CHUNK * ROW; }
    DEVICE f32* row_scales(u32 copy, u32 value) { return scales + (copy * 2 + value) * CHUNK; }
};

// Eight elements of eight bits as T: eight bits are exact in bf16.
template <class T, class Element>
DEVICE Bytes16 widen_eight(const Bytes8& eight) {
    Bytes16 wide;
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        u32 two = eight.word[i / 2] >> (i % 2 * 16);
        wide.word[i] = pack<T>(widen(Element{(u8)two}), widen(Element{(u8)(two >> 8)}));
    }
    return wide;
}

// Puts the queries of a block into shared memory, with zeros where there are none.
template <class T, u32 DIM, u32 WARPS>
DEVICE void load_queries(const Attention& a, const Entries& entries,
                         Layout<T, DIM, WARPS>& layout) {
    constexpr u32 PIECES = DIM / 8;
    u32 dim = a.kv.head_dim;
    for (u32 piece = threadIdx.x; piece < WARPS * 16 * PIECES; piece += WARPS * 32) {
        u32 entry = piece / PIECES, element = piece % PIECES * 8;
        Bytes16 eight = {{0, 0, 0, 0}};
        if (entry < entries.count && element < dim) {
            size_t first = (size_t)entries.row(entry) * a.query_stride + entries.head(entry) * dim;
            eight = *(const Bytes16*)((const T*)a.query + first + element);
        }
        *(Bytes16*)(layout.queries + entry * layout.ROW + element) = eight;
    }
}

// Begins to load keys and values of the chunk at position `base` into a copy: positions outside of
// the stretch become zeros, because zero times whatever lies there need not be zero. A thread has
// the same eight elements of every row that it loads.
template <class T, class KV, u32 DIM, u32 WARPS>
DEVICE void load_chunk(const Attention& a, const Entries& entries, const Stretch& stretch,
                       Layout<T, DIM, WARPS>& layout, u32 base, u32 copy) {
    constexpr u32 PIECES = DIM / 8, STEP = WARPS * 32 / PIECES;
    const u32* table = a.tables + (size_t)entries.tile.sequence * a.table_width;
    u32 shift = __popc(a.kv.block_size - 1), element = threadIdx.x % PIECES * 8;
    size_t rows = kv_row(a.kv, 0, 0, entries.kv_head, 0), of_block = kv_row(a.kv, 1, 0, 0, 0);
    size_t to_values = kv_row(a.kv, 0, 1, 0, 0);
    bool has_element = element < a.kv.head_dim;
#pragma unroll 4
    for (u32 at = threadIdx.x / PIECES; at < CHUNK; at += STEP) {
        u32 position = base + at;
        bool is_seen = position >= stretch.from && position < stretch.to;
        u32 block = is_seen ? table[position >> shift] : 0;
        size_t row = rows + block * of_block + (position & (a.kv.block_size - 1));
        size_t key = row * a.kv.head_dim + element;
        size_t value = key + to_values * a.kv.head_dim;
        bool there = is_seen && has_element;
        T* key_to = layout.rows(copy, 0) + at * layout.ROW + element;
        T* value_to = layout.rows(copy, 1) + at * layout.ROW + element;
        if constexpr (Narrow<KV>::is) {
            typedef typename Narrow<KV>::Element Element;
            Bytes8 keys = {{0, 0}}, values = {{0, 0}};
            if (there) {
                keys = *(const Bytes8*)((const u8*)a.kv.data + key);
                values = *(const Bytes8*)((const u8*)a.kv.data + value);
            }
            *(Bytes16*)key_to = widen_eight<T, Element>(keys);
            *(Bytes16*)value_to = widen_eight<T, Element>(values);
            if (element == 0) {
                layout.row_scales(copy, 0)[at] = is_seen ? a.kv.scales[row] : 0.0f;
                layout.row_scales(copy, 1)[at] = is_seen ? a.kv.scales[row + to_values] : 0.0f;
            }
        } else {
            // Where nothing is, the pool's beginning is the address that must be readable.
            copy_later(key_to, (const T*)a.kv.data + (there ? key : 0), there);
            copy_later(value_to, (const T*)a.kv.data + (there ? value : 0), there);
        }
    }
    end_of_copies();
}

// The sums of whole spans, in registers, or in shared memory where those do not suffice.
template <class T, u32 DIM, u32 WARPS>
struct Totals {
    static constexpr bool SHARED = Layout<T, DIM, WARPS>::TOTALS;
    f32 own[SHARED ? 1 : DIM / 8][4];
    f32* shared;

    DEVICE explicit Totals(f32* memory) {
        shared = memory + threadIdx.x / 32 * (DIM / 2 * 32) + threadIdx.x % 32;
#pragma unroll
        for (u32 tile8 = 0; tile8 < DIM / 8; ++tile8) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) at(tile8, i) = 0.0f;
        }
    }
    DEVICE f32& at(u32 tile8, u32 i) {
        if constexpr (SHARED) return shared[(tile8 * 4 + i) * 32];
        else return own[tile8][i];
    }
};

template <class T, class KV, u32 DIM, u32 WARPS>
DEVICE void attention_mma(const Attention& a, u8* memory) {
    constexpr u32 COPIES = Layout<T, DIM, WARPS>::COPIES;
    Layout<T, DIM, WARPS> layout(memory);
    Entries entries = entries_of_block(a, WARPS * 16);
    if (entries.count == 0) return;
    Stretch stretch = stretch_of_block(a, entries);
    load_queries(a, entries, layout);

    // A lane has elements of two entries: `first` and 8 further.
    u32 lane = threadIdx.x % 32, first = threadIdx.x / 32 * 16 + lane / 4;
    Visible seen[2];
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        u32 entry = least(first + half * 8, entries.count - 1);
        seen[half] = seen_by(a, entries, entries.row(entry));
    }
    Totals<T, DIM, WARPS> totals(layout.totals);
    Softmax span_state[2] = {nothing_seen(), nothing_seen()};
    Softmax state[2] = {nothing_seen(), nothing_seen()};
    f32 values[DIM / 8][4];
#pragma unroll
    for (u32 tile8 = 0; tile8 < DIM / 8; ++tile8) {
#pragma unroll
        for (u32 i = 0; i < 4; ++i) values[tile8][i] = 0.0f;
    }

    u32 base = stretch.from / CHUNK * CHUNK, copy = 0;
    auto load = [&](u32 from, u32 to_copy) {
        load_chunk<T, KV, DIM, WARPS>(a, entries, stretch, layout, from, to_copy);
    };
    if (COPIES == 2 && base < stretch.to) load(base, 0);
    for (; base < stretch.to; base += CHUNK) {
        if (COPIES == 2 && base + CHUNK < stretch.to) {
            load(base + CHUNK, copy ^ 1);
            wait_for_copies<1>();
        } else {
            if (COPIES == 1) {
                __syncthreads();
                load(base, 0);
            }
            wait_for_copies<0>();
        }
        __syncthreads();
        f32 scores[CHUNK / 8][4], by[2];
        const T* queries = layout.queries + threadIdx.x / 32 * 16 * layout.ROW;
        make_scores<T, DIM, DIM + 8>(queries, layout.rows(copy, 0), scores);
        make_weights<Narrow<KV>::is>(a, seen, base, layout.row_scales(copy, 0),
                                     layout.row_scales(copy, 1), scores, span_state, by);
        add_values<T, DIM, DIM + 8>(scores, layout.rows(copy, 1), by, values);
        if (COPIES == 2) {
            // The next round loads into the copy that this one has read.
            __syncthreads();
            copy ^= 1;
        }
        bool ends_span = (base + CHUNK) % SPAN == 0 || base + CHUNK >= stretch.to;
        if (!ends_span) continue;
        add_columns(span_state[0]);
        add_columns(span_state[1]);
        if (a.split) break;
        Factors factors[2] = {merge(state[0], span_state[0]), merge(state[1], span_state[1])};
        span_state[0] = span_state[1] = nothing_seen();
#pragma unroll
        for (u32 tile8 = 0; tile8 < DIM / 8; ++tile8) {
#pragma unroll
            for (u32 i = 0; i < 4; ++i) {
                f32& total = totals.at(tile8, i);
                total = total * factors[i / 2].old + values[tile8][i] * factors[i / 2].part;
                values[tile8][i] = 0.0f;
            }
        }
    }

    u32 dim = a.kv.head_dim, q = lane % 4;
#pragma unroll
    for (u32 half = 0; half < 2; ++half) {
        u32 entry = first + half * 8;
        if (entry >= entries.count) continue;
        if (a.split && !has_slot(seen[half], stretch.first_span)) continue;
        u32 row = entries.row(entry), head = entries.head(entry);
        size_t out = out_at(a, row, head), slot = 0;
        if (a.split) slot = partial_at(a, row, head, stretch.first_span - seen[half].from / SPAN);
#pragma unroll
        for (u32 tile8 = 0; tile8 < DIM / 8; ++tile8) {
            u32 element = tile8 * 8 + q * 2;
            if (element >= dim) continue;
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
                u32 of = half * 2 + i;
                if (a.split) {
                    a.partial[slot * dim + element + i] = values[tile8][of];
                } else {
                    f32 value = totals.at(tile8, of) / state[half].sum;
                    ((T*)a.out)[out + element + i] = narrow<T>(value);
                }
            }
        }
        if (a.split && q == 0) {
            partial_states(a)[2 * slot] = span_state[half].peak;
            partial_states(a)[2 * slot + 1] = span_state[half].sum;
        }
    }
}

#define DECODE_OF(T, NAME, KV, DIM)                                    \
    KERNEL(32, attention_decode_##T##_##NAME##_##DIM, (Attention a)) { \
        SHARED_BYTES(memory);                                          \
        attention_mma<T, KV, DIM, 1>(a, memory);                       \
    }
#define PREFILL_OF(T, NAME, KV, DIM)                                     \
    KERNEL(128, attention_prefill_##T##_##NAME##_##DIM, (Attention a)) { \
        SHARED_BYTES(memory);                                            \
        attention_mma<T, KV, DIM, 4>(a, memory);                         \
    }
#define ATTENTION_OF(T, NAME, KV) \
    DECODE_OF(T, NAME, KV, 64)    \
    DECODE_OF(T, NAME, KV, 128)   \
    DECODE_OF(T, NAME, KV, 256)   \
    PREFILL_OF(T, NAME, KV, 64)   \
    PREFILL_OF(T, NAME, KV, 128)

ATTENTION_OF(bf16, same, Same)
ATTENTION_OF(bf16, int8, AsInt8)
ATTENTION_OF(bf16, fp8, AsFp8)
ATTENTION_OF(f16, same, Same)
