// Attention over the paged cache, for pieces of prompts, drafts and single tokens alike.
//
// The query heads that share a key/value head are rows of one matrix: a row is (token, head). Everything is kept with
// rows as the fast dimension, so that keys and values are read as scalars, no sum runs across a vector, and the softmax
// of a row never leaves its lane. Keys and values are widened to float32 once for a tile of rows. The softmax is carried
// along (arXiv:2205.14135); long contexts are cut into stretches of fixed length, whatever the number of threads.
#pragma once
#include <utility>

#include "matmul.h"

namespace {

constexpr int tile_keys = 32;           // keys and values widened at a time
constexpr int64_t stretch = 1024;       // keys a part attends to, where there are few rows
constexpr int64_t few_tokens = 16;      // so many of a request: a token and its drafts, which must not change its bits
constexpr float never = -1e30f;         // a score nobody sees; finite, so that differences stay numbers

inline Floats exponential(Floats x) {
    // 2^n * e^r with |r| <= ln(2) / 2; polynomial of degree 6 (Taylor), relative error below 2e-7.
    x = max(set(-87.0f), x);  // in this order NaN passes
    const Floats n = round(mul(x, set(1.44269504f)));
    Floats r = fma(n, set(-0.693359375f), x);
    r = fma(n, set(2.12194440e-4f), r);
    Floats p = set(1.0f / 720);
    p = fma(p, r, set(1.0f / 120));
    p = fma(p, r, set(1.0f / 24));
    p = fma(p, r, set(1.0f / 6));
    p = fma(p, r, set(0.5f));
    p = fma(p, r, set(1));
    p = fma(p, r, set(1));
    return mul(p, power_of_two(n));
}

// result[MR channels][NV vectors of rows] = result * shrinks + values [tile_keys][MR of size]^T * weights [tile_keys][NV].
template <int MR, int NV>
inline void add_weighted(const float *values, int64_t size, const float *weights, const float *shrinks, float *result) {
    Floats sums[MR][NV];
CHATGLM_UNROLL(8)
    for (int m = 0; m < MR; ++m)
CHATGLM_UNROLL(4)
        for (int v = 0; v < NV; ++v) sums[m][v] = mul(load(result + (m * NV + v) * lanes), load(shrinks + v * lanes));
    for (int64_t k = 0; k < tile_keys; ++k) {
        Floats right[NV];
CHATGLM_UNROLL(4)
        for (int v = 0; v < NV; ++v) right[v] = load(weights + (k * NV + v) * lanes);
CHATGLM_UNROLL(8)
        for (int m = 0; m < MR; ++m) {
            const Floats left = set(values[k * size + m]);
CHATGLM_UNROLL(4)
            for (int v = 0; v < NV; ++v) sums[m][v] = fma(left, right[v], sums[m][v]);
        }
    }
CHATGLM_UNROLL(8)
    for (int m = 0; m < MR; ++m)
CHATGLM_UNROLL(4)
        for (int v = 0; v < NV; ++v) store(result + (m * NV + v) * lanes, sums[m][v]);
}

inline int bytes_of(int32_t dtype) { return dtype == CHATGLM_FLOAT32 ? 4 : dtype == CHATGLM_INT8 ? 1 : 2; }

// The vector of numbers at `offset` as float32.
template <int DTYPE>
inline Floats wide(const void *states, int64_t offset, float scale) {
    switch (DTYPE) {
        case CHATGLM_FLOAT16: return load_half(static_cast<const uint16_t *>(states) + offset);
        case CHATGLM_BFLOAT16: return load_bfloat(static_cast<const uint16_t *>(states) + offset);
        case CHATGLM_FLOAT32: return load(static_cast<const float *>(states) + offset);
        default: return mul(load_int8(static_cast<const int8_t *>(states) + offset), set(scale));
    }
}

// A key or value on its way into a tile: `size` numbers from `offset` on, and where the one comes from that will take its
// place. A head's keys are a few lines every other few lines: no stream that the processor would see coming.
struct Row {
    const void *states;
    int64_t offset, later;
    float scale;
    float *out;
};

template <int DTYPE>
inline void widen(const Row &row, int64_t size) {
    for (int64_t d = 0; d < size; d += lanes) store(row.out + d, wide<DTYPE>(row.states, row.offset + d, row.scale));
}

// scores[MR keys][NV vectors of rows] = keys [MR][size] * turned [size][NV vectors], and 2 * MR rows widened meanwhile:
// the multipliers have all to do here and nothing else has, and nobody waits for what comes from memory.
template <int DTYPE, int MR, int NV>
inline void score(const float *keys, const float *turned, int64_t size, float *scores, const Row (&rows)[2 * MR]) {
    static_assert(2 * MR % lanes == 0, "whole vectors are widened in a step");
    constexpr int each = 2 * MR / lanes;
    Floats sums[MR][NV];
CHATGLM_UNROLL(8)
    for (int m = 0; m < MR; ++m)
CHATGLM_UNROLL(4)
        for (int v = 0; v < NV; ++v) sums[m][v] = set(0);
    int64_t k = 0;
    for (const Row row : rows) {  // a copy, which no store can change
        for (int64_t d = 0; d < size; ++k) {
            Floats right[NV];
CHATGLM_UNROLL(4)
            for (int v = 0; v < NV; ++v) right[v] = load(turned + (k * NV + v) * lanes);
CHATGLM_UNROLL(8)
            for (int m = 0; m < MR; ++m) {
                const Floats left = set(keys[m * size + k]);
CHATGLM_UNROLL(4)
                for (int v = 0; v < NV; ++v) sums[m][v] = fma(left, right[v], sums[m][v]);
            }
CHATGLM_UNROLL(4)
            for (int i = 0; i < each; ++i, d += lanes) {
                if (d * bytes_of(DTYPE) % 64 == 0)
                    prefetch_early(static_cast<const char *>(row.states) + (row.later + d) * bytes_of(DTYPE));
                store(row.out + d, wide<DTYPE>(row.states, row.offset + d, row.scale));
            }
        }
    }
CHATGLM_UNROLL(8)
    for (int m = 0; m < MR; ++m)
CHATGLM_UNROLL(4)
        for (int v = 0; v < NV; ++v) store(scores + (m * NV + v) * lanes, sums[m][v]);
}

inline void store_bfloat(uint16_t *p, const float *values) {
    for (int i = 0; i < lanes; ++i) {
        uint32_t bits;
        memcpy(&bits, values + i, 4);
        const bool nan = (bits & 0x7fffffff) > 0x7f800000;
        p[i] = static_cast<uint16_t>(nan ? (bits >> 16) | 0x40 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
}

// The way back. INT8: round(x / scale) with scale = max|x| / 127 over the head.
inline void narrow(const chatglm_cache &cache, void *states, float *scales, int64_t index, const float *values) {
    const int64_t size = cache.head_dim, offset = index * size;
    float scale = 1;
    if (cache.dtype == CHATGLM_INT8) {
        Floats most = set(1e-12f), check = set(0);
        for (int64_t d = 0; d < size; d += lanes) {
            const Floats v = load(values + d);
            most = max(most, abs(v));
            check = fma(v, set(0), check);
        }
        scale = scales[index] = sum(check) == 0 ? largest(most) / 127.0f : __builtin_nanf("");
    }
    for (int64_t d = 0; d < size; d += lanes) {
        switch (cache.dtype) {
            case CHATGLM_FLOAT32: store(static_cast<float *>(states) + offset + d, load(values + d)); break;
            case CHATGLM_FLOAT16: store_half(static_cast<uint16_t *>(states) + offset + d, load(values + d)); break;
            case CHATGLM_BFLOAT16: store_bfloat(static_cast<uint16_t *>(states) + offset + d, values + d); break;
            default: store_int8(static_cast<int8_t *>(states) + offset + d, div(load(values + d), set(scale)));
        }
    }
}

// Where the queries of all tokens are, and the results go: [tokens][heads][head_dim], a token `stride` floats apart.
struct Queries {
    const float *query;
    int64_t query_stride;
    float *output;
    int64_t output_stride;
    int64_t heads;
    float scaling;
};

// Some rows of one request and group, and a stretch of its keys.
struct Part {
    int64_t request, group, first_row, rows, first_key, last_key;
    float *partial;  // NULL: the result is final; else [2 + head_dim][row vector]: maximum, sum, weighted values
};

template <int NV>
struct Rows {
    static constexpr int width = NV * lanes;
    const chatglm_cache &cache;
    const chatglm_batch &batch;
    const Queries &queries;
    float *turned, *keys, *next_keys, *values, *scores, *result, *most, *total, *limits, *shrinks;

    static int64_t floats(int64_t head_dim) {
        return 2 * head_dim * width + 3 * tile_keys * head_dim + tile_keys * width + 4 * width;
    }

    Rows(const chatglm_cache &cache, const chatglm_batch &batch, const Queries &queries, float *memory)
        : cache(cache), batch(batch), queries(queries) {
        const int64_t size = cache.head_dim;
        turned = memory;
        result = turned + size * width;
        keys = result + size * width;
        next_keys = keys + tile_keys * size;
        values = next_keys + tile_keys * size;
        scores = values + tile_keys * size;
        most = scores + tile_keys * width;
        total = most + width;
        limits = total + width;
        shrinks = limits + width;
    }

    int64_t heads_of_group() const { return queries.heads / cache.groups; }

    const float *query_of(const Part &part, int64_t row) const {
        const int64_t r = part.first_row + row, token = batch.query_starts[part.request] + r / heads_of_group();
        const int64_t head = part.group * heads_of_group() + r % heads_of_group();
        return queries.query + token * queries.query_stride + head * cache.head_dim;
    }

    void begin(const Part &part) {
        const int64_t size = cache.head_dim;
        const int64_t new_tokens = batch.query_starts[part.request + 1] - batch.query_starts[part.request];
        for (int64_t row = 0; row < width; ++row) {
            const bool there = row < part.rows;
            const float *query = there ? query_of(part, row) : nullptr;
            for (int64_t d = 0; d < size; ++d) turned[d * width + row] = there ? query[d] * queries.scaling : 0.0f;
            const int64_t token = (part.first_row + (there ? row : 0)) / heads_of_group();
            limits[row] = static_cast<float>(batch.lengths[part.request] - new_tokens + token + 1);
            most[row] = never;
            total[row] = 0;
        }
        memset(result, 0, static_cast<size_t>(size * width) * 4);
    }

    // Where the keys of a tile lie: slot and group as one number. Beyond the last key: that one again, for scores nobody
    // sees.
    void find(const Part &part, int64_t first, int64_t (&places)[tile_keys]) const {
        const int32_t *table = batch.block_tables + part.request * batch.table_stride;
        first = smaller(first, part.last_key - 1);
        const int64_t count = part.last_key - first;
        int64_t block = first / cache.block_size, slot = first % cache.block_size;
        for (int64_t i = 0; i < tile_keys; ++i) {
            if (i >= count) {
                places[i] = places[i - 1];
                continue;
            }
            places[i] = (table[block] * cache.block_size + slot) * cache.groups + part.group;
            if (++slot < cache.block_size) continue;
            slot = 0;
            block += 1;
        }
    }

    void expect(int64_t index) const {
        const int64_t bytes = cache.head_dim * bytes_of(cache.dtype), offset = index * bytes;
        for (int64_t i = 0; i < bytes; i += 64) {
            prefetch_early(static_cast<const char *>(cache.keys) + offset + i);
            prefetch_early(static_cast<const char *>(cache.values) + offset + i);
        }
    }

    // The key or value at a place, to be the i-th of a tile.
    Row row_at(int64_t place, int64_t later, const void *states, const float *scales, float *tile, int64_t i) const {
        const float scale = cache.dtype == CHATGLM_INT8 ? scales[place] : 1.0f;
        return {states, place * cache.head_dim, later * cache.head_dim, scale, tile + i * cache.head_dim};
    }

    // scores = exp(scores - most), most and total brought up to date; what the result so far shrinks by, in shrinks.
    void soften(int64_t first, int64_t count) {
        for (int v = 0; v < NV; ++v) {
            const Floats limit = load(limits + v * lanes), before = load(most + v * lanes);
            Floats top = before;
            for (int i = 0; i < tile_keys; ++i) {
                float *p = scores + i * width + v * lanes;
                const Floats seen = i < count ? where_less(static_cast<float>(first + i), limit, load(p), set(never)) : set(never);
                store(p, seen);
                top = max(top, seen);
            }
            Floats added = set(0);
            for (int i = 0; i < tile_keys; ++i) {
                float *p = scores + i * width + v * lanes;
                const Floats weight = exponential(sub(load(p), top));
                store(p, weight);
                added = add(added, weight);
            }
            const Floats shrink = exponential(sub(before, top));
            store(most + v * lanes, top);
            store(total + v * lanes, fma(load(total + v * lanes), shrink, added));
            store(shrinks + v * lanes, shrink);
        }
    }

    // Scores of a tile of keys; its values and the keys of the next tile are widened meanwhile.
    template <int DTYPE>
    void score_tile(const int64_t *places, const int64_t *next, const int64_t *later) {
        constexpr int MR = attention_rows;
        const int64_t size = cache.head_dim;
        for (int64_t i = 0; i < tile_keys; i += MR) {
            Row rows[2 * MR];
            for (int64_t m = 0; m < MR; ++m) {
                rows[m] = row_at(places[i + m], next[i + m], cache.values, cache.value_scales, values, i + m);
                rows[MR + m] = row_at(next[i + m], later[i + m], cache.keys, cache.key_scales, next_keys, i + m);
            }
            score<DTYPE, MR, NV>(keys + i * size, turned, size, scores + i * width, rows);
        }
        std::swap(keys, next_keys);
    }

    template <int DTYPE>
    void attend_as(const Part &part) {
        constexpr int MR = attention_rows;
        const int64_t size = cache.head_dim;
        int64_t places[3][tile_keys];  // of this tile, the next one, and the one after it; the last one again at the end
        for (int64_t i = 0; i < 3; ++i) find(part, part.first_key + i * tile_keys, places[i]);
        for (int64_t i = 0; i < 2 * tile_keys; ++i) expect(places[i / tile_keys][i % tile_keys]);
        begin(part);
        for (int64_t i = 0; i < tile_keys; ++i)
            widen<DTYPE>(row_at(places[0][i], 0, cache.keys, cache.key_scales, keys, i), size);
        for (int64_t first = part.first_key, tile = 0; first < part.last_key; first += tile_keys, ++tile) {
            const int64_t count = smaller(tile_keys, part.last_key - first);
            score_tile<DTYPE>(places[tile % 3], places[(tile + 1) % 3], places[(tile + 2) % 3]);
            find(part, first + 3 * tile_keys, places[tile % 3]);
            soften(first, count);
            for (int64_t d = 0; d < size; d += MR)
                add_weighted<MR, NV>(values + d, size, scores, shrinks, result + d * width);
        }
        finish_part(part);
    }

    void attend(const Part &part) {
        switch (cache.dtype) {
            case CHATGLM_FLOAT16: return attend_as<CHATGLM_FLOAT16>(part);
            case CHATGLM_BFLOAT16: return attend_as<CHATGLM_BFLOAT16>(part);
            case CHATGLM_FLOAT32: return attend_as<CHATGLM_FLOAT32>(part);
            default: return attend_as<CHATGLM_INT8>(part);
        }
    }

    void finish_part(const Part &part) const {
        const int64_t size = cache.head_dim;
        if (part.partial != nullptr) {
            memcpy(part.partial, most, static_cast<size_t>(width) * 4);
            memcpy(part.partial + width, total, static_cast<size_t>(width) * 4);
            memcpy(part.partial + 2 * width, result, static_cast<size_t>(size * width) * 4);
            return;
        }
        put(part, most, total, result);
    }

    void put(const Part &part, const float *, const float *totals, const float *weighted) const {
        for (int64_t row = 0; row < part.rows; ++row) {
            const int64_t r = part.first_row + row, token = batch.query_starts[part.request] + r / heads_of_group();
            const int64_t head = part.group * heads_of_group() + r % heads_of_group();
            float *out = queries.output + token * queries.output_stride + head * cache.head_dim;
            const float inverse = 1.0f / totals[row];
            for (int64_t d = 0; d < cache.head_dim; ++d) out[d] = weighted[d * width + row] * inverse;
        }
    }

    // Puts `count` stretches of the same rows together, in order.
    void merge(const Part &part, const float *partials, int64_t count) {
        const int64_t size = cache.head_dim, step = (2 + size) * width;
        memcpy(most, partials, static_cast<size_t>(width) * 4);
        memcpy(total, partials + width, static_cast<size_t>(width) * 4);
        memcpy(result, partials + 2 * width, static_cast<size_t>(size * width) * 4);
        for (int64_t i = 1; i < count; ++i)
            for (int v = 0; v < NV; ++v) {
                const float *other = partials + i * step + v * lanes;
                const Floats a = load(most + v * lanes), b = load(other), top = max(a, b);
                const Floats mine = exponential(sub(a, top)), theirs = exponential(sub(b, top));
                store(most + v * lanes, top);
                store(total + v * lanes, fma(load(total + v * lanes), mine, mul(load(other + width), theirs)));
                for (int64_t d = 0; d < size; ++d) {
                    float *p = result + d * width + v * lanes;
                    store(p, fma(load(p), mine, mul(load(other + (2 + d) * width), theirs)));
                }
            }
        put(part, most, total, result);
    }
};

// One request and group with NV vectors of rows at a time.
template <int NV>
void attend_as(const chatglm_cache &cache, const chatglm_batch &batch, const Queries &queries, const Part &whole,
               int thread) {
    Rows<NV> rows(cache, batch, queries, chatglm::thread_scratch(thread, 5, Rows<NV>::floats(cache.head_dim)));
    rows.attend(whole);
}

template <int NV>
void merge_as(const chatglm_cache &cache, const chatglm_batch &batch, const Queries &queries, const Part &whole,
              const float *partials, int64_t count) {
    Rows<NV> rows(cache, batch, queries, chatglm::thread_scratch(0, 5, Rows<NV>::floats(cache.head_dim)));
    rows.merge(whole, partials, count);
}

inline int vectors_for(int64_t rows) {
    const int64_t needed = rows == 0 ? 1 : divide_up(rows, lanes);  // of a request with nothing new too: it divides
    return static_cast<int>(smaller(needed, attention_vectors));
}

#define CHATGLM_BY_VECTORS(count, call)                                        \
    switch (count) {                                                           \
        case 1: call(1); break;                                                \
        case 2: call((attention_vectors >= 2 ? 2 : 1)); break;                 \
        default: call((attention_vectors >= 3 ? 3 : attention_vectors)); break; \
    }

// The parts of a step: rows of one request and group in tiles; where a request has few tokens, its keys in stretches.
// How a row's sum is cut must not depend on the rows beside it: an answer is the same with drafts and without.
struct Plan {
    const chatglm_batch &batch;
    int64_t heads_of_group, groups, head_dim;

    int64_t rows(int64_t request) const {
        return (batch.query_starts[request + 1] - batch.query_starts[request]) * heads_of_group;
    }
    int64_t width(int64_t request) const { return int64_t{vectors_for(rows(request))} * lanes; }
    int64_t tiles(int64_t request) const { return divide_up(rows(request), width(request)); }
    int64_t stretches(int64_t request) const {
        const bool few = tiles(request) == 1 || rows(request) <= few_tokens * heads_of_group;
        return few ? divide_up(batch.lengths[request], stretch) : 1;
    }
    int64_t parts(int64_t request) const { return rows(request) == 0 ? 0 : groups * tiles(request) * stretches(request); }
    int64_t partial_floats(int64_t request) const {
        return stretches(request) == 1 ? 0 : parts(request) * (2 + head_dim) * width(request);
    }

    // The groups of a stretch come one after the other: their keys share lines and pages.
    Part part(int64_t request, int64_t index, float *partials) const {
        const int64_t pieces = stretches(request), piece = index / groups % pieces, tile = index / groups / pieces;
        Part p;
        p.request = request;
        p.group = index % groups;
        p.first_row = tile * width(request);
        p.rows = smaller(width(request), rows(request) - p.first_row);
        const int64_t new_tokens = rows(request) / heads_of_group;
        // The last row of the tile sees the most.
        const int64_t seen = batch.lengths[request] - new_tokens + (p.first_row + p.rows - 1) / heads_of_group + 1;
        p.first_key = pieces == 1 ? 0 : piece * stretch;
        p.last_key = pieces == 1 ? seen : smaller(seen, p.first_key + stretch);
        const int64_t place = (tile * groups + p.group) * pieces + piece;
        p.partial = pieces == 1 ? nullptr : partials + place * (2 + head_dim) * width(request);
        return p;
    }
};

// The parts of a request and their partial results come behind those of the requests before it.
struct Begin {
    int64_t part, partial;
};

void attend(const chatglm_cache &cache, const chatglm_batch &batch, const Queries &queries) {
    const Plan plan{batch, queries.heads / cache.groups, cache.groups, cache.head_dim};
    Begin *const begins = reinterpret_cast<Begin *>(chatglm::scratch(9, 4 * batch.requests + 1));
    Begin end{0, 0};
    for (int64_t r = 0; r < batch.requests; ++r) {
        begins[r] = end;
        end = {end.part + plan.parts(r), end.partial + plan.partial_floats(r)};
    }
    float *partials = chatglm::scratch(6, end.partial + 1);
    chatglm::parallel(end.part, [&](int64_t index, int thread) {
        int64_t request = 0;  // the last one that begins at or before this part: one without tokens has no parts
        for (int64_t after = batch.requests; after - request > 1;) {
            const int64_t middle = (request + after) / 2;
            (begins[middle].part <= index ? request : after) = middle;
        }
        const Part part = plan.part(request, index - begins[request].part, partials + begins[request].partial);
#define CHATGLM_ATTEND(NV) attend_as<NV>(cache, batch, queries, part, thread)
        CHATGLM_BY_VECTORS(vectors_for(plan.rows(request)), CHATGLM_ATTEND)
#undef CHATGLM_ATTEND
    });
    for (int64_t r = 0; r < batch.requests; ++r) {
        const int64_t count = plan.stretches(r);
        for (int64_t i = 0; count > 1 && i < plan.tiles(r) * plan.groups; ++i) {
            const int64_t first = i / plan.groups * count * plan.groups + i % plan.groups;  // the first stretch of a tile
            const Part part = plan.part(r, first, partials + begins[r].partial);
#define CHATGLM_MERGE(NV) merge_as<NV>(cache, batch, queries, part, part.partial, count)
            CHATGLM_BY_VECTORS(vectors_for(plan.rows(r)), CHATGLM_MERGE)
#undef CHATGLM_MERGE
        }
    }
}

// Keys and values of all tokens, `stride` floats apart, into the cache.
void write_cache(const chatglm_cache &cache, const chatglm_batch &batch, const float *key, const float *value,
                 int64_t stride) {
    const int64_t step = 16;
    chatglm::parallel(divide_up(batch.tokens, step), [&](int64_t part, int) {
        for (int64_t t = part * step; t < smaller(batch.tokens, (part + 1) * step); ++t)
            for (int64_t g = 0; g < cache.groups; ++g) {
                const int64_t index = batch.slots[t] * cache.groups + g;
                narrow(cache, cache.keys, cache.key_scales, index, key + t * stride + g * cache.head_dim);
                narrow(cache, cache.values, cache.value_scales, index, value + t * stride + g * cache.head_dim);
            }
    });
}

void attention(const chatglm_cache *cache, const chatglm_batch *batch, const float *query, const float *key,
               const float *value, float *output, int64_t heads, float scaling) {
    write_cache(*cache, *batch, key, value, cache->groups * cache->head_dim);
    attend(*cache, *batch, Queries{query, heads * cache->head_dim, output, heads * cache->head_dim, heads, scaling});
}

}  // namespace
