// Activations, token by token: outlier channels are gathered and left out, the rest gets scales and
// codes. Bit for bit what osc/reference.py says.
#pragma once
#include <cstring>

#include "core.h"
#include "osc.h"

namespace astroray {
namespace {

constexpr uint32_t kInfinity = 0x7f800000, kMagnitude = 0x7fffffff;
constexpr float kZeroBelow = 0x1p-100f;

// Codes are stored with this added, so that they are unsigned.
constexpr int offset_of(int kind) { return kind == kInt8 ? 128 : 16; }

// A scale, what numbers are multiplied with before they are rounded, and the scale over the upper one.
struct Step {
  float scale, inverse, lower = 1.0f;
};

inline Step integer_step(float top, float largest) {
  if (top < kZeroBelow) return {1.0f, 0.0f};
  return {top / largest, largest / top};
}

// The smallest power of two, 2^-127 to 2^127, with top <= 6 of them.
inline Step power_step(float top) {
  if (top == 0.0f) return {1.0f, 1.0f};
  uint32_t bits;
  memcpy(&bits, &top, 4);
  int exponent = static_cast<int>(bits >> 23) - 129 + ((bits & 0x7fffff) > 0x400000);
  if (exponent < -127) exponent = -127;
  const float scale = _mm_cvtss_f32(_mm_scalef_ss(_mm_set_ss(1.0f), _mm_set_ss(exponent)));
  return {scale, _mm_cvtss_f32(_mm_scalef_ss(_mm_set_ss(1.0f), _mm_set_ss(-exponent)))};
}

// The scale of all numbers of a token over the largest E4M3 number, of which those of its groups are
// multiples.
inline float upper_scale(float top) { return top < kZeroBelow ? 1.0f : top / 2688.0f; }

// An E4M3 number, 2^-9 to 448, times the upper scale: the number is the one next to top / 6 over it,
// ties to even.
inline Step two_level_step(float top, float upper) {
  if (top < kZeroBelow) return {upper, 0.0f};
  float wanted = top / 6.0f / upper;
  wanted = wanted < 0x1p-9f ? 0x1p-9f : wanted > 448.0f ? 448.0f : wanted;
  uint32_t bits;
  memcpy(&bits, &wanted, 4);
  int exponent = static_cast<int>(bits >> 23) - 127;
  if (exponent < -6) exponent = -6;
  const __m128 step = _mm_scalef_ss(_mm_set_ss(1.0f), _mm_set_ss(exponent - 3));
  const __m128 steps = _mm_div_ss(_mm_set_ss(wanted), step);
  const float whole = static_cast<float>(_mm_cvtss_si32(steps));
  const float scale = whole * _mm_cvtss_f32(step) * upper;
  return {scale, 1.0f / scale, whole * _mm_cvtss_f32(step)};
}

// of a group whose largest magnitude is top
template <int kKind>
inline Step step_of(float top, float upper) {
  if constexpr (kKind == kNvE2m1) return two_level_step(top, upper);
  if constexpr (kKind != kE2m1) return integer_step(top, kKind == kInt8 ? 127 : 7);
  Step step = power_step(top);
  step.lower = step.scale / upper;
  return step;
}

// Of 16 numbers those in the mask; 0 for the others.
inline __m512 load_masked(const void* x, int dtype, int64_t at, __mmask16 in) {
  if (dtype == kFloat32) return _mm512_maskz_loadu_ps(in, static_cast<const float*>(x) + at);
  const __m256i half = _mm256_maskz_loadu_epi16(in, static_cast<const uint16_t*>(x) + at);
  if (dtype == kBfloat16)
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  return _mm512_cvtph_ps(half);
}

inline __mmask16 first_of_16(int64_t count) { return count >= 16 ? 0xffff : (1u << count) - 1; }

// 16 kept channels of a token; 0 for the others.
inline __m512 load_kept(const Linear& call, int64_t row_at, int64_t chunk) {
  return load_masked(call.x, call.dtype, row_at + 16 * chunk, call.kept[chunk]);
}

// The total of 64 sums, folded by halves.
inline float fold(const __m512* sum) {
  const __m512 all =
      _mm512_add_ps(_mm512_add_ps(sum[0], sum[2]), _mm512_add_ps(sum[1], sum[3]));
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

// A token after its norm, float32 [K64], in the order of sums that osc/norms.py has.
inline void normalize_token(const Linear& call, int64_t token, float* row) {
  const int64_t count = (call.num_in + 63) / 64 * 4;
  const __m512 num_in = _mm512_set1_ps(static_cast<float>(call.num_in));
  const auto in = [&](int64_t i) {
    const int64_t left = call.num_in - 16 * i;
    return left > 0 ? first_of_16(left) : static_cast<__mmask16>(0);
  };
  __m512 sum[4] = {}, squares[4] = {};
  for (int64_t i = 0; i < count; i += 4)
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t at = 16 * (i + j);
      const __m512 x = load_masked(call.x, call.dtype, token * call.stride + at, in(i + j));
      _mm512_store_ps(row + at, x);
      sum[j] = _mm512_add_ps(sum[j], x);
    }
  __m512 mean = _mm512_setzero_ps();
  if (call.norm_centers) mean = _mm512_div_ps(_mm512_set1_ps(fold(sum)), num_in);
  for (int64_t i = 0; i < count; i += 4)
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t at = 16 * (i + j);
      const __m512 x = _mm512_maskz_sub_ps(in(i + j), _mm512_load_ps(row + at), mean);
      _mm512_store_ps(row + at, x);
      squares[j] = _mm512_add_ps(squares[j], _mm512_mul_ps(x, x));
    }
  const __m512 spread = _mm512_add_ps(_mm512_div_ps(_mm512_set1_ps(fold(squares)), num_in),
                                      _mm512_set1_ps(call.norm_epsilon));
  const __m512 by = _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(spread));
  for (int64_t i = 0; i < count; ++i) {
    const __m512 x = _mm512_mul_ps(_mm512_load_ps(row + 16 * i), by);
    const __m512 scaled = _mm512_mul_ps(x, _mm512_loadu_ps(call.norm + 16 * i));
    _mm512_store_ps(row + 16 * i,
                    _mm512_add_ps(scaled, _mm512_loadu_ps(call.norm + 16 * (count + i))));
  }
}

// 16 outlier channels of a token from the i-th on; 0 beyond the last.
inline __m512 gather_outliers(const Linear& call, int64_t row_at, int64_t i) {
  const int64_t left = call.num_outliers - i;
  const __mmask16 in = first_of_16(left);
  if (call.dtype == kFloat32) {
    const float* row = static_cast<const float*>(call.x) + row_at;
    const __m512i places = _mm512_maskz_loadu_epi32(in, call.outlier + i);
    return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), in, places, row, 4);
  }
  const uint16_t* row = static_cast<const uint16_t*>(call.x) + row_at;
  alignas(32) uint16_t halves[16] = {};
  for (int64_t j = 0; j < 16 && j < left; ++j) halves[j] = row[call.outlier[i + j]];
  return load16_halves(halves, call.dtype);
}

// The largest magnitude as bits: NaN above infinity above all numbers.
inline uint32_t top_bits(const Linear& call, int64_t row_at, int64_t chunk, int64_t end) {
  const __m512i magnitude = _mm512_set1_epi32(kMagnitude);
  __m512i top[4] = {};
  for (; chunk + 4 <= end; chunk += 4)
    for (int i = 0; i < 4; ++i)
      top[i] = _mm512_max_epu32(top[i], _mm512_and_si512(magnitude, _mm512_castps_si512(load_kept(
                                                                        call, row_at, chunk + i))));
  for (; chunk < end; ++chunk)
    top[0] = _mm512_max_epu32(
        top[0], _mm512_and_si512(magnitude, _mm512_castps_si512(load_kept(call, row_at, chunk))));
  return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_max_epu32(top[0], top[1]),
                                                  _mm512_max_epu32(top[2], top[3])));
}

// Twice the E2M1 number next to x * inverse, ties to the even code.
inline __m512i round_e2m1(__m512 x, __m512 inverse) {
  const __m512 twice = _mm512_mul_ps(_mm512_mul_ps(x, inverse), _mm512_set1_ps(2.0f));
  const __m512 size = _mm512_abs_ps(twice);
  const __mmask16 above4 = _mm512_cmp_ps_mask(size, _mm512_set1_ps(4.0f), _CMP_GE_OQ);
  const __mmask16 above8 = _mm512_cmp_ps_mask(size, _mm512_set1_ps(8.0f), _CMP_GE_OQ);
  __m512 step = _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), above4, _mm512_set1_ps(0.5f));
  step = _mm512_mask_mov_ps(step, above8, _mm512_set1_ps(0.25f));
  const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(twice, step));
  const __m512i doubled = _mm512_mask_slli_epi32(whole, above4, whole, 1);
  return _mm512_mask_slli_epi32(doubled, above8, doubled, 1);
}

template <int kKind>
inline __m512i round_codes(__m512 x, __m512 inverse) {
  if constexpr (kKind == kE2m1) return round_e2m1(x, inverse);
  if constexpr (kKind == kNvE2m1) {  // the scale may have been rounded down
    const __m512i codes = _mm512_min_epi32(round_e2m1(x, inverse), _mm512_set1_epi32(12));
    return _mm512_max_epi32(codes, _mm512_set1_epi32(-12));
  }
  return _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
}

// Codes of the channels of chunks, 16 bytes each, plus the offset.
template <int kKind>
inline void write_codes(const Linear& call, int64_t row_at, int64_t chunk, int64_t end,
                        float inverse_, uint8_t* to) {
  const __m512 inverse = _mm512_set1_ps(inverse_);
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(offset_of(kKind)));
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  for (; chunk + 4 <= end; chunk += 4) {
    __m512i codes[4];
    for (int i = 0; i < 4; ++i)
      codes[i] = round_codes<kKind>(load_kept(call, row_at, chunk + i), inverse);
    const __m512i bytes = _mm512_packs_epi16(_mm512_packs_epi32(codes[0], codes[1]),
                                             _mm512_packs_epi32(codes[2], codes[3]));
    _mm512_storeu_si512(to + 16 * chunk,
                        _mm512_add_epi8(_mm512_permutexvar_epi32(order, bytes), offset));
  }
  for (; chunk < end; ++chunk) {
    const __m512i codes = round_codes<kKind>(load_kept(call, row_at, chunk), inverse);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(to + 16 * chunk),
        _mm_add_epi8(_mm512_cvtsepi32_epi8(codes), _mm512_castsi512_si128(offset)));
  }
}

// Whole numbers of the channels of chunks as bfloat16, times the lower scale, which is exact.
template <int kKind>
inline void write_numbers(const Linear& call, int64_t row_at, int64_t chunk, int64_t end,
                          const Step& step, uint16_t* to) {
  const __m512 inverse = _mm512_set1_ps(step.inverse), lower = _mm512_set1_ps(step.lower);
  for (; chunk < end; ++chunk) {
    const __m512i codes = round_codes<kKind>(load_kept(call, row_at, chunk), inverse);
    __m512 numbers = _mm512_cvtepi32_ps(codes);
    if constexpr (kKind != kInt4) numbers = _mm512_mul_ps(numbers, lower);
    const __m512i upper_half = _mm512_srli_epi32(_mm512_castps_si512(numbers), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 16 * chunk),
                        _mm512_cvtepi32_epi16(upper_half));
  }
}

// A token's outliers as kPerStep of them are multiplied in a step: pairs of bfloat16, or float32.
// Returns whether all are finite.
template <int kPerStep>
inline bool place_outliers(const Linear& call, int64_t row_at, void* to) {
  __mmask16 infinite = 0;
  for (int64_t i = 0; i < call.num_outliers; i += 16) {
    const __m256i halves = _mm512_cvtepi32_epi16(to_bfloat16(gather_outliers(call, row_at, i)));
    const __m256i exponent = _mm256_set1_epi16(0x7f80);
    infinite |= _mm256_cmpeq_epi16_mask(_mm256_and_si256(halves, exponent), exponent);
    const int64_t left = call.num_outliers - i + (kPerStep == 2 ? call.num_outliers % 2 : 0);
    const __mmask16 in = first_of_16(left);
    if constexpr (kPerStep == 2)
      _mm256_mask_storeu_epi16(static_cast<uint16_t*>(to) + i, in, halves);
    else
      _mm512_mask_storeu_epi32(static_cast<uint32_t*>(to) + i, in,
                               _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
  return infinite == 0;
}

// How a kind of codes is laid out for tiles. kIsWide: as bfloat16 numbers; kHasUpper: of which the
// scales of groups are a part, so that a token has one scale.
template <int kKind, class Way>
struct Codes {
  static constexpr bool kIsWide = Way::kHasNumbers && kKind != kInt8;
  static constexpr bool kHasUpper = kIsWide && kKind != kInt4;
};

// What the scales of a token's groups are multiples of, by its largest magnitude.
template <int kKind>
inline float upper_of(float top) {
  return kKind == kNvE2m1 ? upper_scale(top) : power_step(top).scale;
}

inline float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// One token. Where it is not finite its scales are NaN and its codes zero.
//
// codes    [K64] bytes, offset added, or [K32] bfloat16
// scale    [G], or [1]
// outlier  as place_outliers has them
template <int kKind, class Way>
void quantize_token(const Linear& call, int64_t token, uint8_t* codes, float* scale,
                    void* outlier) {
  using Form = Codes<kKind, Way>;
  const int64_t row_at = token * call.stride, chunks = (call.num_in + 15) / 16;
  const int64_t per_group = kKind == kInt8 ? chunks : chunks / call.num_groups;
  bool good = place_outliers<Way::kPerStep>(call, row_at, outlier);
  float upper = 1.0f;
  if constexpr (kKind == kNvE2m1 || Form::kHasUpper) {
    const uint32_t bits = top_bits(call, row_at, 0, chunks);
    upper = upper_of<kKind>(from_bits(bits));
    good = good && bits < kInfinity;
  }
  for (int64_t g = 0; good && g < call.num_groups; ++g) {
    const int64_t from = g * per_group, to = from + per_group;
    const uint32_t bits = top_bits(call, row_at, from, to);
    good = bits < kInfinity;
    const Step step = step_of<kKind>(from_bits(bits), upper);
    if constexpr (!Form::kHasUpper) scale[g] = step.scale;
    if constexpr (Form::kIsWide)
      write_numbers<kKind>(call, row_at, from, to, step, reinterpret_cast<uint16_t*>(codes));
    else
      write_codes<kKind>(call, row_at, from, to, step.inverse, codes);
  }
  if (Form::kHasUpper) scale[0] = upper;
  if (Form::kIsWide && chunks % 2) memset(codes + 32 * chunks, 0, 32);  // what a step has beyond K
  if (good) return;
  memset(codes, Form::kIsWide ? 0 : offset_of(kKind), (Form::kIsWide ? 32 : 16) * chunks);
  const int64_t num_scales = Form::kHasUpper ? 1 : call.num_groups;
  for (int64_t g = 0; g < num_scales; ++g) scale[g] = __builtin_nanf("");
}

}  // namespace
}  // namespace astroray
