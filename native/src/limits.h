// What the processor can do at most: products of registers with registers, nothing waited for.
#pragma once
#include "matmul.h"

namespace {

// Multiplies 8-bit numbers `rounds` times with all threads; how many products that were.
int64_t multiply_only(int64_t rounds) {
    constexpr int chains = 12;  // as many sums as a tile has
    constexpr int64_t parts = 64;
    alignas(64) static uint8_t sink[parts * 64];
    chatglm::parallel(parts, [&](int64_t part, int) {
        alignas(64) uint8_t weights[128], states[128];
        for (int i = 0; i < 128; ++i) weights[i] = static_cast<uint8_t>(i % 16), states[i] = static_cast<uint8_t>(part + i);
        const uint8_t *from = weights, *with = states;
        const int64_t count = rounds;
        asm volatile("" : "+r"(from), "+r"(with));  // the compiler must not know the numbers,
        Partial sums[chains];
        CHATGLM_UNROLL(12)
        for (int i = 0; i < chains; ++i) sums[i] = dot4(start(0), load_bytes(from + i), load_bytes(with));
        for (int64_t round = 0; round < count; ++round) {
            asm volatile("" : "+r"(from), "+r"(with));  // nor that they stay the same
            const Bytes w = load_bytes(from), x = load_bytes(with);
            CHATGLM_UNROLL(12)
            for (int i = 0; i < chains; ++i) sums[i] = dot4(sums[i], w, x);
        }
        Floats all = set(0);
        CHATGLM_UNROLL(12)
        for (int i = 0; i < chains; ++i) all = add(all, to_floats(finish(sums[i], 0)));
        alignas(64) float out[lanes];
        store(out, all);
        memcpy(sink + part * 64, out, sizeof(float));
    });
    return parts * rounds * chains * vector_bytes;
}

}  // namespace
