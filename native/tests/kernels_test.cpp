// The library's own tests: every instruction set this processor has against plain loops in double precision. Small
// shapes and exact sizes, so that a sanitizer sees every step beyond an array. Compiled and run by `run.py`.
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <new>
#include <thread>
#include <vector>

#include "../include/chatglm_native.h"
#include "../src/pool.h"

// Sanitizers end the program where memory runs out, unless told that somebody looks.
#define VISIBLE __attribute__((visibility("default")))
extern "C" VISIBLE const char *__asan_default_options() { return "allocator_may_return_null=1"; }
extern "C" VISIBLE const char *__tsan_default_options() { return "allocator_may_return_null=1"; }

namespace {

int failures = 0;

void check(bool right, const char *what, const char *detail, double seen = 0) {
    if (right) return;
    failures += 1;
    printf("FAILED %s: %s: %s (%g)\n", chatglm_level_name(chatglm_level()), what, detail, seen);
}

// ---------------------------------------------------------------------------------------------------------------------
// Random numbers and numbers as they are stored

uint64_t state = 1;
uint32_t random_bits() {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state >> 40);  // 24 bits; the lower ones repeat soon
}
float uniform() { return static_cast<float>(random_bits()) / (1 << 23) - 1.0f; }  // -1 to 1
std::vector<float> uniforms(int64_t count, float size = 1) {
    std::vector<float> out(static_cast<size_t>(count));
    for (float &x : out) x = size * uniform();
    return out;
}

double from_half(uint16_t half) {
    const int exponent = half >> 10 & 31, digits = half & 1023;
    const double size = exponent == 0 ? ldexp(digits, -24) : ldexp(1024 + digits, exponent - 25);
    return half & 0x8000 ? -size : size;
}
double from_bfloat(uint16_t stored) {
    const uint32_t bits = static_cast<uint32_t>(stored) << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

// ---------------------------------------------------------------------------------------------------------------------
// Weights

struct Weight {
    int64_t rows, columns, padded_rows, padded_columns, group_size;
    int bits;
    std::vector<uint8_t> values, zeros;
    std::vector<uint16_t> halves;
    std::vector<float> floats, bias;
    chatglm_weight c;

    // group_size 0: one scale a row.
    Weight(int64_t rows, int64_t columns, int bits, int64_t group, bool asymmetric, float size = 1)
        : rows(rows), columns(columns), bits(bits) {
        const int64_t step = group ? group : 32;
        padded_rows = (rows + 15) / 16 * 16;
        padded_columns = (columns + step - 1) / step * step;
        group_size = group ? group : padded_columns;
        const int64_t scales = padded_rows * (padded_columns / group_size);
        values.resize(static_cast<size_t>(padded_rows * padded_columns * bits / 8));
        for (uint8_t &v : values) v = static_cast<uint8_t>(random_bits());
        for (int64_t i = 0; i < scales; ++i) {
            halves.push_back(static_cast<uint16_t>(0x2000 + random_bits() % 0x400));  // about 0.01
            floats.push_back(0.01f * size * uniform());
            if (asymmetric) zeros.push_back(random_bits() % 16);
        }
        bias = uniforms(rows);
        c = {values.data(), group ? static_cast<void *>(halves.data()) : floats.data(), asymmetric ? zeros.data() : nullptr,
             bias.data(), rows, padded_columns, group_size, bits, group == 0};
    }

    double at(int64_t row, int64_t column) const {
        const int64_t block = row / 16, r = row % 16;
        const int64_t index = (block * (padded_columns / group_size) + column / group_size) * 16 + r;
        const double scale = c.row_scales ? floats[index] : from_half(halves[index]);
        if (bits == 8) {
            const int64_t place = ((block * padded_columns / 4 + column / 4) * 16 + r) * 4 + column % 4;
            return static_cast<int8_t>(values[place]) * scale;
        }
        const uint8_t byte = values[((block * padded_columns / 8 + column / 8) * 16 + r) * 4 + column % 4];
        const int zero = zeros.empty() ? 8 : zeros[index];
        return ((column % 8 < 4 ? byte & 15 : byte >> 4) - zero) * scale;
    }
};

// What the kernels make of activations: whole numbers from -127 to 127 in groups of 32, but for what outweighs the row.
std::vector<double> rounded(const float *row, int64_t count) {
    std::vector<double> out(static_cast<size_t>(count));
    double squares = 0;
    for (int64_t i = 0; i < count; ++i) squares += double(row[i]) * row[i];
    const double bound = sqrt(squares) * fmax(0.16, 6 / sqrt(double(count)));
    for (int64_t first = 0; first < count; first += 32) {
        const int64_t end = first + 32 < count ? first + 32 : count;
        float top = 0;
        for (int64_t i = first; i < end; ++i) top = fabs(row[i]) > bound ? top : fmaxf(top, fabsf(row[i]));
        for (int64_t i = first; i < end; ++i)
            out[i] = fabs(row[i]) > bound ? row[i] : top > 0 ? nearbyintf(row[i] * (127.0f / top)) * (top / 127.0f) : 0;
    }
    return out;
}

void test_linear(const Weight &w, int64_t tokens, bool with_outlier) {
    const int64_t stride = w.columns + 3;
    std::vector<float> input = uniforms(tokens * stride - 3), output(static_cast<size_t>(tokens * w.rows), NAN);
    if (with_outlier)
        for (int64_t t = 0; t < tokens; ++t) input[t * stride + w.columns / 2] *= 60;
    check(chatglm_linear(&w.c, input.data(), stride, w.columns, output.data(), tokens) == 0, "linear", "status");
    double error = 0, rounding = 0, size = 0;
    for (int64_t t = 0; t < tokens; ++t) {
        const std::vector<double> x = rounded(input.data() + t * stride, w.columns);
        for (int64_t row = 0; row < w.rows; ++row) {
            double exact = w.bias[row], expected = w.bias[row];
            for (int64_t k = 0; k < w.columns; ++k) {
                exact += w.at(row, k) * input[t * stride + k];
                expected += w.at(row, k) * x[k];
            }
            const double seen = output[t * w.rows + row];
            error += (seen - expected) * (seen - expected);
            rounding += (seen - exact) * (seen - exact);
            size += exact * exact;
        }
    }
    char shape[128];
    snprintf(shape, sizeof shape, "%d tokens, %d x %d, %d bits, groups of %d%s", int(tokens), int(w.rows), int(w.columns),
             w.bits, int(w.group_size), w.zeros.empty() ? "" : ", zeros");
    check(sqrt(error / size) < 2e-6, "linear", shape, sqrt(error / size));
    check(sqrt(rounding / size) < (with_outlier ? 1e-2 : 5e-3), "linear beside full activations", shape, sqrt(rounding / size));
}

void test_broken_rows() {
    const Weight w(19, 70, 4, 32, false);
    for (int64_t tokens : {2, 9, 40})
        for (float broken : {NAN, INFINITY, -INFINITY}) {
            std::vector<float> input = uniforms(tokens * 70), sound(static_cast<size_t>(tokens * 19)), output = sound;
            chatglm_linear(&w.c, input.data(), 70, 70, sound.data(), tokens);
            input[70 + 69] = broken;
            chatglm_linear(&w.c, input.data(), 70, 70, output.data(), tokens);
            for (int64_t i = 0; i < tokens * 19; ++i) {
                const bool poisoned = i / 19 == 1;
                check(poisoned ? isnan(output[i]) : output[i] == sound[i], "broken row", "poisons itself, nothing else", output[i]);
            }
        }
}

void test_small_things() {
    const Weight w(5, 33, 8, 0, false);
    std::vector<float> output(10, 7.0f), input(66, 0.0f);
    check(chatglm_linear(&w.c, nullptr, 0, 33, nullptr, 0) == 0, "linear", "no tokens");
    chatglm_linear(&w.c, input.data(), 33, 33, output.data(), 2);
    for (int i = 0; i < 10; ++i) check(output[i] == w.bias[i % 5], "linear", "zeros give the bias", output[i]);
    for (float &x : input) x = 1e-41f;
    chatglm_linear(&w.c, input.data(), 33, 33, output.data(), 2);
    for (int i = 0; i < 10; ++i) check(fabsf(output[i] - w.bias[i % 5]) < 1e-6f, "linear", "subnormal numbers", output[i]);
}

void test_numbers(const Weight &w) {
    std::vector<float> all(static_cast<size_t>(w.rows * w.padded_columns)), some(static_cast<size_t>(3 * w.columns));
    const int64_t ids[3] = {w.rows - 1, 0, w.rows / 2};
    chatglm_dequantize(&w.c, all.data(), 0, w.rows);
    chatglm_gather(&w.c, ids, some.data(), w.columns, 3);
    for (int64_t row = 0; row < w.rows; ++row)
        for (int64_t k = 0; k < w.columns; ++k)
            check(all[row * w.padded_columns + k] == static_cast<float>(w.at(row, k)), "dequantize", "exact", double(row));
    for (int64_t i = 0; i < 3; ++i)
        for (int64_t k = 0; k < w.columns; ++k)
            check(some[i * w.columns + k] == static_cast<float>(w.at(ids[i], k)), "gather", "exact", double(i));
}

// ---------------------------------------------------------------------------------------------------------------------
// Scores

void test_edit(int64_t size) {
    std::vector<float> scores = uniforms(2 * size, 8), wanted = scores;
    std::vector<uint32_t> seen(static_cast<size_t>((size + 31) / 32));
    for (uint32_t &bits : seen) bits = random_bits() << 8 ^ random_bits();
    scores[0] = wanted[0] = -INFINITY;
    const int64_t ids[3] = {size - 1, 0, size / 2};
    const float values[3] = {0.5f, 1.5f, -INFINITY}, penalty = 1.3f;
    for (int64_t i = 0; i < size; ++i)
        if (seen[i / 32] >> i % 32 & 1) wanted[i] = wanted[i] > 0 ? wanted[i] / penalty : wanted[i] * penalty;
    for (int64_t i = 0; i < 3; ++i) {
        wanted[ids[i]] += values[i];
        wanted[size + ids[i]] += values[i];
    }
    const chatglm_edit edits[2] = {{seen.data(), ids, values, 3, penalty, 0}, {nullptr, ids, values, 3, penalty, 0}};
    check(chatglm_edit_scores(scores.data(), size, edits, 2) == 0, "edit", "done");
    for (int64_t i = 0; i < 2 * size; ++i) check(scores[i] == wanted[i], "edit", "the same bits", double(i));
}

// Whole numbers, so that many are equal; row 1 has a NaN, row 2 nothing finite.
void test_highest(int64_t size, int64_t count) {
    const int64_t rows = 3;
    std::vector<float> scores = uniforms(rows * size, 4), kept(scores.size()), most(rows), sums(rows);
    for (float &x : scores) x = roundf(x);
    scores[size + size / 2] = NAN;
    for (int64_t i = 0; i < size; ++i) scores[2 * size + i] = -INFINITY;
    std::vector<float> logprobs(static_cast<size_t>(rows * count));
    std::vector<int64_t> ids(logprobs.size());
    const chatglm_highest out = {most.data(), sums.data(), logprobs.data(), ids.data(), kept.data()};
    check(chatglm_find_highest(scores.data(), size, rows, count, &out) == 0, "highest", "done");
    check(memcmp(kept.data(), scores.data(), scores.size() * sizeof(float)) == 0, "highest", "copy");
    double total = 0;
    for (int64_t i = 0; i < size; ++i) total += exp(static_cast<double>(scores[i]));
    std::vector<bool> taken(static_cast<size_t>(size));
    for (int64_t k = 0; k < count; ++k) {
        int64_t best = -1;
        for (int64_t i = 0; i < size; ++i)
            if (!taken[i] && (best < 0 || scores[i] > scores[best])) best = i;
        taken[best] = true;
        check(ids[k] == best, "highest", "of equals the lower id", double(k));
        check(fabs(logprobs[k] - (scores[best] - log(total))) < 2e-6, "highest", "value", logprobs[k]);
    }
    for (int64_t k = count; k < rows * count; ++k) {
        check(isnan(logprobs[k]), "highest", "nothing to tell", logprobs[k]);
        check(ids[k] >= 0 && ids[k] < size, "highest", "ids within the row", double(ids[k]));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Attention

struct Paged {
    int64_t groups, head_dim, block_size = 8, stride = 0, tokens = 0;
    int32_t dtype;
    std::vector<uint8_t> keys, values;
    std::vector<float> key_scales, value_scales;
    std::vector<int32_t> starts{0}, lengths, tables;
    std::vector<int64_t> slots;
    chatglm_cache cache;
    chatglm_batch batch;

    // `news` of the `lengths` tokens of each request are new; blocks are handed out in a scattered order.
    Paged(int64_t groups, int64_t head_dim, int32_t dtype, const std::vector<int32_t> &all, const std::vector<int32_t> &news)
        : groups(groups), head_dim(head_dim), dtype(dtype), lengths(all) {
        int64_t blocks = 0;
        for (int32_t length : lengths) {
            const int64_t needed = (length + block_size - 1) / block_size;
            stride = needed > stride ? needed : stride;
            blocks += needed;
        }
        const int64_t factor = blocks % 7 ? 7 : 11;  // has no factor in common with a number of blocks in these tests
        tables.assign(static_cast<size_t>(stride) * lengths.size(), -1);
        for (size_t r = 0, next = 0; r < lengths.size(); ++r) {
            for (int64_t i = 0; i * block_size < lengths[r]; ++i, ++next)
                tables[r * stride + i] = static_cast<int32_t>(int64_t(next) * factor % blocks);
            for (int32_t p = lengths[r] - news[r]; p < lengths[r]; ++p) slots.push_back(slot(r, p));
            starts.push_back(starts.back() + news[r]);
        }
        tokens = starts.back();
        const int64_t heads = blocks * block_size * groups;
        keys.resize(static_cast<size_t>(heads * head_dim * bytes()));
        values.resize(keys.size());
        if (dtype == CHATGLM_INT8) key_scales.resize(heads), value_scales.resize(heads);
        cache = {keys.data(), values.data(), key_scales.data(), value_scales.data(), groups, head_dim, dtype, int32_t(block_size)};
        batch = {tokens, int64_t(lengths.size()), starts.data(), lengths.data(), tables.data(), slots.data(), stride};
    }

    int64_t bytes() const { return dtype == CHATGLM_FLOAT32 ? 4 : dtype == CHATGLM_INT8 ? 1 : 2; }
    int64_t slot(int64_t request, int64_t position) const {
        return tables[request * stride + position / block_size] * block_size + position % block_size;
    }
    double read(bool value, int64_t slot, int64_t group, int64_t d) const {
        const int64_t head = slot * groups + group, index = head * head_dim + d;
        const uint8_t *p = (value ? values : keys).data() + index * bytes();
        uint16_t half;
        float wide;
        switch (dtype) {
            case CHATGLM_FLOAT32: memcpy(&wide, p, 4); return wide;
            case CHATGLM_INT8: return static_cast<int8_t>(*p) * double((value ? value_scales : key_scales)[head]);
            default: memcpy(&half, p, 2); return dtype == CHATGLM_FLOAT16 ? from_half(half) : from_bfloat(half);
        }
    }
    // Fill the cache through the kernels: every token of every request as if it were new.
    void fill() {
        Paged before(groups, head_dim, dtype, lengths, lengths);
        const int64_t size = before.tokens * groups * head_dim;
        std::vector<float> query = uniforms(size), key = uniforms(size, 3), value = uniforms(size), out(query.size());
        before.cache = cache;
        chatglm_attention(&before.cache, &before.batch, query.data(), key.data(), value.data(), out.data(), groups, 1);
    }
};

void test_attention(int64_t heads, Paged paged) {
    const int64_t size = paged.head_dim, groups = paged.groups, tokens = paged.tokens;
    const float scaling = 1.0f / sqrtf(static_cast<float>(size));
    paged.fill();
    const std::vector<float> query = uniforms(tokens * heads * size, 3), key = uniforms(tokens * groups * size, 3),
                             value = uniforms(tokens * groups * size);
    std::vector<float> output(query.size(), NAN);
    check(chatglm_attention(&paged.cache, &paged.batch, query.data(), key.data(), value.data(), output.data(), heads, scaling) == 0,
          "attention", "status");
    const double bounds[] = {1e-7, 1e-3, 8e-3, 1.2e-2};  // of what is stored, relative to the largest of a head
    double error = 0, stored = 0;
    for (size_t r = 0; r < paged.lengths.size(); ++r)
        for (int64_t t = paged.starts[r]; t < paged.starts[r + 1]; ++t) {
            const int64_t seen = paged.lengths[r] - (paged.starts[r + 1] - paged.starts[r]) + (t - paged.starts[r]) + 1;
            for (int64_t g = 0; g < groups; ++g)
                for (int64_t d = 0; d < size; ++d)
                    stored = fmax(stored, fabs(paged.read(false, paged.slots[t], g, d) - key[(t * groups + g) * size + d]) / 3);
            for (int64_t h = 0; h < heads; ++h) {
                const int64_t g = h / (heads / groups);
                std::vector<double> scores, sums(static_cast<size_t>(size));
                double top = -INFINITY, total = 0;
                for (int64_t p = 0; p < seen; ++p) {
                    double score = 0;
                    for (int64_t d = 0; d < size; ++d)
                        score += query[(t * heads + h) * size + d] * paged.read(false, paged.slot(r, p), g, d);
                    scores.push_back(score * scaling);
                    top = fmax(top, scores.back());
                }
                for (int64_t p = 0; p < seen; ++p) {
                    const double weight = exp(scores[p] - top);
                    total += weight;
                    for (int64_t d = 0; d < size; ++d) sums[d] += weight * paged.read(true, paged.slot(r, p), g, d);
                }
                for (int64_t d = 0; d < size; ++d) error = fmax(error, fabs(sums[d] / total - output[(t * heads + h) * size + d]));
            }
        }
    char shape[128];
    snprintf(shape, sizeof shape, "%d heads, %d groups of %d, dtype %d, %d requests, %d tokens", int(heads), int(groups),
             int(size), paged.dtype, int(paged.lengths.size()), int(tokens));
    check(error < 5e-6, "attention", shape, error);  // NaN is not less
    check(stored <= bounds[paged.dtype], "cache", shape, stored);
}

void test_attention_with_nan(int32_t dtype) {
    Paged paged(1, 16, dtype, {3, 5}, {2, 2});
    paged.fill();
    std::vector<float> query = uniforms(4 * 32), key = uniforms(4 * 16), value = uniforms(4 * 16), output(query.size());
    query[2 * 32 + 1] = NAN;  // the first new token of the second request, head 0
    key[1 * 16 + 3] = NAN;    // the last of the first
    chatglm_attention(&paged.cache, &paged.batch, query.data(), key.data(), value.data(), output.data(), 2, 0.3f);
    for (int64_t i = 0; i < 4 * 32; ++i) {
        const int64_t token = i / 32, head = i / 16 % 2;
        if (token == 0) continue;  // shares a tile with a value nobody sees; the values are finite here
        const bool poisoned = token == 1 || (token == 2 && head == 0);
        check(bool(isnan(output[i])) == poisoned, "attention", "NaN poisons who sees it", double(i));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Whole layers against their parts

void test_layer(int64_t tokens, float gate_size) {
    const int64_t hidden = 48, heads = 4, groups = 2, size = 16, inner = 40, rotary = 8;
    const Weight mixed((heads + 2 * groups) * size, hidden, 4, 32, false), dense(hidden, heads * size, 4, 32, true);
    const Weight up(2 * inner, hidden, 8, 0, false, gate_size), down(hidden, inner, 4, 64, false);
    const std::vector<float> norms[2] = {uniforms(hidden), uniforms(hidden)};
    const std::vector<float> angles = uniforms(tokens * rotary / 2, 3), stream = uniforms(tokens * hidden);
    std::vector<float> cosines, sines, expected = stream, seen = stream;
    for (float angle : angles) cosines.push_back(cosf(angle)), sines.push_back(sinf(angle));
    const chatglm_layer layer = {mixed.c, dense.c, up.c,  down.c, norms[0].data(), norms[1].data(), 1e-5f, int32_t(rotary),
                                 hidden,  heads,   groups, size,   0.25f};
    const chatglm_layer layers[2] = {layer, layer};
    Paged first(groups, size, CHATGLM_FLOAT32, {int32_t(tokens) + 5}, {int32_t(tokens)});
    first.fill();
    Paged second = first;
    second.cache.keys = second.keys.data(), second.cache.values = second.values.data();
    const chatglm_cache caches[2] = {first.cache, second.cache};
    chatglm_layers_forward(layers, caches, 2, &first.batch, cosines.data(), sines.data(), seen.data());

    auto normed = [&](const std::vector<float> &norm) {
        std::vector<float> out(expected.size());
        for (int64_t t = 0; t < tokens; ++t) {
            double squares = 0;
            for (int64_t i = 0; i < hidden; ++i) squares += double(expected[t * hidden + i]) * expected[t * hidden + i];
            for (int64_t i = 0; i < hidden; ++i)
                out[t * hidden + i] = float(expected[t * hidden + i] / sqrt(squares / hidden + 1e-5) * norm[i]);
        }
        return out;
    };
    auto apply = [&](const Weight &w, const std::vector<float> &x) {
        std::vector<float> out(static_cast<size_t>(tokens * w.rows));
        chatglm_linear(&w.c, x.data(), w.columns, w.columns, out.data(), tokens);
        return out;
    };
    for (const chatglm_cache &cache : caches) {
        const std::vector<float> projected = apply(mixed, normed(norms[0]));
        std::vector<float> parts[3], context(static_cast<size_t>(tokens * heads * size));
        for (int64_t t = 0; t < tokens; ++t)
            for (int64_t h = 0; h < heads + 2 * groups; ++h) {
                std::vector<float> &to = parts[h < heads ? 0 : h < heads + groups ? 1 : 2];
                const float *p = projected.data() + (t * (heads + 2 * groups) + h) * size;
                for (int64_t d = 0; d < size; ++d) {
                    const double c = d < rotary && h < heads + groups ? cosines[t * rotary / 2 + d / 2] : 1;
                    const double s = d < rotary && h < heads + groups ? sines[t * rotary / 2 + d / 2] : 0;
                    to.push_back(float(d % 2 ? p[d] * c + p[d - 1] * s : p[d] * c - p[d + 1 < size ? d + 1 : d] * s));
                }
            }
        chatglm_attention(&cache, &first.batch, parts[0].data(), parts[1].data(), parts[2].data(), context.data(), heads, 0.25f);
        const std::vector<float> attended = apply(dense, context);
        for (size_t i = 0; i < expected.size(); ++i) expected[i] += attended[i];
        const std::vector<float> expanded = apply(up, normed(norms[1]));
        std::vector<float> gated;
        for (int64_t t = 0; t < tokens; ++t)
            for (int64_t i = 0; i < inner; ++i) {
                const double gate = expanded[t * 2 * inner + i];
                gated.push_back(float(gate / (1 + exp(-gate)) * expanded[t * 2 * inner + inner + i]));
            }
        const std::vector<float> contracted = apply(down, gated);
        for (size_t i = 0; i < expected.size(); ++i) expected[i] += contracted[i];
    }
    double error = 0, total = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
        error += (double(seen[i]) - expected[i]) * (double(seen[i]) - expected[i]);
        total += double(expected[i]) * expected[i];
    }
    check(sqrt(error / total) < 2e-3, "layer", "equals its parts", sqrt(error / total));  // some activation rounds otherwise
}

// ---------------------------------------------------------------------------------------------------------------------
// Threads

std::vector<float> product(const Weight &w, const std::vector<float> &input) {
    const int64_t tokens = static_cast<int64_t>(input.size()) / w.columns;
    std::vector<float> out(static_cast<size_t>(tokens * w.rows));
    chatglm_linear(&w.c, input.data(), w.columns, w.columns, out.data(), tokens);
    return out;
}

void test_threads() {
    const Weight w(300, 64, 4, 32, false);
    const std::vector<float> few = uniforms(2 * 64), many = uniforms(40 * 64);
    const std::vector<float> expected_few = product(w, few), expected_many = product(w, many);
    for (int threads : {1, 3, 2, 4, 1, 2}) {
        check(chatglm_set_num_threads(threads) == 0 && chatglm_num_threads() == threads, "threads", "as many as wanted", threads);
        check(product(w, few) == expected_few && product(w, many) == expected_many, "threads", "same bits", threads);
    }
    check(chatglm_set_num_threads(0) == -1 && chatglm_set_num_threads(CHATGLM_MOST_THREADS + 1) == -1, "threads", "refused");
    std::vector<std::thread> callers;
    bool right[4] = {};
    for (bool &mine : right)
        callers.emplace_back([&] {
            mine = true;
            for (int i = 0; i < 20; ++i) mine = mine && product(w, i % 2 ? few : many) == (i % 2 ? expected_few : expected_many);
        });
    for (std::thread &caller : callers) caller.join();
    for (bool mine : right) check(mine, "threads", "callers take turns");
}

#if !defined(__SANITIZE_THREAD__)
void test_fork() {
    const Weight w(300, 64, 4, 32, false);
    const std::vector<float> input = uniforms(40 * 64), expected = product(w, input);
    std::vector<float> out(expected.size());
    std::atomic<bool> ending{false};
    std::thread busy([&] {  // without a call of malloc, whose lock a sanitizer leaves closed in a child
        while (!ending) chatglm_linear(&w.c, input.data(), 64, 64, out.data(), 40);
    });
    for (int i = 0; i < 5; ++i) {
        const pid_t child = fork();
        if (child == 0) {
            alarm(20);  // rather than wait for a lock for ever
            _exit(product(w, input) == expected ? 0 : 1);
        }
        int status = -1;
        waitpid(child, &status, 0);
        check(WIFEXITED(status) && WEXITSTATUS(status) == 0, "fork", "the child computes", status);
    }
    ending = true;
    busy.join();
    check(product(w, input) == expected, "fork", "the parent still computes");
}
#else
void test_fork() {}  // the thread sanitizer does not follow a child with threads
#endif

// What is asked for after memory has run out is there, in every slot that was to grow.
void test_memory_that_runs_out() {
    for (int slot : {10, 11}) {
        if (slot == 11) chatglm::scratch(slot, 1000);
        bool refused = false;
        try {
            chatglm::scratch(slot, int64_t{1} << 45);
        } catch (const std::bad_alloc &) {
            refused = true;
        }
        check(refused, "memory", "128 TiB are refused");
        float *smaller = chatglm::scratch(slot, 500);
        check(smaller != nullptr, "memory", "a smaller request afterwards is met");
        for (int i = 0; smaller != nullptr && i < 500; ++i) smaller[i] = 1;
    }
}

void test_level(bool forks) {
    state = 1;
    for (int64_t tokens : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 33, 70}) {
        const int64_t rows = 50 + tokens % 3 * 8, columns = 96 + tokens % 4;
        test_linear(Weight(rows, columns, 4, 32, false), tokens, false);
        test_linear(Weight(rows, columns, 4, 64, true), tokens, true);
        test_linear(Weight(rows, columns, 8, 0, false), tokens, true);
        test_linear(Weight(rows, columns, 4, 0, false), tokens, false);
        test_linear(Weight(rows, columns, 8, 128, false), tokens, false);
    }
    test_linear(Weight(70, 300, 4, 128, true), 40, true);  // several panels of columns
    test_linear(Weight(1, 1, 4, 32, false), 1, false);
    test_linear(Weight(9, 20, 8, 0, false), 900, false);  // several pieces of tokens
    test_broken_rows();
    test_small_things();
    test_numbers(Weight(37, 100, 4, 32, true));
    test_numbers(Weight(16, 64, 4, 0, false));
    test_numbers(Weight(5, 33, 8, 0, false));
    for (int64_t size : {1, 3, 16, 31, 33, 90, 128, 129, 1000, 9001}) {
        test_edit(size < 3 ? 3 : size);
        test_highest(size, 1);
        test_highest(size, size < CHATGLM_MOST_HIGHEST ? size : CHATGLM_MOST_HIGHEST);
    }
    for (int32_t dtype : {CHATGLM_FLOAT32, CHATGLM_FLOAT16, CHATGLM_BFLOAT16, CHATGLM_INT8}) {
        test_attention(8, Paged(2, 32, dtype, {1, 40, 9, 33}, {1, 1, 4, 33}));
        test_attention(2, Paged(2, 48, dtype, {65}, {20}));
        test_attention_with_nan(dtype);
    }
    test_attention(4, Paged(1, 16, CHATGLM_BFLOAT16, {1100, 1025, 2100}, {1, 3, 2}));  // in stretches
    test_layer(1, 1);
    test_layer(40, 1);
    test_layer(3, 1500);  // gates far beyond what e^x can hold
    test_threads();
    test_memory_that_runs_out();
    if (forks) test_fork();
    std::vector<uint64_t> words(100003, 3);
    check(chatglm_read(words.data(), 8 * 100003) == 3 * 100003, "read", "sum");
}

}  // namespace

// Any argument: no forks, which emulators do not know together with threads.
int main(int count, char **) {
    if (chatglm_abi() != CHATGLM_ABI || chatglm_sizeof("layer") != sizeof(chatglm_layer)) return 2;
    for (int32_t level = 0; level < chatglm_num_levels(); ++level) {
        if (!chatglm_level_available(level)) {
            printf("%s: not on this processor\n", chatglm_level_name(level));
            continue;
        }
        const int before = failures;
        chatglm_set_level(level);
        test_level(count == 1);
        printf("%s: %s\n", chatglm_level_name(level), failures == before ? "ok" : "FAILED");
        fflush(stdout);
    }
    return failures ? 1 : 0;
}
