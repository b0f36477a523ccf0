// Plain C++ for every other processor, and the readable oracle of the vector versions. 16 lanes, as the layout has rows.
#pragma once
#include <stdint.h>
#include <string.h>

#include <cmath>

#define CHATGLM_UNROLL(count)  // lanes are loops here; unrolling them all takes minutes to compile

namespace {

constexpr int lanes = 16;
constexpr int tile_tokens = 2, tile_vectors = 1;
constexpr int gemv_tile = 4, gemv_sums = 8;              // tokens a weight meets while in a register; integer sums
constexpr int attention_rows = 8, attention_vectors = 1;
constexpr int32_t int8_offset = 0;

struct Floats {
    float v[lanes];
};
struct Ints {
    int32_t v[lanes];
};
struct Bytes {
    int8_t v[lanes * 4];
};
using Partial = Ints;

template <class Function>
inline Floats each(Function function) {
    Floats out;
    for (int i = 0; i < lanes; ++i) out.v[i] = function(i);
    return out;
}

inline Floats load(const float *p) {
    return each([&](int i) { return p[i]; });
}
inline void store(float *p, const Floats &a) { memcpy(p, a.v, sizeof a.v); }
inline Floats set(float a) {
    return each([&](int) { return a; });
}
inline Floats add(const Floats &a, const Floats &b) {
    return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Floats sub(const Floats &a, const Floats &b) {
    return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Floats mul(const Floats &a, const Floats &b) {
    return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Floats div(const Floats &a, const Floats &b) {
    return each([&](int i) { return a.v[i] / b.v[i]; });
}
inline Floats fma(const Floats &a, const Floats &b, const Floats &c) {
    return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline Floats max(const Floats &a, const Floats &b) {
    return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats abs(const Floats &a) {
    return each([&](int i) { return fabsf(a.v[i]); });
}
inline Floats round(const Floats &a) {
    return each([&](int i) { return nearbyintf(a.v[i]); });
}
// C++ does not say what a number that is not finite becomes; here it is zero.
inline int32_t whole(float a) { return fabsf(a) < 1e9f ? static_cast<int32_t>(a) : 0; }
inline Floats power_of_two(const Floats &n) {
    return each([&](int i) {
        const uint32_t bits = static_cast<uint32_t>(whole(n.v[i]) + 127) << 23;
        float out;
        memcpy(&out, &bits, 4);
        return out;
    });
}
inline float sum(const Floats &a) {
    float total = 0;
    for (float x : a.v) total += x;
    return total;
}
inline float largest(const Floats &a) {
    float most = a.v[0];
    for (float x : a.v) most = x > most ? x : most;
    return most;
}
// Lane i of a where bit i is set, else of b.
inline Floats choose(uint32_t bits, const Floats &a, const Floats &b) {
    return each([&](int i) { return bits >> i & 1 ? a.v[i] : b.v[i]; });
}
inline Floats where_less(float t, const Floats &limit, const Floats &a, const Floats &b) {
    return each([&](int i) { return t < limit.v[i] ? a.v[i] : b.v[i]; });
}

inline float from_bits(uint32_t bits) {
    float out;
    memcpy(&out, &bits, 4);
    return out;
}
inline uint32_t to_bits(float value) {
    uint32_t out;
    memcpy(&out, &value, 4);
    return out;
}
// IEEE 754 binary16. Exponents are moved by a product with a power of two, which handles subnormal numbers as well.
inline float half_to_float(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const uint32_t rest = static_cast<uint32_t>(half & 0x7fff) << 13;
    const bool special = (half & 0x7c00) == 0x7c00;  // infinity, not a number
    const float value = special ? from_bits(rest | 0x7f800000) : from_bits(rest) * 0x1p112f;
    return from_bits(to_bits(value) | sign);
}
inline uint16_t float_to_half(float value) {
    const uint32_t bits = to_bits(value);
    const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
    const uint32_t size = bits & 0x7fffffff;
    if (size > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00);
    if (size >= 0x477ff000) return static_cast<uint16_t>(sign | 0x7c00);  // 65520 and more
    if (size < 0x38800000) {  // subnormal: units of 2^-24, rounded by adding a number whose last bit is that unit
        const float shifted = from_bits(size) + 0.5f;
        return static_cast<uint16_t>(sign | (to_bits(shifted) - to_bits(0.5f)));
    }
    const uint32_t rounded = size + 0xfff + ((size >> 13) & 1) - (112u << 23);
    return static_cast<uint16_t>(sign | (rounded >> 13));
}

inline Floats load_half(const uint16_t *p) {
    return each([&](int i) { return half_to_float(p[i]); });
}
inline void store_half(uint16_t *p, const Floats &a) {
    for (int i = 0; i < lanes; ++i) p[i] = float_to_half(a.v[i]);
}
inline Floats load_bfloat(const uint16_t *p) {
    return each([&](int i) { return from_bits(static_cast<uint32_t>(p[i]) << 16); });
}
inline Floats load_int8(const int8_t *p) {
    return each([&](int i) { return static_cast<float>(p[i]); });
}
inline Floats load_uint8(const uint8_t *p) {
    return each([&](int i) { return static_cast<float>(p[i]); });
}
inline int32_t store_int8(int8_t *p, const Floats &a) {
    int32_t total = 0;
    for (int i = 0; i < lanes; ++i) {
        p[i] = static_cast<int8_t>(whole(nearbyintf(a.v[i])));
        total += p[i];
    }
    return total;
}

inline Ints set_ints(int32_t a) {
    Ints out;
    for (int32_t &x : out.v) x = a;
    return out;
}
inline Floats to_floats(const Ints &a) {
    return each([&](int i) { return static_cast<float>(a.v[i]); });
}

// Of each 32-bit number: ((number >> shift) + plus) & mask.
inline Ints field(const void *p, int shift, int32_t plus, int32_t mask) {
    Ints out;
    for (int i = 0; i < lanes; ++i) {
        uint32_t raw;
        memcpy(&raw, static_cast<const char *>(p) + i * 4, 4);
        out.v[i] = (static_cast<int32_t>(raw >> shift) + plus) & mask;
    }
    return out;
}

inline Bytes load_bytes(const void *p) {
    Bytes out;
    memcpy(out.v, p, sizeof out.v);
    return out;
}
inline void store_bytes(void *p, const Bytes &a) { memcpy(p, a.v, sizeof a.v); }
inline Bytes low_nibbles(Bytes a) {
    for (int8_t &x : a.v) x = static_cast<int8_t>(x & 15);
    return a;
}
inline Bytes high_nibbles(Bytes a) {
    for (int8_t &x : a.v) x = static_cast<int8_t>((x >> 4) & 15);
    return a;
}
inline Bytes prepare8(const Bytes &a) { return a; }
inline Bytes spread(const int8_t *four) {
    Bytes out;
    for (int i = 0; i < lanes * 4; ++i) out.v[i] = four[i % 4];
    return out;
}

inline Ints dot8(Ints a, const Bytes &weight, const Bytes &x) {
    for (int i = 0; i < lanes; ++i)
        for (int j = 0; j < 4; ++j) a.v[i] += int32_t(weight.v[i * 4 + j]) * int32_t(x.v[i * 4 + j]);
    return a;
}
inline Partial start(int32_t correction) { return set_ints(correction); }
inline Partial dot4(const Partial &a, const Bytes &weight, const Bytes &x) { return dot8(a, weight, x); }
inline Ints finish(const Partial &a, int32_t) { return a; }

inline void prefetch(const void *) {}
inline void prefetch_early(const void *) {}

}  // namespace
