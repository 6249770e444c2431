// The lanes of lanes.h in pairs of registers of AVX2, with FMA and F16C.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace astroray {
namespace {

struct Floats {  // [16]
  __m256 low, high;
  Floats() = default;
  Floats(__m256 l, __m256 h) : low(l), high(h) {}
  explicit Floats(float x) : low(_mm256_set1_ps(x)), high(low) {}
  static Floats load(const void* p) {
    const float* x = static_cast<const float*>(p);
    return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)};
  }
  void store(void* p) const {
    _mm256_storeu_ps(static_cast<float*>(p), low);
    _mm256_storeu_ps(static_cast<float*>(p) + 8, high);
  }
};

struct Ints {  // [16] of 32 bits
  __m256i low, high;
  Ints() = default;
  Ints(__m256i l, __m256i h) : low(l), high(h) {}
  explicit Ints(int32_t x) : low(_mm256_set1_epi32(x)), high(low) {}
  static Ints load(const void* p) {
    const __m256i* x = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(x), _mm256_loadu_si256(x + 1)};
  }
  void store(void* p) const {
    _mm256_storeu_si256(static_cast<__m256i*>(p), low);
    _mm256_storeu_si256(static_cast<__m256i*>(p) + 1, high);
  }
};

// The lanes below `count` that a masked load reads: 8 words from 8 - count on.
alignas(64) constexpr int32_t kFirst[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
inline __m256i first8(int64_t count) {
  const int64_t most = count < 0 ? 0 : count > 8 ? 8 : count;
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kFirst + 8 - most));
}

// The lanes whose bit is set.
inline Ints lanes_of(uint32_t bits) {
  const __m256i all = _mm256_set1_epi32(static_cast<int>(bits));
  const __m256i low = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i high = _mm256_slli_epi32(low, 8);
  return {_mm256_cmpeq_epi32(_mm256_and_si256(all, low), low),
          _mm256_cmpeq_epi32(_mm256_and_si256(all, high), high)};
}

struct Doubles {  // [8]
  __m256d low, high;
  Doubles() = default;
  Doubles(__m256d l, __m256d h) : low(l), high(h) {}
  explicit Doubles(double x) : low(_mm256_set1_pd(x)), high(low) {}
  explicit Doubles(__m256 x)
      : low(_mm256_cvtps_pd(_mm256_castps256_ps128(x))),
        high(_mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))) {}
  static Doubles load(const double* p) { return {_mm256_loadu_pd(p), _mm256_loadu_pd(p + 4)}; }
  // The first `count` numbers, at most 8, and zeros.
  static Doubles load(const double* p, int64_t count) {
    const __m256i words = first8(count);
    const __m256i lower = _mm256_cvtepi32_epi64(_mm256_castsi256_si128(words));
    const __m256i upper = _mm256_cvtepi32_epi64(_mm256_extracti128_si256(words, 1));
    return {_mm256_maskload_pd(p, lower), _mm256_maskload_pd(p + 4, upper)};
  }
  static Doubles load(const float* p, int64_t count) {
    return Doubles(count >= 8 ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, first8(count)));
  }
  void store(double* p) const {
    _mm256_storeu_pd(p, low);
    _mm256_storeu_pd(p + 4, high);
  }
};

// One instruction for each half.
#define LANES_UNARY(TYPE, RESULT, NAME, CALL) \
  inline RESULT NAME(TYPE a) { return {CALL(a.low), CALL(a.high)}; }
#define LANES_BINARY(TYPE, NAME, CALL) \
  inline TYPE NAME(TYPE a, TYPE b) { return {CALL(a.low, b.low), CALL(a.high, b.high)}; }
#define LANES_TERNARY(TYPE, NAME, CALL)                                  \
  inline TYPE NAME(TYPE a, TYPE b, TYPE c) {                             \
    return {CALL(a.low, b.low, c.low), CALL(a.high, b.high, c.high)};    \
  }

LANES_BINARY(Floats, operator+, _mm256_add_ps)
LANES_BINARY(Floats, operator-, _mm256_sub_ps)
LANES_BINARY(Floats, operator*, _mm256_mul_ps)
LANES_BINARY(Floats, operator/, _mm256_div_ps)
LANES_UNARY(Floats, Floats, root, _mm256_sqrt_ps)
LANES_TERNARY(Floats, multiply_add, _mm256_fmadd_ps)
LANES_TERNARY(Floats, multiply_subtract, _mm256_fmsub_ps)
LANES_BINARY(Floats, max, _mm256_max_ps)  // b where one is NaN
LANES_BINARY(Floats, min, _mm256_min_ps)
LANES_BINARY(Ints, operator+, _mm256_add_epi32)
LANES_BINARY(Ints, operator&, _mm256_and_si256)
LANES_BINARY(Ints, operator|, _mm256_or_si256)
LANES_BINARY(Ints, max, _mm256_max_epi32)
LANES_BINARY(Ints, min, _mm256_min_epi32)
LANES_UNARY(Floats, Ints, rounded, _mm256_cvtps_epi32)  // half to even
LANES_UNARY(Floats, Ints, truncated, _mm256_cvttps_epi32)
LANES_UNARY(Ints, Floats, to_floats, _mm256_cvtepi32_ps)
LANES_UNARY(Ints, Floats, as_floats, _mm256_castsi256_ps)
LANES_UNARY(Floats, Ints, as_ints, _mm256_castps_si256)
LANES_BINARY(Doubles, operator+, _mm256_add_pd)
LANES_BINARY(Doubles, operator-, _mm256_sub_pd)
LANES_BINARY(Doubles, operator*, _mm256_mul_pd)
LANES_TERNARY(Doubles, multiply_add, _mm256_fmadd_pd)
LANES_BINARY(Doubles, max, _mm256_max_pd)
LANES_UNARY(Doubles, Doubles, root, _mm256_sqrt_pd)

inline Ints operator<<(Ints a, int by) {
  return {_mm256_slli_epi32(a.low, by), _mm256_slli_epi32(a.high, by)};
}
inline Ints operator>>(Ints a, int by) {  // of bits
  return {_mm256_srli_epi32(a.low, by), _mm256_srli_epi32(a.high, by)};
}
inline Floats subtract_product(Floats c, Floats a, Floats b) {
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
inline Doubles subtract_product(Doubles c, Doubles a, Doubles b) {
  return {_mm256_fnmadd_pd(a.low, b.low, c.low), _mm256_fnmadd_pd(a.high, b.high, c.high)};
}
inline Floats abs(Floats x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
inline Doubles abs(Doubles x) {
  const __m256d sign = _mm256_set1_pd(-0.0);
  return {_mm256_andnot_pd(sign, x.low), _mm256_andnot_pd(sign, x.high)};
}

// Halves upon halves, as AVX-512 reduces.
inline float sum(Floats x) {
  const __m256 eight = _mm256_add_ps(x.low, x.high);
  const __m128 four =
      _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float largest(Floats x) {
  const __m256 eight = _mm256_max_ps(x.low, x.high);
  const __m128 four =
      _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline int32_t sum(Ints x) {
  const __m256i eight = _mm256_add_epi32(x.low, x.high);
  __m128i four =
      _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
inline int32_t largest(Ints x) {
  const __m256i eight = _mm256_max_epi32(x.low, x.high);
  __m128i four =
      _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1)));
}
inline double sum(Doubles x) {
  const __m256d four = _mm256_add_pd(x.low, x.high);
  const __m128d two =
      _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
inline double largest(Doubles x) {
  const __m256d four = _mm256_max_pd(x.low, x.high);
  const __m128d two =
      _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_max_sd(two, _mm_unpackhi_pd(two, two)));
}

// A bit for each lane; false where a number is NaN, but for the last.
inline uint32_t signs(__m256 low, __m256 high) {
  return static_cast<uint32_t>(_mm256_movemask_ps(low)) |
         static_cast<uint32_t>(_mm256_movemask_ps(high)) << 8;
}
inline uint32_t at_least(Floats a, Floats b) {
  return signs(_mm256_cmp_ps(a.low, b.low, _CMP_GE_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_GE_OQ));
}
inline uint32_t is_nan(Floats x) {
  return signs(_mm256_cmp_ps(x.low, x.low, _CMP_UNORD_Q), _mm256_cmp_ps(x.high, x.high, _CMP_UNORD_Q));
}
inline Floats choose(uint32_t bits, Floats yes, Floats no) {
  const Floats chosen = as_floats(lanes_of(bits));
  return {_mm256_blendv_ps(no.low, yes.low, chosen.low),
          _mm256_blendv_ps(no.high, yes.high, chosen.high)};
}

// 16 numbers of 16 bits, in memory.
inline Ints load_halves(const void* p) {
  const __m128i* x = static_cast<const __m128i*>(p);
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128(x)), _mm256_cvtepu16_epi32(_mm_loadu_si128(x + 1))};
}
inline void store_packed(void* p, __m256i packed) {  // lanes of 128 bits were packed apart
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
inline void store_low_halves(void* p, Ints x) {
  const Ints low = x & Ints(0xffff);
  store_packed(p, _mm256_packus_epi32(low.low, low.high));
}
inline void store_saturated(int16_t* p, Ints x) {
  store_packed(p, _mm256_packs_epi32(x.low, x.high));
}
inline Floats load_float16(const void* p) {
  const __m128i* x = static_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(x)), _mm256_cvtph_ps(_mm_loadu_si128(x + 1))};
}
inline void store_float16(void* p, Floats x) {
  _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(x.low, 0));
  _mm_storeu_si128(static_cast<__m128i*>(p) + 1, _mm256_cvtps_ph(x.high, 0));
}

// Numbers in memory of the lanes whose bit is set, zeros in the others; nothing beyond the last of them
// is read.
inline Floats load_lanes(const float* p, uint32_t bits) {
  const Ints lanes = lanes_of(bits);
  return {_mm256_maskload_ps(p, lanes.low), _mm256_maskload_ps(p + 8, lanes.high)};
}
inline Floats keep_lanes(Floats x, uint32_t bits) {
  return as_floats(as_ints(x) & lanes_of(bits));
}
// 16 numbers that may be read in place of those at p, which are copied where the last is not wanted.
inline const uint16_t* readable(const uint16_t* p, uint32_t bits, uint16_t* copy) {
  if (bits >> 15) return p;
  for (int i = 0; i < 16; ++i) copy[i] = bits >> i ? p[i] : 0;
  return copy;
}
inline Floats load_bfloat16(const uint16_t* p, uint32_t bits) {
  alignas(32) uint16_t copy[16];
  return keep_lanes(as_floats(load_halves(readable(p, bits, copy)) << 16), bits);
}
inline Floats load_float16(const uint16_t* p, uint32_t bits) {
  alignas(32) uint16_t copy[16];
  return keep_lanes(load_float16(readable(p, bits, copy)), bits);
}
// The first `count` numbers, at most 16, to memory.
inline void store_first(float* p, Floats x, int64_t count) {
  if (count >= 16) return x.store(p);
  _mm256_maskstore_ps(p, first8(count), x.low);
  _mm256_maskstore_ps(p + 8, first8(count - 8), x.high);
}
inline void store_first(uint16_t* p, Ints x, int64_t count) {  // their lower halves
  if (count >= 16) return store_low_halves(p, x);
  alignas(32) uint16_t copy[16];
  store_low_halves(copy, x);
  for (int64_t i = 0; i < count; ++i) p[i] = copy[i];
}
// Numbers at the first `count` of 16 places, zeros beyond.
inline Floats gather(const float* p, const int32_t* places, int64_t count) {
  alignas(32) float found[16] = {};
  for (int64_t i = 0; i < 16 && i < count; ++i) found[i] = p[places[i]];
  return Floats::load(found);
}

// Saturated to bytes, and a byte added to each: 16 numbers, or kPacked times 16.
constexpr int kPacked = 2;
inline void store_bytes(uint8_t* to, Ints x, int8_t offset) {
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.low, x.high), 0xd8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_add_epi8(bytes, _mm_set1_epi8(offset)));
}
inline void store_bytes(uint8_t* to, const Ints* x, int8_t offset) {
  const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(x[0].low, x[0].high),
                                           _mm256_packs_epi32(x[1].low, x[1].high));
  const __m256i ordered =
      _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_add_epi8(ordered, _mm256_set1_epi8(offset)));
}
// Of 64 bytes, each below 16, the values at those places.
inline Ints look_up(__m128i values, Ints places) {
  const __m256i table = _mm256_broadcastsi128_si256(values);
  return {_mm256_shuffle_epi8(table, places.low), _mm256_shuffle_epi8(table, places.high)};
}

inline Doubles lower(Floats x) { return Doubles(x.low); }
inline Doubles upper(Floats x) { return Doubles(x.high); }

// Rounds to float32, writes the 8 numbers and gives them back.
inline Doubles store_floats(float* p, Doubles x) {
  const __m256 narrow = _mm256_set_m128(_mm256_cvtpd_ps(x.high), _mm256_cvtpd_ps(x.low));
  _mm256_storeu_ps(p, narrow);
  return Doubles(narrow);
}

// t - floor(t), 0 for infinities; the ends do what is beyond them to `scale_by_power`.
inline Floats within_powers(Floats t) { return min(Floats(128.0f), max(Floats(-127.0f), t)); }
inline Floats floor(Floats t) { return {_mm256_floor_ps(t.low), _mm256_floor_ps(t.high)}; }
inline Floats fraction(Floats t) {
  const Floats ended = within_powers(t);
  return ended - floor(ended);
}
// p 2^t for p in [1, 2) and the floor of t: 0 below 2^-126, infinity far above, NaN for NaN.
inline Floats scale_by_power(Floats p, Floats t) {
  const Ints power = rounded(floor(within_powers(t)));
  return p * as_floats((power + Ints(127)) << 23);
}

// Writes the transpose of 8 vectors of 8 numbers over them.
inline void transpose4(__m256d a, __m256d b, __m256d c, __m256d d, __m256d* to) {
  const __m256d ab0 = _mm256_unpacklo_pd(a, b), ab1 = _mm256_unpackhi_pd(a, b);
  const __m256d cd0 = _mm256_unpacklo_pd(c, d), cd1 = _mm256_unpackhi_pd(c, d);
  to[0] = _mm256_permute2f128_pd(ab0, cd0, 0x20);
  to[1] = _mm256_permute2f128_pd(ab1, cd1, 0x20);
  to[2] = _mm256_permute2f128_pd(ab0, cd0, 0x31);
  to[3] = _mm256_permute2f128_pd(ab1, cd1, 0x31);
}
inline void transpose8(Doubles* r) {
  __m256d t[16];  // [which half of the results][which half of it][4]
  transpose4(r[0].low, r[1].low, r[2].low, r[3].low, t);
  transpose4(r[4].low, r[5].low, r[6].low, r[7].low, t + 4);
  transpose4(r[0].high, r[1].high, r[2].high, r[3].high, t + 8);
  transpose4(r[4].high, r[5].high, r[6].high, r[7].high, t + 12);
  for (int i = 0; i < 4; ++i) {
    r[i] = {t[i], t[4 + i]};
    r[4 + i] = {t[8 + i], t[12 + i]};
  }
}

inline void transpose8x8(const uint32_t* x, int64_t from, uint32_t* y, int64_t to) {
  __m256i r[8], t[8];
  for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i * from));
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    r[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    __m256i* at = reinterpret_cast<__m256i*>(y + i * to);
    _mm256_storeu_si256(at, _mm256_permute2x128_si256(r[i], r[i + 4], 0x20));
    at = reinterpret_cast<__m256i*>(y + (i + 4) * to);
    _mm256_storeu_si256(at, _mm256_permute2x128_si256(r[i], r[i + 4], 0x31));
  }
}

// Writes the transpose of 16 rows of 16 32-bit groups, `from` rows apart, to rows `to` apart.
inline void transpose16(const uint32_t* x, int64_t from, uint32_t* y, int64_t to) {
  for (int i = 0; i < 16; i += 8)
    for (int j = 0; j < 16; j += 8) transpose8x8(x + i * from + j, from, y + j * to + i, to);
}

}  // namespace
}  // namespace astroray
