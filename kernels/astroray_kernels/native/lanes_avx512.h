// The lanes of lanes.h in registers of AVX-512.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace astroray {
namespace {

struct Floats {  // [16]
  __m512 all;
  Floats() = default;
  Floats(__m512 x) : all(x) {}
  explicit Floats(float x) : all(_mm512_set1_ps(x)) {}
  operator __m512() const { return all; }
  static Floats load(const void* p) { return _mm512_loadu_ps(p); }
  void store(void* p) const { _mm512_storeu_ps(p, all); }
};

struct Ints {  // [16] of 32 bits
  __m512i all;
  Ints() = default;
  Ints(__m512i x) : all(x) {}
  explicit Ints(int32_t x) : all(_mm512_set1_epi32(x)) {}
  operator __m512i() const { return all; }
  static Ints load(const void* p) { return _mm512_loadu_si512(p); }
  void store(void* p) const { _mm512_storeu_si512(p, all); }
};

struct Doubles {  // [8]
  __m512d all;
  Doubles() = default;
  Doubles(__m512d x) : all(x) {}
  explicit Doubles(double x) : all(_mm512_set1_pd(x)) {}
  operator __m512d() const { return all; }
  static Doubles load(const double* p) { return _mm512_loadu_pd(p); }
  // The first `count` numbers, at most 8, and zeros.
  static Doubles load(const double* p, int64_t count) {
    return _mm512_maskz_loadu_pd(first(count), p);
  }
  static Doubles load(const float* p, int64_t count) {
    return _mm512_cvtps_pd(_mm256_maskz_loadu_ps(first(count), p));
  }
  void store(double* p) const { _mm512_storeu_pd(p, all); }

 private:
  static __mmask8 first(int64_t count) { return count >= 8 ? 0xff : (1 << count) - 1; }
};

inline Floats operator+(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats operator-(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats operator*(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats operator/(Floats a, Floats b) { return _mm512_div_ps(a, b); }
inline Floats root(Floats x) { return _mm512_sqrt_ps(x); }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats multiply_subtract(Floats a, Floats b, Floats c) { return _mm512_fmsub_ps(a, b, c); }
inline Floats subtract_product(Floats c, Floats a, Floats b) { return _mm512_fnmadd_ps(a, b, c); }
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }  // b where one is NaN
inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats abs(Floats x) { return _mm512_abs_ps(x); }
inline float sum(Floats x) { return _mm512_reduce_add_ps(x); }
inline float largest(Floats x) { return _mm512_reduce_max_ps(x); }

// A bit for each lane; false where a number is NaN, but for the last.
inline uint32_t at_least(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline uint32_t is_nan(Floats x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); }
inline Floats choose(uint32_t bits, Floats yes, Floats no) {
  return _mm512_mask_blend_ps(static_cast<__mmask16>(bits), no, yes);
}

inline Ints operator+(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline Ints operator&(Ints a, Ints b) { return _mm512_and_si512(a, b); }
inline Ints operator|(Ints a, Ints b) { return _mm512_or_si512(a, b); }
inline Ints operator<<(Ints a, int by) { return _mm512_slli_epi32(a, by); }
inline Ints operator>>(Ints a, int by) { return _mm512_srli_epi32(a, by); }  // of bits
inline Ints max(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
inline Ints min(Ints a, Ints b) { return _mm512_min_epi32(a, b); }
inline int32_t largest(Ints x) { return _mm512_reduce_max_epi32(x); }
inline int32_t sum(Ints x) { return _mm512_reduce_add_epi32(x); }
inline Ints rounded(Floats x) { return _mm512_cvtps_epi32(x); }  // half to even
inline Ints truncated(Floats x) { return _mm512_cvttps_epi32(x); }
inline Floats to_floats(Ints x) { return _mm512_cvtepi32_ps(x); }
inline Floats as_floats(Ints bits) { return _mm512_castsi512_ps(bits); }
inline Ints as_ints(Floats bits) { return _mm512_castps_si512(bits); }

// 16 numbers of 16 bits, in memory.
inline Ints load_halves(const void* p) {
  return _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
inline void store_low_halves(void* p, Ints x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(x));
}
inline void store_saturated(int16_t* p, Ints x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(x));
}
inline Floats load_float16(const void* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
}
inline void store_float16(void* p, Floats x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(x, 0));
}

// Numbers in memory of the lanes whose bit is set, zeros in the others; nothing beyond the last of them
// is read.
inline Floats load_lanes(const float* p, uint32_t bits) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>(bits), p);
}
inline __m256i load_half_lanes(const uint16_t* p, uint32_t bits) {
  return _mm256_maskz_loadu_epi16(static_cast<__mmask16>(bits), p);
}
inline Floats load_bfloat16(const uint16_t* p, uint32_t bits) {
  return as_floats(Ints(_mm512_cvtepu16_epi32(load_half_lanes(p, bits))) << 16);
}
inline Floats load_float16(const uint16_t* p, uint32_t bits) {
  return _mm512_cvtph_ps(load_half_lanes(p, bits));
}
// The first `count` numbers, at most 16, to memory.
inline void store_first(float* p, Floats x, int64_t count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(first_of_16(count)), x);
}
inline void store_first(uint16_t* p, Ints x, int64_t count) {  // their lower halves
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(first_of_16(count)), _mm512_cvtepi32_epi16(x));
}
// Numbers at the first `count` of 16 places, zeros beyond.
inline Floats gather(const float* p, const int32_t* places, int64_t count) {
  const __mmask16 first = static_cast<__mmask16>(first_of_16(count));
  const __m512i at = _mm512_maskz_loadu_epi32(first, places);
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), first, at, p, 4);
}

// Saturated to bytes, and a byte added to each: 16 numbers, or kPacked times 16.
constexpr int kPacked = 4;
inline void store_bytes(uint8_t* to, Ints x, int8_t offset) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm_add_epi8(_mm512_cvtsepi32_epi8(x), _mm_set1_epi8(offset)));
}
inline void store_bytes(uint8_t* to, const Ints* x, int8_t offset) {
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes =
      _mm512_packs_epi16(_mm512_packs_epi32(x[0], x[1]), _mm512_packs_epi32(x[2], x[3]));
  _mm512_storeu_si512(
      to, _mm512_add_epi8(_mm512_permutexvar_epi32(order, bytes), _mm512_set1_epi8(offset)));
}
// Of 64 bytes, each below 16, the values at those places.
inline Ints look_up(__m128i values, Ints places) {
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), places);
}

inline Doubles operator+(Doubles a, Doubles b) { return _mm512_add_pd(a, b); }
inline Doubles operator-(Doubles a, Doubles b) { return _mm512_sub_pd(a, b); }
inline Doubles operator*(Doubles a, Doubles b) { return _mm512_mul_pd(a, b); }
inline Doubles multiply_add(Doubles a, Doubles b, Doubles c) { return _mm512_fmadd_pd(a, b, c); }
inline Doubles subtract_product(Doubles c, Doubles a, Doubles b) {
  return _mm512_fnmadd_pd(a, b, c);
}
inline Doubles max(Doubles a, Doubles b) { return _mm512_max_pd(a, b); }
inline Doubles abs(Doubles x) { return _mm512_abs_pd(x); }
inline Doubles root(Doubles x) { return _mm512_sqrt_pd(x); }
inline double sum(Doubles x) { return _mm512_reduce_add_pd(x); }
inline double largest(Doubles x) { return _mm512_reduce_max_pd(x); }
inline Doubles lower(Floats x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
inline Doubles upper(Floats x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }

// Rounds to float32, writes the 8 numbers and gives them back.
inline Doubles store_floats(float* p, Doubles x) {
  const __m256 narrow = _mm512_cvtpd_ps(x);
  _mm256_storeu_ps(p, narrow);
  return _mm512_cvtps_pd(narrow);
}

// p 2^t for p in [1, 2) and the floor of t: 0 far below, infinity far above, NaN for NaN.
inline Floats scale_by_power(Floats p, Floats t) { return _mm512_scalef_ps(p, t); }
// t - floor(t), 0 for infinities.
inline Floats fraction(Floats t) { return _mm512_reduce_ps(t, 1); }

// Writes the transpose of 8 vectors of 8 numbers over them.
inline void transpose8(Doubles* r) {
  __m512d t[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm512_unpacklo_pd(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_pd(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    r[i] = _mm512_shuffle_f64x2(t[i], t[i + 2], 0x88);
    r[i + 2] = _mm512_shuffle_f64x2(t[i], t[i + 2], 0xdd);
    r[i + 4] = _mm512_shuffle_f64x2(t[i + 4], t[i + 6], 0x88);
    r[i + 6] = _mm512_shuffle_f64x2(t[i + 4], t[i + 6], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f64x2(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f64x2(r[i], r[i + 4], 0xdd);
  }
  for (int i = 0; i < 8; ++i) r[i] = t[i];
}

// Writes the transpose of 16 rows of 16 32-bit groups, `from` rows apart, to rows `to` apart.
inline void transpose16(const uint32_t* x, int64_t from, uint32_t* y, int64_t to) {
  __m512i r[16], t[16];
  for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(x + i * from);
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_storeu_si512(y + i * to, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
    _mm512_storeu_si512(y + (i + 8) * to, _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
    _mm512_storeu_si512(y + (i + 4) * to, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88));
    _mm512_storeu_si512(y + (i + 12) * to, _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd));
  }
}

}  // namespace
}  // namespace astroray
