// Register tiles of a quantized linear layer: whole numbers, their scales, and the outlier channels
// on top, before anything is stored. Written in assembly for the reason that tiles.h gives.
//
// How a layer is multiplied is a struct, the Way of the other files:
//
//   kPerStep             outliers of a token that one step takes
//   kTileRows            tokens of a tile, the most of all kinds
//   kPackedRows          the same of a tile of 4 bits
//   kEightsRows          the same of a tile of kInt8, where kHasExcess
//   kWholeSteps          steps come in multiples of it
//   kCodeBytes           codes of a block of tokens, a part of the L2
//   stored(kind)         how codes of tokens are stored
//   unpack(call, column, steps, panel)    weights of 4 bits, before they are multiplied
//   multiply(tile, kind)
//   kHasExcess           whether products of 8 bits leave out what the layer calls excess; it comes by
//   turn(codes, stride, pairs)            of 16 tokens
//   add_excess(call, column, pairs, start)
#pragma once
#include <cstddef>

#include "osc_quantize.h"
#include "osc_unpack.h"
#include "tiles.h"

namespace astroray {
namespace {

constexpr int64_t kTurned = 48;  // tokens whose codes also lie side by side, where there is excess

// The operands of one tile, read by name of their place. Strides and steps as in tiles.h.
struct Tile {
  const void* a;               // 0: rows of codes
  int64_t stride;              // 8
  const void* b;               // 16: [steps][kColumns] groups of codes of the weights
  int64_t steps;               // 24: of all channels, or of a group
  const int32_t* start;        // 32: [kColumns], or [groups][kColumns], or one row a token
  const float* token_scale;    // 40: one a row, or one a row and group
  const float* scale;          // 48: [kColumns], or [groups][kColumns]
  const float* bias;           // 56: [kColumns]
  const void* outlier;         // 64: rows of outliers
  int64_t outlier_stride;      // 72
  const void* outlier_weight;  // 80: [outlier_steps][kColumns]
  int64_t outlier_steps;       // 88: may be 0
  float* c;                    // 96: out
  int64_t c_stride;            // 104: bytes
  int64_t groups;              // 112
  int64_t token_scale_stride;  // 120: bytes from row to row, where there are groups
  int64_t start_stride;        // 128: bytes from row to row, 0 where all start alike
  int64_t rows;                // 136: that hold a token
};
static_assert(offsetof(Tile, start_stride) == 128, "the assembly knows the places");

}  // namespace
}  // namespace astroray

#ifdef __AVX512F__
#include "osc_tiles_avx512.h"
#else
#include "osc_tiles_avx2.h"
#endif
