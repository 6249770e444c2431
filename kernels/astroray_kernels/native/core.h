// One attention call on AVX-512: pack a head's keys and values once, then tile after tile of rows.
//
// Scores are in log2 units: log2(e) and the scale go into Q. Keys are centered for integer scores
// (softmax does not see a shift of all scores), which also bounds the row maximum from below by 0.
// A frozen row maximum m makes every block independent: P = exp2(S - m), O += P V, l += sum P, no
// maximum, no rescaling. After the last block l certifies the row; a tile with a row that fails is
// done again by the online softmax.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "tiles.h"
#include "vfa.h"

namespace astroray {
namespace {

constexpr int kBlock = 64;  // keys of a packed block: four vectors of scores
constexpr int kSuper = 4;   // blocks that P is held for
constexpr int kSpan = kBlock * kSuper;
constexpr int kGroup = 16 * kRows;  // rows that share a span of keys while it is in the L2
constexpr int kMaxDim = 128;
constexpr float kMasked = -1e30f;  // added to the score of a key that takes no part
constexpr float kCoarse = 0.25f;   // error of 8-bit scores, powers of two, that is too much
constexpr float kLog2E = 1.4426950408889634f;

ASTRORAY_PRODUCT(MulFloat32, "vfmadd231ps")
ASTRORAY_PRODUCT(MulInt16, "vpdpwssd")
// The unsigned operand is the broadcast one, which the assembler takes second.
ASTRORAY_PRODUCT(MulInt8, "vpdpbusd")

inline __m512 load16(const void* p, int dtype, int64_t at) {
  if (dtype == kFloat32) return _mm512_loadu_ps(static_cast<const float*>(p) + at);
  const __m256i half =
      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(static_cast<const uint16_t*>(p) + at));
  if (dtype == kBfloat16)
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  return _mm512_cvtph_ps(half);
}

inline __m256i to_bfloat16(__m512 x) {  // half to even; NaN stays NaN
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16));
}

inline void store16(void* p, int dtype, int64_t at, __m512 x) {
  if (dtype == kFloat32) {
    _mm512_storeu_ps(static_cast<float*>(p) + at, x);
    return;
  }
  const __m256i half = dtype == kBfloat16 ? to_bfloat16(x) : _mm512_cvtps_ph(x, 0);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<uint16_t*>(p) + at), half);
}

// 2^t for any t: 0 far below, infinity far above, NaN for NaN. kDegree 3: relative error 9e-5.
template <int kDegree>
inline __m512 exp2_16(__m512 t) {
  const __m512 f = _mm512_reduce_ps(t, 1);  // t - floor(t), 0 for infinities
  __m512 p;
  if constexpr (kDegree == 3) {
    p = _mm512_set1_ps(0.077119089663028717f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.22756439447402954f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.69514614343643188f));
  } else {
    p = _mm512_set1_ps(1.86810153536498546600341796875e-3f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.01452265679836273193359375e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5802188813686370849609375e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.24016360938549041748046875f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693151414394378662109375f));
  }
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, t);
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
