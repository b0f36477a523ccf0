// A whole decoder layer in one call: what lies between the products costs a call and a pass over memory each otherwise.
#pragma once
#include <math.h>

#include "attention.h"
#include "limits.h"
#include "scores.h"

namespace {

// x / sqrt(mean(x^2) + eps) * weight (arXiv:1910.07467).
void normalize(const float *x, const float *weight, int64_t size, float eps, float *out) {
    Floats squares = set(0);
    for (int64_t i = 0; i < size; i += lanes) squares = fma(load(x + i), load(x + i), squares);
    const Floats scale = set(1.0f / sqrtf(sum(squares) / static_cast<float>(size) + eps));
    for (int64_t i = 0; i < size; i += lanes) store(out + i, mul(load(weight + i), mul(load(x + i), scale)));
}

// silu(gate) * up, with silu(x) = x / (1 + exp(-x)).
void gated(const float *gate, const float *up, int64_t size, float *out) {
    int64_t i = 0;
    for (; i + lanes <= size; i += lanes) {
        const Floats x = load(gate + i);
        const Floats least = max(set(-88.0f), x);  // e^88 is the last that fits
        store(out + i, mul(div(x, add(set(1), exponential(sub(set(0), least)))), load(up + i)));
    }
    for (; i < size; ++i) out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

// Turns the pairs (2i, 2i + 1) of the first rotary_dim channels of each head, in place.
void rotate(float *head, int64_t rotary_dim, const float *cosines, const float *sines) {
    for (int64_t i = 0; i < rotary_dim / 2; ++i) {
        const float even = head[2 * i], odd = head[2 * i + 1];
        head[2 * i] = even * cosines[i] - odd * sines[i];
        head[2 * i + 1] = odd * cosines[i] + even * sines[i];
    }
}

constexpr int64_t most_expanded = 256;  // tokens: beyond, unpacking weights once more costs 1 %

// stream += down(silu(gate(norm(stream))) * up(norm(stream)))
void feed_forward(const chatglm_layer &l, int64_t tokens, float *stream) {
    const int64_t up_size = l.up.rows, half = up_size / 2;
    float *expanded = chatglm::scratch(7, tokens * up_size);
    Activations x = quantize(tokens, l.hidden, l.up, 4, [&](int64_t token, float *row) {
        normalize(stream + token * l.hidden, l.mlp_norm, l.hidden, l.norm_eps, row);
        return static_cast<const float *>(row);
    });
    multiply(l.up, x, Target{expanded, up_size, false}, tokens);
    x = quantize(tokens, half, l.down, 4, [&](int64_t token, float *row) {
        gated(expanded + token * up_size, expanded + token * up_size + half, half, row);
        return static_cast<const float *>(row);
    });
    multiply(l.down, x, Target{stream, l.hidden, true}, tokens);
}

void layer_forward(const chatglm_layer *layer, const chatglm_cache *cache, const chatglm_batch *batch,
                   const float *cosines, const float *sines, float *stream) {
    const chatglm_layer &l = *layer;
    const int64_t tokens = batch->tokens, query_size = l.heads * l.head_dim, key_size = l.groups * l.head_dim;
    const int64_t mixed_size = query_size + 2 * key_size;
    if (tokens == 0) return;

    float *mixed = chatglm::scratch(7, tokens * mixed_size);
    Activations x = quantize(tokens, l.hidden, l.query_key_value, 4, [&](int64_t token, float *row) {
        normalize(stream + token * l.hidden, l.attention_norm, l.hidden, l.norm_eps, row);
        return static_cast<const float *>(row);
    });
    multiply(l.query_key_value, x, Target{mixed, mixed_size, false}, tokens);

    const int64_t step = 16;
    chatglm::parallel(divide_up(tokens, step), [&](int64_t part, int) {
        for (int64_t t = part * step; t < smaller(tokens, (part + 1) * step); ++t)
            for (int64_t h = 0; h < l.heads + l.groups; ++h)
                rotate(mixed + t * mixed_size + h * l.head_dim, l.rotary_dim, cosines + t * l.rotary_dim / 2,
                       sines + t * l.rotary_dim / 2);
    });
    const float *keys = mixed + query_size;
    write_cache(*cache, *batch, keys, keys + key_size, mixed_size);
    float *context = chatglm::scratch(8, tokens * query_size);
    attend(*cache, *batch, Queries{mixed, mixed_size, context, query_size, l.heads, l.scaling});

    x = quantize(tokens, query_size, l.dense, 4,
                 [&](int64_t token, float *) { return static_cast<const float *>(context + token * query_size); });
    multiply(l.dense, x, Target{stream, l.hidden, true}, tokens);

    // Some tokens at a time: the expanded states are most of the memory that a prompt takes.
    const int64_t slice = divide_up(tokens, divide_up(tokens, most_expanded));
    for (int64_t first = 0; first < tokens; first += slice)
        feed_forward(l, smaller(slice, tokens - first), stream + first * l.hidden);
}

const chatglm::Kernels this_level(const char *name) {
    return chatglm::Kernels{name, linear, dequantize, gather, attention, layer_forward, multiply_only, edit, highest};
}

}  // namespace
