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

// How codes are stored: as bytes with an offset, so that they are unsigned; as 16-bit integers; as
// bfloat16.
enum Stored { kBytes, kShorts, kNumbers };

constexpr int offset_of(int kind, Stored stored) {
  return stored != kBytes ? 0 : kind == kInt8 ? 128 : 16;
}

// A scale, what numbers are multiplied with before they are rounded, and the scale over the upper one.
struct Step {
  float scale, inverse, lower = 1.0f;
};

inline Step integer_step(float top, float largest) {
  if (top < kZeroBelow) return {1.0f, 0.0f};
  return {top / largest, largest / top};
}

inline float from_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}

// of an exponent of -149 to 127
inline float power_of_two(int exponent) {
  return from_bits(exponent < -126 ? 1u << (exponent + 149)
                                   : static_cast<uint32_t>(exponent + 127) << 23);
}

// The smallest power of two, 2^-127 to 2^127, with top <= 6 of them.
inline Step power_step(float top) {
  if (top == 0.0f) return {1.0f, 1.0f};
  uint32_t bits;
  memcpy(&bits, &top, 4);
  int exponent = static_cast<int>(bits >> 23) - 129 + ((bits & 0x7fffff) > 0x400000);
  if (exponent < -127) exponent = -127;
  return {power_of_two(exponent), power_of_two(-exponent)};
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
  const float step = power_of_two(exponent - 3);
  const float whole = static_cast<float>(_mm_cvtss_si32(_mm_set_ss(wanted / step)));
  const float scale = whole * step * upper;
  return {scale, 1.0f / scale, whole * step};
}

// of a group whose largest magnitude is top
template <int kKind>
inline Step step_of(float top, float upper) {
  if constexpr (kKind == kNvE2m1) return two_level_step(top, upper);
  if constexpr (kKind != kE2m1) return integer_step(top, is_eight_bits(kKind) ? 127 : 7);
  Step step = power_step(top);
  step.lower = step.scale / upper;
  return step;
}

// Of 16 numbers those in the mask; 0 for the others.
inline Floats load_masked(const void* x, int dtype, int64_t at, uint32_t in) {
  if (dtype == kFloat32) return load_lanes(static_cast<const float*>(x) + at, in);
  const uint16_t* half = static_cast<const uint16_t*>(x) + at;
  return dtype == kBfloat16 ? load_bfloat16(half, in) : load_float16(half, in);
}

// 16 kept channels of a token; 0 for the others.
inline Floats load_kept(const Linear& call, int64_t row_at, int64_t chunk) {
  return load_masked(call.x, call.dtype, row_at + 16 * chunk, call.kept[chunk]);
}

// The total of 64 sums, folded by halves.
inline float fold(const Floats* sums) { return sum((sums[0] + sums[2]) + (sums[1] + sums[3])); }

// A token after its norm, float32 [K64], in the order of sums that osc/norms.py has.
inline void normalize_token(const Linear& call, int64_t token, float* row) {
  const int64_t count = (call.num_in + 63) / 64 * 4;
  const Floats num_in(static_cast<float>(call.num_in)), zero(0.0f);
  const auto in = [&](int64_t i) { return first_of_16(call.num_in - 16 * i); };
  Floats sums[4] = {zero, zero, zero, zero}, squares[4] = {zero, zero, zero, zero};
  for (int64_t i = 0; i < count; i += 4)
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t at = 16 * (i + j);
      const Floats x = load_masked(call.x, call.dtype, token * call.stride + at, in(i + j));
      x.store(row + at);
      sums[j] += x;
    }
  Floats mean(0.0f);
  if (call.norm_centers) mean = Floats(fold(sums)) / num_in;
  for (int64_t i = 0; i < count; i += 4)
    for (int64_t j = 0; j < 4; ++j) {
      const int64_t at = 16 * (i + j);
      const Floats x = choose(in(i + j), Floats::load(row + at) - mean, zero);
      x.store(row + at);
      squares[j] += x * x;
    }
  const Floats spread = Floats(fold(squares)) / num_in + Floats(call.norm_epsilon);
  const Floats by = Floats(1.0f) / root(spread);
  for (int64_t i = 0; i < count; ++i) {
    const Floats scaled = Floats::load(row + 16 * i) * by * Floats::load(call.norm + 16 * i);
    (scaled + Floats::load(call.norm + 16 * (count + i))).store(row + 16 * i);
  }
}

// 16 outlier channels of a token from the i-th on; 0 beyond the last.
inline Floats gather_outliers(const Linear& call, int64_t row_at, int64_t i) {
  const int64_t left = call.num_outliers - i;
  if (call.dtype == kFloat32)
    return gather(static_cast<const float*>(call.x) + row_at, call.outlier + i, left);
  const uint16_t* row = static_cast<const uint16_t*>(call.x) + row_at;
  alignas(32) uint16_t halves[16] = {};
  for (int64_t j = 0; j < 16 && j < left; ++j) halves[j] = row[call.outlier[i + j]];
  return load16_halves(halves, call.dtype);
}

// The largest magnitude as bits: NaN above infinity above all numbers.
ASTRORAY_INLINE uint32_t top_bits(const Linear& call, int64_t row_at, int64_t chunk, int64_t end) {
  const auto size = [&](int64_t i) {
    return Ints(kMagnitude) & as_ints(load_kept(call, row_at, i));
  };
  Ints even(0), odd(0);
  for (; chunk + 2 <= end; chunk += 2) {
    even = max(even, size(chunk));
    odd = max(odd, size(chunk + 1));
  }
  if (chunk < end) even = max(even, size(chunk));
  return static_cast<uint32_t>(largest(max(even, odd)));
}

// Twice the E2M1 number next to x * inverse, ties to the even code: a multiple of 1 below 4, of 2
// below 8, of 4 above. Sums with 3 * 2^22 times that have no finer digits.
inline Ints round_e2m1(Floats x, Floats inverse) {
  const Floats twice = x * inverse * Floats(2.0f);
  const Ints power = as_ints(twice) & Ints(kInfinity);  // the power of two below it
  const Floats within = as_floats(min(max(power, as_ints(Floats(2.0f))), as_ints(Floats(8.0f))));
  const Floats coarse = within * Floats(0x1.8p22f);
  return rounded((twice + coarse) - coarse);
}

template <int kKind>
inline Ints round_codes(Floats x, Floats inverse) {
  if constexpr (kKind == kE2m1) return round_e2m1(x, inverse);
  if constexpr (kKind == kNvE2m1)  // the scale may have been rounded down
    return max(min(round_e2m1(x, inverse), Ints(12)), Ints(-12));
  return rounded(x * inverse);
}

// Codes of the channels of chunks, 16 bytes each, plus the offset.
template <int kKind>
inline void write_bytes(const Linear& call, int64_t row_at, int64_t chunk, int64_t end,
                        const Step& step, uint8_t* to) {
  const Floats inverse(step.inverse);
  constexpr int8_t kOffset = static_cast<int8_t>(offset_of(kKind, kBytes));
  for (; chunk + kPacked <= end; chunk += kPacked) {
    Ints codes[kPacked];
    for (int i = 0; i < kPacked; ++i)
      codes[i] = round_codes<kKind>(load_kept(call, row_at, chunk + i), inverse);
    store_bytes(to + 16 * chunk, codes, kOffset);
  }
  for (; chunk < end; ++chunk)
    store_bytes(to + 16 * chunk, round_codes<kKind>(load_kept(call, row_at, chunk), inverse),
                kOffset);
}

template <int kKind>
inline void write_shorts(const Linear& call, int64_t row_at, int64_t chunk, int64_t end,
                         const Step& step, uint8_t* to) {
  const Floats inverse(step.inverse);
  for (; chunk < end; ++chunk)
    store_saturated(reinterpret_cast<int16_t*>(to) + 16 * chunk,
                    round_codes<kKind>(load_kept(call, row_at, chunk), inverse));
}

// Whole numbers of the channels of chunks as bfloat16, times the lower scale, which is exact.
template <int kKind>
inline void write_numbers(const Linear& call, int64_t row_at, int64_t chunk, int64_t end,
                          const Step& step, uint8_t* to) {
  const Floats inverse(step.inverse), lower(step.lower);
  for (; chunk < end; ++chunk) {
    Floats numbers = to_floats(round_codes<kKind>(load_kept(call, row_at, chunk), inverse));
    if constexpr (kKind != kInt4) numbers = numbers * lower;
    store_low_halves(to + 32 * chunk, as_ints(numbers) >> 16);
  }
}

// A token's outliers as kPerStep of them are multiplied in a step: pairs of bfloat16, or float32.
// Returns whether all are finite.
template <int kPerStep>
inline bool place_outliers(const Linear& call, int64_t row_at, void* to) {
  Ints top(0);
  for (int64_t i = 0; i < call.num_outliers; i += 16) {
    const Ints halves = to_bfloat16(gather_outliers(call, row_at, i));
    top = max(top, halves & Ints(kMagnitude >> 16));
    const int64_t left = call.num_outliers - i + (kPerStep == 2 ? call.num_outliers % 2 : 0);
    if constexpr (kPerStep == 2)
      store_first(static_cast<uint16_t*>(to) + i, halves, left);
    else
      store_first(static_cast<float*>(to) + i, as_floats(halves << 16), left);
  }
  return largest(top) < static_cast<int32_t>(kInfinity >> 16);
}

// What the scales of a token's groups are multiples of, by its largest magnitude.
template <int kKind>
inline float upper_of(float top) {
  return kKind == kNvE2m1 ? upper_scale(top) : power_step(top).scale;
}

// One token. Where it is not finite its scales are NaN and its codes zero.
//
// codes    [K64] bytes, offset added, [K16] integers or [K32] bfloat16 of 16 bits
// scale    [G], or [1]
// outlier  as place_outliers has them
template <int kKind, class Way>
void quantize_token(const Linear& call, int64_t token, uint8_t* codes, float* scale,
                    void* outlier) {
  constexpr Stored kStored = Way::stored(kKind);
  // Scales of groups may be a part of the numbers, so that a token has one scale.
  constexpr bool kHasUpper = kStored == kNumbers && kKind != kInt4;
  const int64_t row_at = token * call.stride, chunks = (call.num_in + 15) / 16;
  const int64_t per_group = is_eight_bits(kKind) ? chunks : chunks / call.num_groups;
  bool good = place_outliers<Way::kPerStep>(call, row_at, outlier);
  float upper = 1.0f;
  if constexpr (kKind == kNvE2m1 || kHasUpper) {
    const uint32_t bits = top_bits(call, row_at, 0, chunks);
    upper = upper_of<kKind>(from_bits(bits));
    good = good && bits < kInfinity;
  }
  for (int64_t g = 0; good && g < call.num_groups; ++g) {
    const int64_t from = g * per_group, to = from + per_group;
    const uint32_t bits = top_bits(call, row_at, from, to);
    good = bits < kInfinity;
    const Step step = step_of<kKind>(from_bits(bits), upper);
    if constexpr (!kHasUpper) scale[g] = step.scale;
    if constexpr (kStored == kNumbers)
      write_numbers<kKind>(call, row_at, from, to, step, codes);
    else if constexpr (kStored == kShorts)
      write_shorts<kKind>(call, row_at, from, to, step, codes);
    else
      write_bytes<kKind>(call, row_at, from, to, step, codes);
  }
  if (kHasUpper) scale[0] = upper;
  if (kStored == kNumbers && chunks % 2) memset(codes + 32 * chunks, 0, 32);  // beyond K, of a step
  if (good) return;
  memset(codes, offset_of(kKind, kStored), (kStored == kBytes ? 16 : 32) * chunks);
  const int64_t num_scales = kHasUpper ? 1 : call.num_groups;
  for (int64_t g = 0; g < num_scales; ++g) scale[g] = __builtin_nanf("");
}

}  // namespace
}  // namespace astroray
