// Vectors of 8 floats: AVX2 with FMA and F16C; with VNNI at 256 bits where the compiler is told so.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#define CHATGLM_PRAGMA(text) _Pragma(#text)
#define CHATGLM_UNROLL(count) CHATGLM_PRAGMA(GCC unroll count)

namespace {

constexpr int lanes = 8;
constexpr int tile_tokens = 4, tile_vectors = 2;          // integer product: 8 sums in 16 registers
constexpr int gemv_tile = 4, gemv_sums = 8;              // tokens a weight meets while in a register; integer sums
constexpr int attention_rows = 4, attention_vectors = 3;  // attention product: 12 sums

using Floats = __m256;
using Ints = __m256i;
using Bytes = __m256i;
using Partial = __m256i;

inline Floats load(const float *p) { return _mm256_loadu_ps(p); }
inline void store(float *p, Floats a) { _mm256_storeu_ps(p, a); }
inline Floats set(float a) { return _mm256_set1_ps(a); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats div(Floats a, Floats b) { return _mm256_div_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats abs(Floats a) { return _mm256_andnot_ps(set(-0.0f), a); }
inline Floats round(Floats a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Floats power_of_two(Floats n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
inline float sum(Floats a) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
inline float largest(Floats a) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
// Lane i of a where bit i is set, else of b.
inline Floats choose(uint32_t bits, Floats a, Floats b) {
    const __m256i own = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i set_bits = _mm256_and_si256(_mm256_set1_epi32(static_cast<int32_t>(bits)), own);
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set_bits, own)));
}
inline Floats where_less(float t, Floats limit, Floats a, Floats b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(set(t), limit, _CMP_LT_OQ));
}

inline __m128i load_16(const void *p) { return _mm_loadu_si128(static_cast<const __m128i *>(p)); }
inline __m128i load_8(const void *p) { return _mm_loadl_epi64(static_cast<const __m128i *>(p)); }
inline Floats load_half(const uint16_t *p) { return _mm256_cvtph_ps(load_16(p)); }
inline void store_half(uint16_t *p, Floats a) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(p), _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats load_bfloat(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16(p)), 16));
}
inline Floats load_int8(const int8_t *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_8(p))); }
inline Floats load_uint8(const uint8_t *p) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_8(p))); }
inline int32_t sum_ints(__m256i a) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
}
inline int32_t store_int8(int8_t *p, Floats a) {
    const __m256i whole = _mm256_cvtps_epi32(a);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i *>(p), _mm_packs_epi16(words, words));
    return sum_ints(whole);
}

inline Ints set_ints(int32_t a) { return _mm256_set1_epi32(a); }
inline Ints add_ints(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline Floats to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }

// Of each 32-bit number: ((number >> shift) + plus) & mask.
inline Ints field(const void *p, int shift, int32_t plus, int32_t mask) {
    const __m256i raw = _mm256_loadu_si256(static_cast<const __m256i *>(p));
    const __m256i right = _mm256_srl_epi32(raw, _mm_cvtsi32_si128(shift));
    return _mm256_and_si256(_mm256_add_epi32(right, set_ints(plus)), set_ints(mask));
}

inline Bytes load_bytes(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
inline void store_bytes(void *p, Bytes a) { _mm256_storeu_si256(static_cast<__m256i *>(p), a); }
inline Bytes low_nibbles(Bytes a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
inline Bytes high_nibbles(Bytes a) { return _mm256_and_si256(_mm256_srli_epi16(a, 4), _mm256_set1_epi8(15)); }
inline Bytes spread(const int8_t *four) {
    int32_t bits;
    __builtin_memcpy(&bits, four, 4);
    return _mm256_set1_epi32(bits);
}

#if defined(CHATGLM_VNNI_256)
constexpr int32_t int8_offset = 128;
#if defined(__AVXVNNI__)
inline Ints dot_unsigned(Ints a, Bytes weight, Bytes x) { return _mm256_dpbusd_avx_epi32(a, weight, x); }
#else
inline Ints dot_unsigned(Ints a, Bytes weight, Bytes x) { return _mm256_dpbusd_epi32(a, weight, x); }
#endif
inline Bytes prepare8(Bytes a) { return _mm256_xor_si256(a, _mm256_set1_epi8(-128)); }
inline Partial start(int32_t correction) { return set_ints(correction); }
inline Partial dot4(Partial a, Bytes weight, Bytes x) { return dot_unsigned(a, weight, x); }
inline Ints finish(Partial a, int32_t) { return a; }
inline Ints dot8(Ints a, Bytes weight, Bytes x) { return dot_unsigned(a, weight, x); }
#else
constexpr int32_t int8_offset = 0;
// GCC sees plain additions here, puts them off, and holds 64 products in memory that 8 registers were meant to add up:
// half again as slow. With this it adds each when it is there.
inline __m256i added(__m256i a) {
    __asm__("" : "+x"(a));
    return a;
}
inline Bytes prepare8(Bytes a) { return a; }
// 16-bit sums hold a whole group of 32 columns: 8 times two products of at most 15 * 127.
inline Partial start(int32_t) { return _mm256_setzero_si256(); }
inline Partial dot4(Partial a, Bytes weight, Bytes x) {
    return added(_mm256_add_epi16(a, _mm256_maddubs_epi16(weight, x)));
}
inline Ints finish(Partial a, int32_t correction) {
    return add_ints(_mm256_madd_epi16(a, _mm256_set1_epi16(1)), set_ints(correction));
}
// The sign moves to the activation: |weight| is at most 128 and two products at most 2 * 128 * 127, which 16 bits hold.
inline Ints dot8(Ints a, Bytes weight, Bytes x) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(x, weight));
    return added(add_ints(a, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
}
#endif

// Into the first level of cache; into the second, for what is not needed soon.
inline void prefetch(const void *p) { _mm_prefetch(static_cast<const char *>(p), _MM_HINT_T0); }
inline void prefetch_early(const void *p) { _mm_prefetch(static_cast<const char *>(p), _MM_HINT_T1); }

}  // namespace
