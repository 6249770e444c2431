// C[R][16 W] = init + A B: one register tile, R rows by W vectors, written once for every product.
// R is 6, and 16 on AMX.
//
// A holds 32-bit groups (one float, two 16-bit or four 8-bit numbers), one a step, broadcast to all
// lanes; B holds W vectors of such groups a step. The loop is assembly, since a compiler keeps its
// sums in registers only by luck, and says nothing when it does not.
//
//   PRODUCT::tile<W>(a, stride, b, steps, init, c)      W: 2, 3, 4
//
// a       R rows of groups, `stride` bytes apart
// b       `steps` times W vectors; at least one
// init    W vectors that every row starts from; on AMX null: zero
// c       [R][W] vectors
#pragma once
#include <cstdint>

namespace astroray {
namespace {

#ifdef __AMX_TILE__
constexpr int kRows = 16;
#else
constexpr int kRows = 6;
inline void begin_tiles(bool = false) {}  // what a thread does before and after it multiplies
inline void end_tiles() {}
#endif

}  // namespace
}  // namespace astroray

#ifdef __AMX_TILE__
#include "tiles_amx.h"
#elif defined(__AVX512F__)
#include "tiles_avx512.h"
#else
#include "tiles_avx2.h"
#endif
