// Products of activations with packed weights. Included once for each instruction set, after its vectors.
//
// Activations are rounded to 8 bits in groups of 32 columns, each group with a scale of its own: an outlier channel then
// spoils 31 neighbours at most, not the whole row. A number that outweighs the row is not rounded at all but multiplied
// as it is. A group's sum of products is exact in integers; it is scaled and added up in float32. Every output is
// computed by one thread in one order: results do not depend on the threads.
#pragma once
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "pool.h"

namespace {

constexpr int64_t group = 32;           // columns that share an activation scale
constexpr int64_t block_rows = 16;      // rows of a block of weights
constexpr int vectors = 16 / lanes;     // vectors that hold one number for each row of a block
constexpr int vector_bytes = 4 * lanes;
constexpr int prefetch_bytes = 4096;    // how far ahead of the arithmetic
constexpr int most_gemv_tokens = 32;    // beyond, unpacking a panel pays

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline const uint8_t *block_values(const chatglm_weight &w, int64_t block) {
    return static_cast<const uint8_t *>(w.values) + block * block_rows * w.columns * w.bits / 8;
}

// The scales of one block and weight group, vector v.
inline Floats load_scale(const chatglm_weight &w, int64_t index, int v) {
    if (w.row_scales) return load(static_cast<const float *>(w.scales) + index * block_rows + v * lanes);
    return load_half(static_cast<const uint16_t *>(w.scales) + index * block_rows + v * lanes);
}

// ---------------------------------------------------------------------------------------------------------------------
// Activations

// A number of a row that is multiplied as it is.
struct Outlier {
    int32_t column;
    float value;
};
// Beyond this share of the row's norm, and this many times its root mean square, a number is an outlier: rounded, it
// would cost its neighbours more than 0.2 % of the norm. More than 39 cannot be that large.
constexpr float outlier_share = 0.16f, outlier_multiple = 6;
constexpr int64_t most_outliers = 39;

// `tile` tokens lie side by side; a slab holds some columns of all tokens, in the order in which they are read:
// values [slabs][tokens / tile][slab / 4][tile][4], scales and sums [slabs][tokens / tile][slab / 32][tile].
struct Activations {
    int8_t *values;
    float *scales;
    int32_t *sums;      // of the rounded numbers of a group, times `factor`
    Outlier *outliers;  // [rows][most_outliers]
    int32_t *counts;    // [rows] of them
    int64_t rows;       // tokens, padded to whole tiles
    int64_t columns;
    int64_t slab;
    int tile;
    int32_t factor;

    static int64_t floats(int64_t tokens, int64_t columns, int tile) {
        const int64_t rows = divide_up(tokens, tile) * tile;
        return rows * (columns / 4 + 2 * (columns / group) + 2 * most_outliers + 1);
    }
    Activations(float *memory, int64_t tokens, int64_t columns, int tile, int64_t slab, int32_t factor)
        : rows(divide_up(tokens, tile) * tile), columns(columns), slab(slab), tile(tile), factor(factor) {
        values = reinterpret_cast<int8_t *>(memory);
        scales = memory + rows * columns / 4;
        sums = reinterpret_cast<int32_t *>(scales + rows * (columns / group));
        outliers = reinterpret_cast<Outlier *>(sums + rows * (columns / group));
        counts = reinterpret_cast<int32_t *>(outliers + rows * most_outliers);
    }
    int64_t groups() const { return columns / group; }
    // Where the tile's numbers of a column begin, counted in columns of one token; the column must begin a group.
    int64_t offset(int64_t index, int64_t column) const {
        const int64_t first = column / slab * slab, width = smaller(slab, columns - first);
        return first * rows + index * tile * width + (column - first) * tile;
    }
    const int8_t *tile_values(int64_t index, int64_t column) const { return values + offset(index, column); }
    const float *tile_scales(int64_t index, int64_t column) const { return scales + offset(index, column) / group; }
    const int32_t *tile_sums(int64_t index, int64_t column) const { return sums + offset(index, column) / group; }
};

// The size from which on a number of the row is an outlier; not finite where the row is not.
float outlier_bound(const float *row, int64_t count) {
    Floats squares = set(0);
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) squares = fma(load(row + i), load(row + i), squares);
    float total = sum(squares);
    for (; i < count; ++i) total += row[i] * row[i];
    const float share = outlier_multiple / sqrtf(static_cast<float>(count));
    return sqrtf(total) * (share > outlier_share ? share : outlier_share);
}

// Moves the outliers of a group from `numbers` to the list of its token.
void take_outliers(float *numbers, int64_t column, float bound, const Activations &x, int64_t token) {
    for (int i = 0; i < group; ++i) {
        if (!(fabsf(numbers[i]) > bound) || x.counts[token] == most_outliers) continue;
        x.outliers[token * most_outliers + x.counts[token]++] = {static_cast<int32_t>(column + i), numbers[i]};
        numbers[i] = 0;
    }
}

inline float largest_of(const float *numbers, Floats &check) {
    Floats most = set(0);
    for (int i = 0; i < group; i += lanes) {
        const Floats v = load(numbers + i);
        most = max(most, abs(v));
        check = fma(v, set(0), check);
    }
    return largest(most);
}

// Rounds one row of `count` numbers; columns beyond count as zero. Where the row holds a number that is not finite the
// scales become NaN, so that the outputs do too.
void quantize_row(const float *row, int64_t count, const Activations &x, int64_t token) {
    const int64_t index = token / x.tile, within = token % x.tile;
    const float bound = outlier_bound(row, count);
    Floats check = set(0);
    x.counts[token] = 0;
    for (int64_t g = 0; g < x.groups(); ++g) {
        const int64_t offset = x.offset(index, g * group);
        alignas(64) float copy[group];
        const float *p = row + g * group;
        if (g * group + group > count) {
            for (int64_t i = 0; i < group; ++i) copy[i] = g * group + i < count ? p[i] : 0.0f;
            p = copy;
        }
        float top = largest_of(p, check);
        if (top > bound) {
            if (p != copy) memcpy(copy, p, sizeof copy);
            p = copy;
            take_outliers(copy, g * group, bound, x, token);
            top = largest_of(p, check);
        }
        const Floats inverse = set(top > 1e-35f ? 127.0f / top : 0.0f);  // 127 / 1e-37 would be infinite
        alignas(64) int8_t rounded[group];
        uint32_t total = 0;  // what is not finite may overflow it
        for (int i = 0; i < group; i += lanes)
            total += static_cast<uint32_t>(store_int8(rounded + i, mul(load(p + i), inverse)));
        for (int i = 0; i < group / 4; ++i) memcpy(x.values + offset + (i * x.tile + within) * 4, rounded + i * 4, 4);
        x.scales[offset / group + within] = top / 127.0f;
        x.sums[offset / group + within] = static_cast<int32_t>(total * static_cast<uint32_t>(x.factor));
    }
    if (sum(check) == 0) return;
    for (int64_t g = 0; g < x.groups(); ++g) {
        const int64_t place = x.offset(index, g * group) / group + within;
        x.scales[place] = __builtin_nanf("");
        x.sums[place] = 0;
    }
}

// What a tile holds beyond the last token must not be left to chance: NaN there would be slow.
void clear_padding(const Activations &x, int64_t tokens) {
    for (int64_t token = tokens; token % x.tile != 0; ++token) {
        const float zero[1] = {0};
        quantize_row(zero, 0, x, token);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Few tokens: the weights stream past once, straight from memory

// One vector of sums for one group, and what it needs to become floats.
template <int BITS>
struct Sums;
template <>
struct Sums<4> {
    Partial sums;
    void begin(int32_t correction) { sums = start(correction); }
    void add(Bytes weight, Bytes x) { sums = dot4(sums, weight, x); }
    Ints end(int32_t correction) const { return finish(sums, correction); }
};
template <>
struct Sums<8> {
    Ints sums;
    void begin(int32_t correction) { sums = set_ints(correction); }
    void add(Bytes weight, Bytes x) { sums = dot8(sums, weight, x); }
    Ints end(int32_t) const { return sums; }
};

// Weights are multiplied as numbers without a sign, which is put right by so many times the sum of the activations: the
// integer sums begin with it, unless it differs from row to row (asymmetric weights, corrected after scaling).
inline int32_t sum_factor(const chatglm_weight &w) { return w.bits == 8 ? -int8_offset : w.zeros ? -1 : -8; }

// sums[NB][MR][16]: MR tokens times NB blocks of 16 rows, from `block` on. The integer sums need the registers; the float
// sums, touched once in 32 columns, stay in memory.
template <int BITS, bool ASYMMETRIC, int MR, int NB>
inline void gemv_blocks(const chatglm_weight &w, const Activations &x, int64_t tile, int64_t block, float *sums) {
    constexpr int halves = 8 / BITS;
    constexpr int lines = BITS;  // of 64 bytes, for 32 columns
    const int64_t weight_groups = w.columns / w.group_size, inner = w.group_size / group;
    const int8_t *xv = x.tile_values(tile, 0);
    const float *xs = x.tile_scales(tile, 0);
    const int32_t *xt = x.tile_sums(tile, 0);
    const uint8_t *values[NB];
    for (int b = 0; b < NB; ++b) values[b] = block_values(w, block + b);
    memset(sums, 0, sizeof(float) * NB * MR * block_rows);
    for (int64_t wg = 0; wg < weight_groups; ++wg)
        for (int64_t i = 0; i < inner; ++i, xv += group * MR, xs += MR, xt += MR) {
            for (int v = 0; v < vectors; ++v) {
                Sums<BITS> part[NB][MR];
CHATGLM_UNROLL(8)
                for (int m = 0; m < MR; ++m)
CHATGLM_UNROLL(4)
                    for (int b = 0; b < NB; ++b) part[b][m].begin(ASYMMETRIC ? 0 : xt[m]);
CHATGLM_UNROLL(8)
                for (int line = 0; line < lines; ++line) {
                    Bytes weight[NB][2];
CHATGLM_UNROLL(4)
                    for (int b = 0; b < NB; ++b) {
                        const uint8_t *place = values[b] + line * 64;
                        // One token leaves time to see the next loads coming; with more, arithmetic fills the window.
                        if (MR > 1 && v == 0) prefetch(place + prefetch_bytes);
                        const Bytes raw = load_bytes(place + v * vector_bytes);
                        weight[b][0] = BITS == 4 ? low_nibbles(raw) : prepare8(raw);
                        if (BITS == 4) weight[b][1] = high_nibbles(raw);
                    }
CHATGLM_UNROLL(2)
                    for (int half = 0; half < halves; ++half)
CHATGLM_UNROLL(8)
                        for (int m = 0; m < MR; ++m) {
                            const Bytes four = spread(xv + ((line * halves + half) * MR + m) * 4);
CHATGLM_UNROLL(4)
                            for (int b = 0; b < NB; ++b) part[b][m].add(weight[b][half], four);
                        }
                }
                Floats scale[NB], zero[NB];
CHATGLM_UNROLL(4)
                for (int b = 0; b < NB; ++b) {
                    const int64_t index = (block + b) * weight_groups + wg;
                    scale[b] = load_scale(w, index, v);
                    if (ASYMMETRIC) zero[b] = mul(scale[b], load_uint8(w.zeros + index * block_rows + v * lanes));
                }
CHATGLM_UNROLL(8)
                for (int m = 0; m < MR; ++m)
CHATGLM_UNROLL(4)
                    for (int b = 0; b < NB; ++b) {
                        float *p = sums + (b * MR + m) * block_rows + v * lanes;
                        const Ints whole = part[b][m].end(ASYMMETRIC ? 0 : xt[m]);
                        Floats total = fma(to_floats(whole), mul(scale[b], set(xs[m])), load(p));
                        if (ASYMMETRIC)
                            total = fma(zero[b], mul(set(xs[m]), set(static_cast<float>(xt[m]))), total);
                        store(p, total);
                        // Else the compiler brings forward what the next sums need, and integers give way to it.
                        if (MR > 6) __asm__ volatile("" ::: "memory");
                    }
            }
            for (int b = 0; b < NB; ++b) values[b] += lines * 64;
        }
}

// Where a product goes: output[token][row] = (product + bias) or that added to what is there.
struct Target {
    float *output;
    int64_t stride;
    bool add;

    void put(const chatglm_weight &w, int64_t token, int64_t row, Floats value) const {
        float *p = output + token * stride + row;
        if (row + lanes <= w.rows) {
            if (w.bias) value = ::add(value, load(w.bias + row));
            store(p, add ? ::add(value, load(p)) : value);
            return;
        }
        alignas(64) float values[lanes];
        store(values, value);
        for (int i = 0; row + i < w.rows; ++i) {
            const float one = values[i] + (w.bias ? w.bias[row + i] : 0.0f);
            p[i] = add ? p[i] + one : one;
        }
    }
};

// `total`, a vector of the rows of a block, plus the outliers of a token times their weights.
template <int BITS, bool ASYMMETRIC>
inline Floats with_outliers(const chatglm_weight &w, const Activations &x, int64_t token, int64_t block, int v,
                            Floats total) {
    const Outlier *list = x.outliers + token * most_outliers;
    for (int32_t i = 0; i < x.counts[token]; ++i) {
        const int64_t k = list[i].column, index = block * (w.columns / w.group_size) + k / w.group_size;
        const uint8_t *line = block_values(w, block) + k / (32 / BITS) * 64 + v * vector_bytes;
        const int shift = static_cast<int>(k % 4 * 8 + (BITS == 4 ? k % 8 / 4 * 4 : 0));
        const Ints whole = BITS == 4 ? field(line, shift, 0, 15) : field(line, shift, 128, 255);
        const Floats zero = ASYMMETRIC ? load_uint8(w.zeros + index * block_rows + v * lanes) : set(BITS == 4 ? 8 : 128);
        total = fma(mul(sub(to_floats(whole), zero), load_scale(w, index, v)), set(list[i].value), total);
    }
    return total;
}

// All tokens with the blocks from `block` to `end`; the later tiles find the weights in cache.
template <int BITS, bool ASYMMETRIC, int MR, int NB>
void gemv_range(const chatglm_weight &w, const Activations &x, const Target &target, int64_t tokens, int64_t block,
                int64_t end) {
    for (; block + NB <= end; block += NB)
        for (int64_t tile = 0; tile * MR < tokens; ++tile) {
            alignas(64) float sums[NB * MR * block_rows];
            gemv_blocks<BITS, ASYMMETRIC, MR, NB>(w, x, tile, block, sums);
            for (int b = 0; b < NB; ++b)
                for (int m = 0; m < smaller(MR, tokens - tile * MR); ++m)
                    for (int v = 0; v < vectors; ++v) {
                        const int64_t token = tile * MR + m;
                        const Floats all = with_outliers<BITS, ASYMMETRIC>(
                            w, x, token, block + b, v, load(sums + (b * MR + m) * block_rows + v * lanes));
                        target.put(w, token, (block + b) * block_rows + v * lanes, all);
                    }
        }
    if constexpr (NB > 1) gemv_range<BITS, ASYMMETRIC, MR, 1>(w, x, target, tokens, block, end);
}

// MR at most is the tile of x. As many blocks at a time, 4, 2 or 1, as there are registers for their integer sums.
template <int BITS, bool ASYMMETRIC, int MR = gemv_tile>
void gemv_some(const chatglm_weight &w, const Activations &x, const Target &target, int64_t tokens, int64_t block,
               int64_t end) {
    if constexpr (MR > 1)
        if (x.tile < MR) return gemv_some<BITS, ASYMMETRIC, MR - 1>(w, x, target, tokens, block, end);
    constexpr int fitting = gemv_sums / MR;
    gemv_range<BITS, ASYMMETRIC, MR, (fitting >= 4 ? 4 : fitting >= 2 ? 2 : 1)>(w, x, target, tokens, block, end);
}

// ---------------------------------------------------------------------------------------------------------------------
// Many tokens: a panel of weights is unpacked once into cache and meets all of them

constexpr int panel_rows = tile_vectors * lanes;
constexpr int64_t panel_columns = 512;
constexpr int64_t most_tokens = 768;    // whose sums stay in cache beside a panel
static_assert(panel_rows % block_rows == 0, "a panel holds whole blocks");

struct Panel {
    uint8_t *values;  // [columns / 4][panel_rows][4]
    float *scales;    // [columns / 32][panel_rows]
    float *zeros;     // as scales: scale * zero
};

template <int BITS, bool ASYMMETRIC>
void unpack(const chatglm_weight &w, int64_t block, int64_t blocks, int64_t column, int64_t columns, const Panel &panel) {
    const int64_t weight_groups = w.columns / w.group_size;
    for (int64_t b = 0; b < panel_rows / block_rows; ++b) {
        const bool there = block + b < blocks;  // beyond the last block: zero
        const uint8_t *values = there ? block_values(w, block + b) + column * block_rows * BITS / 8 : nullptr;
        for (int64_t g = 0; g < columns / group; ++g) {
            const int64_t index = (block + b) * weight_groups + (column + g * group) / w.group_size;
            for (int v = 0; v < vectors; ++v) {
                float *scales = panel.scales + g * panel_rows + b * block_rows + v * lanes;
                const Floats scale = there ? load_scale(w, index, v) : set(0);
                store(scales, scale);
                if (ASYMMETRIC) {
                    const Floats zero = there ? load_uint8(w.zeros + index * block_rows + v * lanes) : set(0);
                    store(panel.zeros + (scales - panel.scales), mul(scale, zero));
                }
            }
            if (!there) continue;  // whatever the values are, the scale is zero
            for (int line = 0; line < BITS; ++line, values += 64)
                for (int v = 0; v < vectors; ++v) {
                    const Bytes raw = load_bytes(values + v * vector_bytes);
                    const int64_t place = b * 64 + v * vector_bytes;
                    if constexpr (BITS == 4) {
                        uint8_t *out = panel.values + (g * 8 + line * 2) * panel_rows * 4 + place;
                        store_bytes(out, low_nibbles(raw));
                        store_bytes(out + panel_rows * 4, high_nibbles(raw));
                    } else {
                        store_bytes(panel.values + (g * 8 + line) * panel_rows * 4 + place, prepare8(raw));
                    }
                }
        }
    }
}

// Asks for a share, `part` of `parts`, of the lines that `unpack` will read.
template <int BITS>
inline void expect_panel(const chatglm_weight &w, int64_t block, int64_t blocks, int64_t column, int64_t columns,
                         int64_t part, int64_t parts) {
    const int64_t lines = columns * BITS / 32;  // of a block
    const int64_t all = smaller(panel_rows / block_rows, blocks - block) * lines;
    for (int64_t i = all * part / parts; i < all * (part + 1) / parts; ++i)
        prefetch_early(block_values(w, block + i / lines) + column * block_rows * BITS / 8 + i % lines * 64);
}

// sums[tile_tokens][panel_rows] += one tile of activations times one panel. A tile is small enough for its integer and
// its float sums to stay in registers: fetching and storing float sums for every group costs more than fetching weights.
template <int BITS, bool ASYMMETRIC>
void tile_product(const Panel &panel, const int8_t *xv, const float *xs, const int32_t *xt, int64_t groups, float *sums) {
    constexpr int MR = tile_tokens, NV = tile_vectors;
    const uint8_t *p = panel.values;
    Floats total[MR][NV];
    CHATGLM_UNROLL(8)
    for (int m = 0; m < MR; ++m)
        CHATGLM_UNROLL(4)
        for (int v = 0; v < NV; ++v) total[m][v] = load(sums + m * panel_rows + v * lanes);
    for (int64_t g = 0; g < groups; ++g, xs += MR, xt += MR) {
        Sums<BITS> part[MR][NV];
        CHATGLM_UNROLL(8)
        for (int m = 0; m < MR; ++m)
            CHATGLM_UNROLL(4)
            for (int v = 0; v < NV; ++v) part[m][v].begin(ASYMMETRIC ? 0 : xt[m]);
        CHATGLM_UNROLL(8)
        for (int k = 0; k < group / 4; ++k, p += panel_rows * 4, xv += MR * 4) {
            Bytes weight[NV];
            CHATGLM_UNROLL(4)
            for (int v = 0; v < NV; ++v) weight[v] = load_bytes(p + v * vector_bytes);
            CHATGLM_UNROLL(8)
            for (int m = 0; m < MR; ++m) {
                const Bytes x = spread(xv + m * 4);
                CHATGLM_UNROLL(4)
                for (int v = 0; v < NV; ++v) part[m][v].add(weight[v], x);
            }
        }
        CHATGLM_UNROLL(8)
        for (int m = 0; m < MR; ++m) {
            const Floats scale = set(xs[m]);
            CHATGLM_UNROLL(4)
            for (int v = 0; v < NV; ++v) {
                const Floats weight_scale = load(panel.scales + g * panel_rows + v * lanes);
                const Ints whole = part[m][v].end(ASYMMETRIC ? 0 : xt[m]);
                total[m][v] = fma(to_floats(whole), mul(weight_scale, scale), total[m][v]);
                if (ASYMMETRIC) {
                    const Floats zero = load(panel.zeros + g * panel_rows + v * lanes);
                    total[m][v] = fma(zero, mul(scale, set(static_cast<float>(xt[m]))), total[m][v]);
                }
            }
        }
    }
    CHATGLM_UNROLL(8)
    for (int m = 0; m < MR; ++m)
        CHATGLM_UNROLL(4)
        for (int v = 0; v < NV; ++v) store(sums + m * panel_rows + v * lanes, total[m][v]);
}

template <int BITS, bool ASYMMETRIC>
void gemm_panel(const chatglm_weight &w, const Activations &x, const Target &target, int64_t tokens, int64_t index,
                int thread) {
    const int64_t blocks = divide_up(w.rows, block_rows), block = index * (panel_rows / block_rows);
    const int64_t panel_floats = panel_columns * panel_rows / 4, scale_floats = panel_columns / group * panel_rows;
    float *memory = chatglm::thread_scratch(thread, 1, panel_floats + 2 * scale_floats);
    const Panel panel{reinterpret_cast<uint8_t *>(memory), memory + panel_floats, memory + panel_floats + scale_floats};
    const int64_t step = divide_up(divide_up(tokens, divide_up(tokens, most_tokens)), tile_tokens) * tile_tokens;
    for (int64_t first = 0; first < tokens; first += step) {
        const int64_t count = smaller(tokens - first, step), tiles = divide_up(count, tile_tokens);
        const int64_t floats = tiles * tile_tokens * panel_rows;
        float *sums = chatglm::thread_scratch(thread, 2, floats);
        memset(sums, 0, static_cast<size_t>(floats) * 4);
        for (int64_t column = 0; column < w.columns; column += panel_columns) {
            const int64_t columns = smaller(w.columns - column, panel_columns);
            unpack<BITS, ASYMMETRIC>(w, block, blocks, column, columns, panel);
            const int64_t next = column + columns, next_columns = smaller(w.columns - next, panel_columns);
            for (int64_t t = 0; t < tiles; ++t) {
                const int64_t tile = first / tile_tokens + t;
                expect_panel<BITS>(w, block, blocks, next, next_columns, t, tiles);
                tile_product<BITS, ASYMMETRIC>(panel, x.tile_values(tile, column), x.tile_scales(tile, column),
                                               x.tile_sums(tile, column), columns / group,
                                               sums + t * tile_tokens * panel_rows);
            }
        }
        for (int64_t token = 0; token < count; ++token)
            for (int v = 0; v < tile_vectors; ++v) {
                const int64_t row = block * block_rows + v * lanes;
                if (row >= w.rows) continue;
                const Floats all = with_outliers<BITS, ASYMMETRIC>(
                    w, x, first + token, row / block_rows, static_cast<int>(row % block_rows / lanes),
                    load(sums + token * panel_rows + v * lanes));
                target.put(w, first + token, row, all);
            }
    }
}

// ---------------------------------------------------------------------------------------------------------------------

// Tokens side by side in the activations of a product.
inline int tile_for(int64_t tokens) {
    if (tokens > most_gemv_tokens) return tile_tokens;
    const int64_t tiles = divide_up(tokens, gemv_tile);
    return static_cast<int>(divide_up(tokens, tiles));
}

template <int BITS, bool ASYMMETRIC>
void multiply_as(const chatglm_weight &w, const Activations &x, const Target &target, int64_t tokens) {
    const int64_t blocks = divide_up(w.rows, block_rows);
    if (tokens <= most_gemv_tokens) {
        // Parts of a few hundred kilobytes: enough to stream, few enough that no thread waits long for the last.
        const int64_t bytes = block_rows * w.columns * w.bits / 8;
        const int64_t step = divide_up(divide_up(int64_t{131072}, bytes), 4) * 4;
        chatglm::parallel(divide_up(blocks, step), [&](int64_t part, int) {
            gemv_some<BITS, ASYMMETRIC>(w, x, target, tokens, part * step, smaller(blocks, (part + 1) * step));
        });
        return;
    }
    chatglm::parallel(divide_up(blocks, panel_rows / block_rows), [&](int64_t part, int thread) {
        gemm_panel<BITS, ASYMMETRIC>(w, x, target, tokens, part, thread);
    });
}

// The product of rounded activations (tiles of `tile_for(tokens)`) with a weight.
void multiply(const chatglm_weight &w, const Activations &x, const Target &target, int64_t tokens) {
    if (w.bits == 8) return multiply_as<8, false>(w, x, target, tokens);
    if (w.zeros) return multiply_as<4, true>(w, x, target, tokens);
    multiply_as<4, false>(w, x, target, tokens);
}

// Rounds all rows that `make` gives, for a product with w: make(token, row) writes one row of `count` numbers, or returns where it lies.
template <class Make>
Activations quantize(int64_t tokens, int64_t count, const chatglm_weight &w, int slot, Make make) {
    const int tile = tile_for(tokens);
    const int64_t slab = tokens > most_gemv_tokens ? panel_columns : w.columns;
    float *memory = chatglm::scratch(slot, Activations::floats(tokens, w.columns, tile));
    const Activations x(memory, tokens, w.columns, tile, slab, sum_factor(w));
    const int64_t step = tokens <= gemv_tile ? tokens : 8;
    chatglm::parallel(divide_up(tokens, step), [&](int64_t part, int thread) {
        for (int64_t token = part * step; token < smaller(tokens, (part + 1) * step); ++token)
            quantize_row(make(token, chatglm::thread_scratch(thread, 3, count)), count, x, token);
    });
    clear_padding(x, tokens);
    return x;
}

void linear(const chatglm_weight *w, const float *input, int64_t input_stride, int64_t input_columns, float *output,
            int64_t tokens) {
    if (tokens == 0) return;
    const Activations x = quantize(tokens, input_columns, *w, 4, [&](int64_t token, float *) {
        return input + token * input_stride;
    });
    multiply(*w, x, Target{output, w->rows, false}, tokens);
}

// ---------------------------------------------------------------------------------------------------------------------
// Weights as numbers

inline void dequantize_row(const chatglm_weight &w, int64_t row, float *output, int64_t columns) {
    const int64_t block = row / block_rows, r = row % block_rows, weight_groups = w.columns / w.group_size;
    const uint8_t *values = block_values(w, block);
    float scale = 0, zero = 0;
    for (int64_t k = 0; k < columns; ++k) {
        if (k % w.group_size == 0) {
            const int64_t index = (block * weight_groups + k / w.group_size) * block_rows + r;
            alignas(64) float scales[lanes];
            store(scales, load_scale(w, index / block_rows, static_cast<int>(r / lanes)));
            scale = scales[r % lanes];
            zero = w.zeros ? w.zeros[index] : w.bits == 4 ? 8.0f : 0.0f;
        }
        int32_t value;
        if (w.bits == 4) {
            const uint8_t byte = values[((k / 8) * block_rows + r) * 4 + k % 4];
            value = k % 8 < 4 ? byte & 15 : byte >> 4;
        } else {
            value = static_cast<int8_t>(values[((k / 4) * block_rows + r) * 4 + k % 4]);
        }
        output[k] = (static_cast<float>(value) - zero) * scale;
    }
}

void dequantize(const chatglm_weight *w, float *output, int64_t first, int64_t last) {
    chatglm::parallel(divide_up(last - first, 16), [&](int64_t part, int) {
        for (int64_t row = first + part * 16; row < smaller(last, first + part * 16 + 16); ++row)
            dequantize_row(*w, row, output + (row - first) * w->columns, w->columns);
    });
}

void gather(const chatglm_weight *w, const int64_t *ids, float *output, int64_t output_columns, int64_t tokens) {
    chatglm::parallel(tokens, [&](int64_t token, int) {
        dequantize_row(*w, ids[token], output + token * output_columns, output_columns);
    });
}

}  // namespace
