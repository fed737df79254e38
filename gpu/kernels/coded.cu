// Weights of quantized checkpoints (GPTQ, AWQ, fp8, int8, GGUF): a weight is code * scale + offset,
// rounded once, where a group of inputs and an output have a scale (and an offset) of their own.
// Activations are not rounded here (quantize.cu does where a checkpoint wants it).
//
// Codes lie [output][word], consecutive inputs in a word from its low bits on: eight of four bits,
// four of eight bits (unsigned integers or fp8). Rows are padded to whole words. Scales and offsets
// are f32 [output][group].

#include "product_mma.cuh"

// How weights are coded; by value, fields in this order.
struct Codes {
    const u32* words;     // [outputs][word_stride]
    const f32* scales;    // [outputs][groups]
    const f32* offsets;   // the same, or null: then a weight is (code - zero) * scale
    const u32* group_of;  // [inputs], or null: then it is input / group_size
    f32 zero;             // 0 with fp8
    u32 kind;             // 4: four bits; 8: eight bits; 9: fp8; 10: signed bytes
    u32 word_stride;      // words of an output
    u32 groups;
    u32 group_size;
    u32 unused;
};

// Code number `at` of a word as a number.
DEVICE f32 code_value(u32 kind, u32 word, u32 at) {
    if (kind == 4) return (f32)(word >> (at * 4) & 0xf);
    u32 code = word >> (at * 8) & 0xff;
    if (kind == 10) return widen((i8)code);
    return kind == 8 ? (f32)code : widen(fp8{(u8)code});
}

DEVICE u32 codes_per_word(u32 kind) { return kind == 4 ? 8 : 4; }

DEVICE u32 group_of(const Codes& codes, u32 input) {
    return codes.group_of != nullptr ? codes.group_of[input] : input / codes.group_size;
}

DEVICE f32 weight_of(const Codes& codes, f32 code, size_t group) {
    f32 scale = codes.scales[group];
    if (codes.offsets != nullptr) return fmaf(code, scale, codes.offsets[group]);
    return (code - codes.zero) * scale;
}

DEVICE f32 weight_at(const Codes& codes, u32 output, u32 input) {
    u32 each = codes_per_word(codes.kind);
    u32 word = codes.words[(size_t)output * codes.word_stride + input / each];
    f32 code = code_value(codes.kind, word, input % each);
    return weight_of(codes, code, (size_t)output * codes.groups + group_of(codes, input));
}

// Products for few rows: as product_few (product_mma.cu), to the bit as if weights were rounded to
// the activations' type first. p.weight and p.weights are not read. inputs is a multiple of 8, and
// so is group_size if group_of is null.
// product_coded: grid = (ceil(outputs / 16), ceil(rows / 16)), 256 threads.
// product_coded_groups: group g has the codes of_groups[g], and its rows as product.cuh says;
// grid = (ceil(outputs / 16), ceil(most rows of a group / 16), groups).
template <class T>
DEVICE void product_coded(const Product& p, const Codes& codes, const Group& group) {
    few_rows<T>(p, group, [&](u32 output, u32 input) {
        u32 each = codes_per_word(codes.kind);
        const u32* words = codes.words + (size_t)output * codes.word_stride + input / each;
        u32 two[2] = {words[0], each == 8 ? 0 : words[1]};
        size_t first_group = (size_t)output * codes.groups;
        u32 common = group_of(codes, input);
        f32 weights[8];
#pragma unroll
        for (u32 i = 0; i < 8; ++i) {
            u32 own = codes.group_of != nullptr ? codes.group_of[input + i] : common;
            f32 code = codes.kind == 4 ? code_value(4, two[0], i)
                                       : code_value(codes.kind, two[i / 4], i % 4);
            weights[i] = weight_of(codes, code, first_group + own);
        }
        return Bytes16{{pack<T>(weights[0], weights[1]), pack<T>(weights[2], weights[3]),
                        pack<T>(weights[4], weights[5]), pack<T>(weights[6], weights[7])}};
    });
}

// out [outputs][inputs] = the weights as numbers, for dense products of many rows; f32 is exact.
// grid = (outputs, ceil(inputs / 1024)), 128 threads.
template <class T>
DEVICE void decode(const Codes& codes, u32 inputs, T* out) {
    u32 output = blockIdx.x, end = least(inputs, (blockIdx.y + 1) * 1024);
    for (u32 input = blockIdx.y * 1024 + threadIdx.x; input < end; input += 128) {
        out[(size_t)output * inputs + input] = narrow<T>(weight_at(codes, output, input));
    }
}

// Rows of coded embeddings: as embed (rows.cu). grid = rows, 256 threads.
template <class T>
DEVICE void embed_coded(const u32* tokens, const Codes& codes, u32 first_token, u32 table_rows,
                        u32 columns, T* out) {
    u32 token = tokens[blockIdx.x] - first_token;  // wraps below the first, and so is outside
    for (u32 at = threadIdx.x; at < columns; at += blockDim.x) {
        f32 value = token < table_rows ? weight_at(codes, token, at) : 0.0f;
        out[(size_t)blockIdx.x * columns + at] = narrow<T>(value);
    }
}

#define CODED_OF(T)                                                                               \
    KERNEL(128, decode_##T, (Codes codes, u32 inputs, T * out)) { decode(codes, inputs, out); }   \
    KERNEL(                                                                                       \
        256, embed_coded_##T,                                                                     \
        (const u32* tokens, Codes codes, u32 first_token, u32 table_rows, u32 columns, T* out)) { \
        embed_coded(tokens, codes, first_token, table_rows, columns, out);                        \
    }

CODED_OF(bf16)
CODED_OF(f16)
CODED_OF(f32)

#define PRODUCTS_OF(T)                                                           \
    KERNEL(256, product_coded_##T, (Product p, Codes codes)) {                   \
        product_coded<T>(p, codes, Group{0, p.rows, nullptr});                   \
    }                                                                            \
    KERNEL(256, product_coded_groups_##T, (Product p, const Codes* of_groups)) { \
        product_coded<T>(p, of_groups[blockIdx.z], group_of_block(p));           \
    }

PRODUCTS_OF(bf16)
PRODUCTS_OF(f16)
