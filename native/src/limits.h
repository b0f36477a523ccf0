// What the processor can do at most: products of registers with registers, nothing waited for.
#pragma once
#include "matmul.h"

namespace {

// Multiplies 8-bit numbers `rounds` times with all threads; how many products that were.
int64_t multiply_only(int64_t rounds) {
    constexpr int chains = 12, steps = 8;  // as many sums as a tile has, as many steps as a group
    constexpr int64_t parts = 64;
    alignas(64) static uint8_t sink[parts * 64];
    chatglm::parallel(parts, [&](int64_t part, int) {
        alignas(64) uint8_t numbers[(steps + 3) * 64];
        for (int i = 0; i < (steps + 3) * 64; ++i) numbers[i] = static_cast<uint8_t>((part + i) % 16);
        Partial sums[chains];
        CHATGLM_UNROLL(12)
        for (int i = 0; i < chains; ++i) sums[i] = start(i);
        // In a loop of one step compilers move every sum to another register and back, which is what would be measured.
        for (int64_t round = 0; round < rounds; ++round)
            CHATGLM_UNROLL(8)
            for (int step = 0; step < steps; ++step) {
                const Bytes w = load_bytes(numbers + step * 64), x = load_bytes(numbers + (step + 3) * 64);
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
    return parts * rounds * steps * chains * vector_bytes;
}

}  // namespace
