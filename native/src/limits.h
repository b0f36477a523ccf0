// What the processor can do at most: products of registers with registers, nothing waited for.
#pragma once
#include "matmul.h"

namespace {

// Multiplies 8-bit numbers `rounds` times with all threads; how many products that were.
int64_t multiply_only(int64_t rounds) {
    constexpr int MR = tile_tokens, NV = tile_vectors, steps = 8;  // a tile, and a group of it
    constexpr int64_t parts = 64;
    alignas(64) static uint8_t sink[parts * 64];
    chatglm::parallel(parts, [&](int64_t part, int) {
        alignas(64) uint8_t numbers[(steps + MR + NV) * 64];
        for (int i = 0; i < (steps + MR + NV) * 64; ++i) numbers[i] = static_cast<uint8_t>((part + i) % 16);
        const uint8_t *from = numbers;
        Partial sums[MR][NV];
        for (auto &of_token : sums)
            for (Partial &one : of_token) one = start(0);
        for (int64_t round = 0; round < rounds; ++round) {
            asm volatile("" : "+r"(from));  // the compiler must not know that the numbers stay the same
            // In a loop of one step compilers move every sum to another register and back, and that would be measured.
            CHATGLM_UNROLL(8)
            for (int step = 0; step < steps; ++step)
                CHATGLM_UNROLL(8)
                for (int m = 0; m < MR; ++m)
                    CHATGLM_UNROLL(4)
                    for (int v = 0; v < NV; ++v)
                        sums[m][v] = dot4(sums[m][v], load_bytes(from + (step + v) * 64),
                                          load_bytes(from + (step + NV + m) * 64));
        }
        Floats all = set(0);
        for (auto &of_token : sums)
            for (Partial &one : of_token) all = add(all, to_floats(finish(one, 0)));
        alignas(64) float out[lanes];
        store(out, all);
        memcpy(sink + part * 64, out, sizeof(float));
    });
    return parts * rounds * steps * MR * NV * vector_bytes;
}

}  // namespace
