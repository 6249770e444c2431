// What a thread works in while it attends a group of rows.
#pragma once
#include "core.h"

namespace astroray {
namespace {

constexpr int32_t kZeros[kMaxDim] = {};
#ifdef __AMX_TILE__
constexpr const int32_t* kNothing = nullptr;  // what sums start from
#else
constexpr const int32_t* kNothing = kZeros;
#endif

// Scratch of one thread for one group of rows; small enough for the L1 and L2.
struct Scratch {
  alignas(64) char q[kGroup * kMaxDim * 4];  // packed rows
  alignas(64) float out[kGroup * kMaxDim];   // O, not yet divided
  alignas(64) float sums[kGroup * 16];       // l, lane by lane
  alignas(64) float m[kGroup];               // log2 units
  alignas(64) float lift[kGroup];            // of m, the mean score of keys that have their mean
  alignas(64) float row_scale[kGroup];       // of the numbers of Q
  alignas(64) int32_t scores[kSuper * kRows * kBlock];
  alignas(64) char p[kRows * kSpan * 4];
  alignas(64) char c[kRows * 4 * 64];
  bool bounded[kGroup / kRows];  // whether kBounded holds for all rows of a tile
  bool online[kGroup / kRows];
};

}  // namespace
}  // namespace astroray
