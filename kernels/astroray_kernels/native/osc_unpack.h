// Weights of 4 bits: one packed block of output channels becomes what its products take.
#pragma once
#include "core.h"
#include "osc.h"

namespace astroray {
namespace {

constexpr int64_t kStepBytes = 4 * kColumns;  // of a block, in a step

// The whole numbers that the codes 0 to 15 stand for.
inline __m128i whole_numbers(int kind) {
  return kind == kInt4 ? _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1)
                       : _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
}

// Nibbles to bytes [steps][kColumns][4].
inline void unpack_bytes(const Linear& call, int64_t column, int64_t steps, int8_t* panel) {
  const __m128i values = whole_numbers(call.kind);
  const Ints low(0x0f0f0f0f);
  const int8_t* from = call.weight + column * steps * (kStepBytes / 2);
  for (int64_t step = 0; step < steps; step += 2)
    for (int64_t i = 0; i < kStepBytes; i += 64, from += 64) {
      const Ints both = Ints::load(from);
      int8_t* to = panel + step * kStepBytes + i;
      look_up(values, both & low).store(to);
      look_up(values, both >> 4 & low).store(to + kStepBytes);
    }
}

#ifdef __AVX512F__

// The same as bfloat16. Twice, since the index of a word has
// five bits, the fifth of which is of the next nibble.
inline __m512i bfloat16_values(int kind) {
  const __m512 numbers = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(whole_numbers(kind)));
  const __m512i upper_half = _mm512_srli_epi32(_mm512_castps_si512(numbers), 16);
  return _mm512_broadcast_i64x4(_mm512_cvtepi32_epi16(upper_half));
}

// Pairs of bfloat16 times a number a pair. Products are exact, so that the lower half is cut off.
inline __m512i scale_pairs(__m512i pairs, __m512 by) {
  const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  const __m512 first = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  const __m512 second = _mm512_castsi512_ps(_mm512_and_si512(pairs, high));
  const __m512i low = _mm512_srli_epi32(_mm512_castps_si512(_mm512_mul_ps(first, by)), 16);
  return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_castps_si512(_mm512_mul_ps(second, by)));
}

// Nibbles to bfloat16 [2][steps][32][2], times the lower scales of E2M1.
template <bool kHasLower>
inline void unpack_numbers(const Linear& call, int64_t column, int64_t steps, int8_t* panel) {
  const __m512i table = bfloat16_values(call.kind);
  const int64_t per_group = call.num_in / call.num_groups, num_groups = 2 * steps / per_group;
  const int8_t* from = call.weight + column * steps * 64;
  for (int64_t half = 0; half < 2; ++half)
    for (int64_t step = 0; step < steps; step += 4)
      for (int64_t i = 0; i < 2; ++i, from += 64) {
        const __m512i words = _mm512_loadu_si512(from);
        const int64_t group = column * num_groups + 2 * step / per_group;
        __m512 lower{};
        if (kHasLower) lower = _mm512_loadu_ps(call.lower + group * 64 + 32 * half + 16 * i);
        int8_t* to = panel + (half * steps + step) * 128 + 64 * i;
        for (int j = 0; j < 4; ++j) {
          __m512i pairs = _mm512_permutexvar_epi16(_mm512_srli_epi16(words, 4 * j), table);
          if (kHasLower) pairs = scale_pairs(pairs, lower);
          _mm512_store_si512(to + 128 * j, pairs);
        }
      }
}

#endif

}  // namespace
}  // namespace astroray
