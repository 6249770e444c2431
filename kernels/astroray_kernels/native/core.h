// One attention call: pack a head's keys and values once, then tile after tile of rows.
//
// Scores are in log2 units: log2(e) and the scale go into Q. Keys are centered for integer scores
// (softmax does not see a shift of all scores), which also bounds the row maximum from below by 0.
// A frozen row maximum m makes every block independent: P = exp2(S - m), O += P V, l += sum P, no
// maximum, no rescaling. After the last block l certifies the row; a tile with a row that fails is
// done again by the online softmax.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "lanes.h"
#include "tiles.h"
#include "vfa.h"

// For what a loop must not call: a call loses the constants in its registers.
#define ASTRORAY_INLINE inline __attribute__((always_inline))

namespace astroray {
namespace {

constexpr int kBlock = 64;  // keys of a packed block: four vectors of scores
constexpr int kSuper = 4;   // blocks that P is held for
constexpr int kSpan = kBlock * kSuper;
constexpr int kGroup = kRows == 16 ? 128 : 16 * kRows;  // rows that share a span of keys while it is in the L2
constexpr int kMaxDim = 128;
constexpr float kMasked = -1e30f;  // added to the score of a key that takes no part
constexpr float kCoarse = 0.25f;   // error of 8-bit scores, powers of two, that is too much
constexpr float kCoarseRounded = 0.1f;  // of scores of bfloat16
constexpr int kSteps = 128;              // of a power of two, that a table of weights tells apart
constexpr float kLog2E = 1.4426950408889634f;

inline Floats load16_halves(const uint16_t* half, int dtype) {
  return dtype == kBfloat16 ? as_floats(load_halves(half) << 16) : load_float16(half);
}

inline Floats load16(const void* p, int dtype, int64_t at) {
  if (dtype == kFloat32) return Floats::load(static_cast<const float*>(p) + at);
  return load16_halves(static_cast<const uint16_t*>(p) + at, dtype);
}

inline Ints to_bfloat16(Floats x) {  // half to even; NaN stays NaN
  const Ints bits = as_ints(x);
  const Ints up = bits + (((bits >> 16) & Ints(1)) + Ints(0x7fff));
  return as_ints(choose(is_nan(x), as_floats(Ints(0x7fc00000)), as_floats(up))) >> 16;
}

inline void store16(void* p, int dtype, int64_t at, Floats x) {
  if (dtype == kFloat32) return x.store(static_cast<float*>(p) + at);
  uint16_t* half = static_cast<uint16_t*>(p) + at;
  dtype == kBfloat16 ? store_low_halves(half, to_bfloat16(x)) : store_float16(half, x);
}

// 2^t for any t: 0 far below, infinity far above, NaN for NaN. kDegree 3: relative error 9e-5.
template <int kDegree>
inline Floats exp2_16(Floats t) {
  const Floats f = fraction(t);
  Floats p;
  if constexpr (kDegree == 3) {
    p = Floats(0.077119089663028717f);
    p = multiply_add(p, f, Floats(0.22756439447402954f));
    p = multiply_add(p, f, Floats(0.69514614343643188f));
  } else {
    p = Floats(1.86810153536498546600341796875e-3f);
    p = multiply_add(p, f, Floats(9.01452265679836273193359375e-3f));
    p = multiply_add(p, f, Floats(5.5802188813686370849609375e-2f));
    p = multiply_add(p, f, Floats(0.24016360938549041748046875f));
    p = multiply_add(p, f, Floats(0.693151414394378662109375f));
  }
  return scale_by_power(multiply_add(p, f, Floats(1.0f)), t);
}

}  // namespace
}  // namespace astroray
