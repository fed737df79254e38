// Attention over a paged KV: what all its kernels share.
//
// # Order of sums (the same in every kernel, so that a row's bits do not depend on which one, how
// many blocks worked on it, or what else was in the batch)
// Positions form chunks of CHUNK from position 0, and spans of SPAN. Within a span chunks follow
// each other: peak m, sum l and values acc of what came before are multiplied by exp(m_old - m_new)
// before the chunk's are added (online softmax: Milakov and Gimelshein, 2018; tiles of queries over
// tiles of keys: Dao et al., FlashAttention, 2022). Spans are merged in order in the same way.
// So a long decode can be split over blocks by span (`split` 1, then attention_combine), while a
// prompt's tiles walk over all spans (`split` 0), and both give the same.
//
// # Tiles and entries
// A block works on a Tile: `rows` consecutive rows of one sequence, and on the query heads that
// share one key head. An entry is one (row, query head) pair: entry e of a tile is row e / group,
// head kv_head * group + e % group, for group = query_heads / kv_heads. So decode steps of models
// with grouped queries read each key once for the whole group.
//
// # Launch
// grid = (tiles, kv_heads * passes, split ? spans : 1) where passes = ceil(most rows of a tile *
// group / ENTRIES) and a kernel's ENTRIES, threads and shared bytes are in its comment; spans =
// the most spans that a row of the step sees, (last - first visible) / SPAN + 2 at most.
// With `split`, partials are f32: values [row][query head][slot of spans][value_dim] and behind
// all of them (peak, sum) pairs [row][query head][slot]; `attention_workspace` bytes are
// rows * query_heads * spans * (value_dim + 2) * 4.

#pragma once

#include "kv.cuh"
#include "mma.cuh"

constexpr u32 CHUNK = 64;
constexpr u32 SPAN = 256;
constexpr u32 BIDIRECTIONAL = NONE;  // as a window: every position that has KV
constexpr u32 CAUSAL = 0;            // as a window: 0..=i

// By value; fields in this order, without holes.
struct Attention {
    const void* query;      // rows of query_stride elements, query heads first
    const void* query_end;  // latent attention only: what is rotated, see latent.cu
    void* out;              // [rows][query_heads][value_dim]
    f32* partial;           // workspace of `split`
    const Tile* tiles;
    const u32* positions;  // [rows]
    const u32* ends;       // [sequences]: positions that have KV once this step's are written
    const u32* tables;     // [sequences][table_width] of the layer's KV group
    KvLayer kv;
    u32 table_width;
    u32 query_stride;
    u32 query_heads;
    u32 value_dim;  // of a value head: head_dim, or a latent row's rank
    u32 window;     // CAUSAL, BIDIRECTIONAL or the width
    u32 split;      // 0: whole rows to `out`; 1: spans to `partial`
    u32 spans;      // slots of `partial`
    f32 scale;
    f32 soft_cap;  // 0 if scores are not capped
    u32 type;      // of query and out (attention_any, attention_combine, latent)
    u32 rows;      // of the step, padding included
    u32 unused;
};

// The positions that a row sees.
struct Visible {
    u32 from, to;
};

DEVICE Visible visible(u32 window, u32 position, u32 end) {
    if (window == BIDIRECTIONAL) return {0, end};
    u32 from = window == CAUSAL || position + 1 < window ? 0 : position + 1 - window;
    return {from, position + 1};
}

// The entries of a block, and where in the step they are.
struct Entries {
    Tile tile;
    u32 kv_head, group;
    u32 first;  // in the tile
    u32 count;  // 0: the block has nothing to do

    DEVICE u32 row(u32 entry) const { return tile.row + (first + entry) / group; }
    DEVICE u32 head(u32 entry) const { return kv_head * group + (first + entry) % group; }
};

DEVICE Entries entries_of_block(const Attention& a, u32 at_most) {
    u32 group = a.query_heads / a.kv.heads, passes = gridDim.y / a.kv.heads;
    Tile tile = a.tiles[blockIdx.x];
    u32 first = blockIdx.y % passes * at_most, all = tile.rows * group;
    return {tile, blockIdx.y / passes, group, first, first < all ? least(at_most, all - first) : 0};
}

DEVICE Visible seen_by(const Attention& a, const Entries& entries, u32 row) {
    return visible(a.window, a.positions[row], a.ends[entries.tile.sequence]);
}

// The positions that a block goes through: what any row of its tile sees, or of that its span.
struct Stretch {
    u32 from, to, first_span;
};

DEVICE Stretch stretch_of_block(const Attention& a, const Entries& entries) {
    const Tile& tile = entries.tile;
    u32 from = seen_by(a, entries, tile.row).from;
    u32 to = seen_by(a, entries, tile.row + tile.rows - 1).to, span = from / SPAN;
    if (!a.split) return {from, to, span};
    span += blockIdx.z;
    return {most(from, span * SPAN), least(to, (span + 1) * SPAN), span};
}

// What softmax knows of the positions that it has seen: the greatest score, in units of a power of
// two (scores are multiplied by log2 e), and the sum of 2^(score - peak).
struct Softmax {
    f32 peak, sum;
};

DEVICE Softmax nothing_seen() { return {-__uint_as_float(0x7f800000), 0.0f}; }

// What values of before and of a part are multiplied by when they are merged.
struct Factors {
    f32 old, part;
};

// Where nothing was seen on a side its factor is 0 (2^-inf), and where on neither, both are.
DEVICE Factors merge(Softmax& total, const Softmax& part) {
    f32 peak = greater(total.peak, part.peak);
    f32 base = peak == nothing_seen().peak ? 0.0f : peak;
    Factors by = {power_of_two(total.peak - base), power_of_two(part.peak - base)};
    total = {peak, total.sum * by.old + part.sum * by.part};
    return by;
}

// A score in units of a power of two: times the scale, capped if the model says so.
DEVICE f32 scaled_score(const Attention& a, f32 product) {
    f32 score = product * a.scale;
    if (a.soft_cap > 0.0f) score = capped(score, a.soft_cap);
    return score * 1.44269504f;
}

// Where an entry's output begins: latent attention's heads are apart.
DEVICE size_t out_at(const Attention& a, u32 row, u32 head) {
    size_t of_row = (size_t)row * a.query_heads + head, of_head = (size_t)head * a.rows + row;
    return (a.kv.latent ? of_head : of_row) * a.value_dim;
}

// Where an entry's partial of a span is; its slot is counted from the row's own first span. States
// (peak, sum) are behind the values of all `rows` of the step.
DEVICE size_t partial_at(const Attention& a, u32 row, u32 head, u32 slot) {
    return ((size_t)row * a.query_heads + head) * a.spans + slot;
}
// Whether an entry that sees so much has a slot for the span that a split block has.
DEVICE bool has_slot(const Visible& seen, u32 span) {
    return span >= seen.from / SPAN && span < divide_up(seen.to, SPAN);
}
DEVICE f32* partial_states(const Attention& a) {
    return a.partial + (size_t)a.rows * a.query_heads * a.spans * a.value_dim;
}
