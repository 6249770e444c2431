// C[6][16 W] = init + A B: one register tile, 6 rows by W vectors, written once for every product.
//
// A holds 32-bit groups (one float, two 16-bit or four 8-bit numbers), one a step, broadcast to all
// lanes; B holds W vectors of such groups a step. The loop is assembly, since a compiler keeps its
// sums in registers only by luck, and says nothing when it does not.
//
//   PRODUCT::tile<W>(a, stride, b, steps, init, c)      W: 2, 3, 4
//
// a       6 rows of groups, `stride` bytes apart
// b       `steps` times W vectors; at least one
// init    W vectors that every row starts from
// c       [6][W] vectors
#pragma once
#include <cstdint>

namespace astroray {
namespace {

constexpr int kRows = 6;

}  // namespace
}  // namespace astroray

#ifdef __AVX512F__
#include "tiles_avx512.h"
#else
#include "tiles_avx2.h"
#endif
