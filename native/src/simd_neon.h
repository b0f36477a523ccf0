// Vectors of 4 floats: 64-bit ARM with the dot product instructions (ARMv8.2 and later).
#pragma once
#include <arm_neon.h>
#include <stdint.h>

#define CHATGLM_PRAGMA(text) _Pragma(#text)
#define CHATGLM_UNROLL(count) CHATGLM_PRAGMA(GCC unroll count)

namespace {

constexpr int lanes = 4;
constexpr int tile_tokens = 5, tile_vectors = 4;          // integer product: 20 sums in 32 registers
constexpr int gemv_tile = 8, gemv_sums = 16;             // tokens a weight meets while in a register; integer sums
constexpr int attention_rows = 8, attention_vectors = 2;  // attention product: 16 sums
constexpr int32_t int8_offset = 0;

using Floats = float32x4_t;
using Ints = int32x4_t;
using Bytes = int8x16_t;
using Partial = int32x4_t;

inline Floats load(const float *p) { return vld1q_f32(p); }
inline void store(float *p, Floats a) { vst1q_f32(p, a); }
inline Floats set(float a) { return vdupq_n_f32(a); }
inline Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
inline Floats sub(Floats a, Floats b) { return vsubq_f32(a, b); }
inline Floats mul(Floats a, Floats b) { return vmulq_f32(a, b); }
inline Floats div(Floats a, Floats b) { return vdivq_f32(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
inline Floats max(Floats a, Floats b) { return vmaxq_f32(a, b); }
inline Floats abs(Floats a) { return vabsq_f32(a); }
inline Floats round(Floats a) { return vrndnq_f32(a); }
inline Floats power_of_two(Floats n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
}
inline float sum(Floats a) { return vaddvq_f32(a); }
inline float largest(Floats a) { return vmaxvq_f32(a); }
// Lane i of a where bit i is set, else of b.
inline Floats choose(uint32_t bits, Floats a, Floats b) {
    const uint32x4_t own = {1, 2, 4, 8};
    return vbslq_f32(vtstq_u32(vdupq_n_u32(bits), own), a, b);
}
inline Floats where_less(float t, Floats limit, Floats a, Floats b) { return vbslq_f32(vcltq_f32(set(t), limit), a, b); }

inline Floats load_half(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
inline void store_half(uint16_t *p, Floats a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a))); }
inline Floats load_bfloat(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
inline Floats load_int8(const int8_t *p) {
    const float values[4] = {float(p[0]), float(p[1]), float(p[2]), float(p[3])};
    return vld1q_f32(values);
}
inline Floats load_uint8(const uint8_t *p) {
    const float values[4] = {float(p[0]), float(p[1]), float(p[2]), float(p[3])};
    return vld1q_f32(values);
}
inline int32_t store_int8(int8_t *p, Floats a) {
    const int32x4_t whole = vcvtnq_s32_f32(a);
    const int16x4_t words = vqmovn_s32(whole);
    const int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
    vst1_lane_s32(reinterpret_cast<int32_t *>(p), vreinterpret_s32_s8(bytes), 0);
    return vaddvq_s32(whole);
}

inline Ints set_ints(int32_t a) { return vdupq_n_s32(a); }
inline Ints add_ints(Ints a, Ints b) { return vaddq_s32(a, b); }
inline Floats to_floats(Ints a) { return vcvtq_f32_s32(a); }

// Of each 32-bit number: ((number >> shift) + plus) & mask.
inline Ints field(const void *p, int shift, int32_t plus, int32_t mask) {
    const uint32x4_t raw = vreinterpretq_u32_s8(vld1q_s8(static_cast<const int8_t *>(p)));
    const int32x4_t right = vreinterpretq_s32_u32(vshlq_u32(raw, vdupq_n_s32(-shift)));
    return vandq_s32(vaddq_s32(right, set_ints(plus)), set_ints(mask));
}

inline Bytes load_bytes(const void *p) { return vld1q_s8(static_cast<const int8_t *>(p)); }
inline void store_bytes(void *p, Bytes a) { vst1q_s8(static_cast<int8_t *>(p), a); }
inline Bytes low_nibbles(Bytes a) { return vandq_s8(a, vdupq_n_s8(15)); }
inline Bytes high_nibbles(Bytes a) { return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(a), 4)); }
inline Bytes prepare8(Bytes a) { return a; }
inline Bytes spread(const int8_t *four) {
    int32_t bits;
    __builtin_memcpy(&bits, four, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(bits));
}

inline Partial start(int32_t correction) { return set_ints(correction); }
inline Partial dot4(Partial a, Bytes weight, Bytes x) { return vdotq_s32(a, weight, x); }
inline Ints finish(Partial a, int32_t) { return a; }
inline Ints dot8(Ints a, Bytes weight, Bytes x) { return vdotq_s32(a, weight, x); }

// Into the first level of cache; into the second, for what is not needed soon.
inline void prefetch(const void *p) { __builtin_prefetch(p); }
inline void prefetch_early(const void *p) { __builtin_prefetch(p, 0, 2); }

}  // namespace
