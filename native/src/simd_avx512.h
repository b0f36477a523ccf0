// Vectors of 16 floats: AVX-512 with VNNI.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#define CHATGLM_PRAGMA(text) _Pragma(#text)
#define CHATGLM_UNROLL(count) CHATGLM_PRAGMA(GCC unroll count)

namespace {

constexpr int lanes = 16;
constexpr int tile_tokens = 4, tile_vectors = 3;         // integer product: 12 sums, twice (integers, floats)
constexpr int gemv_tile = 8, gemv_sums = 16;             // tokens a weight meets while in a register; integer sums
constexpr int attention_rows = 8, attention_vectors = 3;  // attention product: 24 sums
constexpr int32_t int8_offset = 128;                     // 8-bit weights are multiplied as unsigned numbers

using Floats = __m512;
using Ints = __m512i;
using Bytes = __m512i;
using Partial = __m512i;

inline Floats load(const float *p) { return _mm512_loadu_ps(p); }
inline void store(float *p, Floats a) { _mm512_storeu_ps(p, a); }
inline Floats set(float a) { return _mm512_set1_ps(a); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats abs(Floats a) { return _mm512_abs_ps(a); }
inline Floats round(Floats a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Floats power_of_two(Floats n) { return _mm512_scalef_ps(set(1), n); }
inline float sum(Floats a) { return _mm512_reduce_add_ps(a); }
inline float largest(Floats a) { return _mm512_reduce_max_ps(a); }
// a where t < limit, else b
// Lane i of a where bit i is set, else of b.
inline Floats choose(uint32_t bits, Floats a, Floats b) {
    return _mm512_mask_blend_ps(static_cast<__mmask16>(bits), b, a);
}
inline Floats where_less(float t, Floats limit, Floats a, Floats b) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(set(t), limit, _CMP_LT_OQ), b, a);
}

inline Floats load_half(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}
inline void store_half(uint16_t *p, Floats a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(p), _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats load_bfloat(const uint16_t *p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline Floats load_int8(const int8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
}
inline Floats load_uint8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p))));
}
// Wraps around, where _mm512_reduce_add_epi32 has no defined result.
inline int32_t sum_ints(__m512i a) {
    const __m256i wide = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}
// Rounds to whole numbers (ties to even) that fit 8 bits; gives their sum.
inline int32_t store_int8(int8_t *p, Floats a) {
    const __m512i whole = _mm512_cvtps_epi32(a);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm512_cvtepi32_epi8(whole));
    return sum_ints(whole);
}

inline Ints set_ints(int32_t a) { return _mm512_set1_epi32(a); }
inline Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }

// Of each 32-bit number: ((number >> shift) + plus) & mask.
inline Ints field(const void *p, int shift, int32_t plus, int32_t mask) {
    const __m512i right = _mm512_srl_epi32(_mm512_loadu_si512(p), _mm_cvtsi32_si128(shift));
    return _mm512_and_si512(_mm512_add_epi32(right, set_ints(plus)), set_ints(mask));
}

inline Bytes load_bytes(const void *p) { return _mm512_loadu_si512(p); }
inline void store_bytes(void *p, Bytes a) { _mm512_storeu_si512(p, a); }
inline Bytes low_nibbles(Bytes a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
inline Bytes high_nibbles(Bytes a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
inline Bytes prepare8(Bytes a) { return _mm512_xor_si512(a, _mm512_set1_epi8(-128)); }
inline Bytes spread(const int8_t *four) {
    int32_t bits;
    __builtin_memcpy(&bits, four, 4);
    return _mm512_set1_epi32(bits);
}

// Sums of products with 4-bit weights (0..15), over one group of 32 columns.
inline Partial start(int32_t correction) { return set_ints(correction); }
inline Partial dot4(Partial a, Bytes weight, Bytes x) { return _mm512_dpbusd_epi32(a, weight, x); }
inline Ints finish(Partial a, int32_t) { return a; }
// The same with weights from `prepare8`.
inline Ints dot8(Ints a, Bytes weight, Bytes x) { return _mm512_dpbusd_epi32(a, weight, x); }

// Into the first level of cache; into the second, for what is not needed soon.
inline void prefetch(const void *p) { _mm_prefetch(static_cast<const char *>(p), _MM_HINT_T0); }
inline void prefetch_early(const void *p) { _mm_prefetch(static_cast<const char *>(p), _MM_HINT_T1); }

}  // namespace
