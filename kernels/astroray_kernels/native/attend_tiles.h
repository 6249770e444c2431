// Frozen tiles of rows on AMX: while the vector units weigh one block of keys, the tiles form the scores
// of the next one and add the values of the one before.
//
// Nothing of a block waits for another one, since the row maximum is frozen: a core that starts its
// instructions in order of the program, some hundred ahead, has both kinds of them at hand only if they
// stand mixed. So a share of the products stands behind the exponentials of each row.
//
// Tile registers: 0 scores, then weights; 1 and 2 queries; 3 keys, then values; 4 to 7 sums of values.
#pragma once
#include <utility>

#include "attend.h"

namespace astroray {
namespace {

template <class Score, class Value, int kDim>
struct FrozenTiles {
  static constexpr int kSteps = kDim / (16 * Score::kPerGroup);  // of a product of scores
  static constexpr int kVectors = kDim / 16;
  static constexpr int kScores = 4 * kSteps, kValues = 2 * kVectors;
  static constexpr int64_t kKeyRow = 4 * kBlock, kValueRow = 4 * kDim, kWeightRow = 2 * kBlock;
  static constexpr bool kFits =
      kDim <= 64 && Value::kPerGroup == 2 && kDim % (16 * Score::kPerGroup) == 0;

  // Rows of a tile against a block of keys.
  struct Place {
    int64_t tile, block;
  };

  Rows<Score, Value>& rows;
  int64_t begin, end, num_tiles;  // of a span of blocks, and of the group of rows
  const Place none{-1, -1};
  Place before = none, now = none, after = none;
  int turn = 0;

  // All frozen tiles from `tile` on against the span.
  void run(int64_t tile) {
    after = {frozen_from(tile), begin};
    if (after.tile == num_tiles) return;
    all_products(std::make_integer_sequence<int, kScores>());
    do {
      before = now;
      now = after;
      after = follower();
      weigh(std::make_integer_sequence<int, kRows>());
      turn ^= 1;
    } while (after.tile >= 0);
    before = now;
    all_products(std::make_integer_sequence<int, kScores + kValues>());
  }

 private:
  int64_t frozen_from(int64_t tile) const {
    while (tile < num_tiles && rows.scratch.online[tile]) ++tile;
    return tile;
  }

  Place follower() const {
    if (now.block + 1 < end) return {now.tile, now.block + 1};
    const int64_t tile = frozen_from(now.tile + 1);
    return tile < num_tiles ? Place{tile, begin} : none;
  }

  int32_t* scores(int of) const { return rows.scratch.scores + of * kRows * kBlock; }
  char* weights(int of) const { return rows.scratch.p + of * kRows * kWeightRow; }

  template <int... kRow>
  ASTRORAY_INLINE void weigh(std::integer_sequence<int, kRow...>) {
    (weigh_row<kRow>(), ...);
  }

  template <int kRow>
  ASTRORAY_INLINE void weigh_row() {
    constexpr int kAll = kScores + kValues;
    fetch<kRow>();
    rows.weigh_row(now.tile, rows.head.blocks[now.block], kRow, scores(turn) + kRow * kBlock,
                   weights(turn) + kRow * kWeightRow);
    products<kRow * kAll / kRows>(
        std::make_integer_sequence<int, (kRow + 1) * kAll / kRows - kRow * kAll / kRows>());
  }

  // Asks for a share of the keys and values that the next turn multiplies.
  template <int kRow>
  ASTRORAY_INLINE void fetch() {
    constexpr int64_t kShare = kBlock * kDim * 2 / kRows;
    const char* v = rows.head.values + now.block * kBlock / 2 * kValueRow + kRow * kShare;
    const int64_t block = after.block + 1 < end ? after.block + 1 : begin;
    const char* k = static_cast<const char*>(rows.head.blocks[block].groups) + kRow * kShare;
    for (int64_t i = 0; i < kShare; i += 64) {
      __builtin_prefetch(v + i, 0, 3);
      __builtin_prefetch(k + i, 0, 3);
    }
  }

  template <int... kOp>
  ASTRORAY_INLINE void all_products(std::integer_sequence<int, kOp...>) {
    (product<kOp>(), ...);
  }
  template <int kFrom, int... kOp>
  ASTRORAY_INLINE void products(std::integer_sequence<int, kOp...>) {
    (product<kFrom + kOp>(), ...);
  }

  template <int kOp>
  ASTRORAY_INLINE void product() {
    if constexpr (kOp < kScores) {
      if (after.tile >= 0) form_scores<kOp / kSteps, kOp % kSteps>();
    } else {
      constexpr int kAt = kOp - kScores;
      if (before.tile >= 0) add_values<kAt % kVectors, kAt / kVectors>();
    }
  }

  // One product for 16 keys of the block that follows.
  template <int kVector, int kStep>
  ASTRORAY_INLINE void form_scores() {
    const KeyBlock& block = rows.head.blocks[after.block];
    const int to = now.tile < 0 ? 0 : turn ^ 1;
    if constexpr (kVector == 0)
      if (after.block == begin) {
        const char* q = rows.scratch.q + after.tile * kRows * rows.row_bytes + 64 * kStep;
        tile_load<1 + kStep>(q, rows.row_bytes);
      }
    if constexpr (kStep == 0) {
      if constexpr (Score::kHasInit) {
        tile_load<0>(reinterpret_cast<const char*>(block.init + 16 * kVector), 0);
      } else {
        ASTRORAY_TILE_CLEAR(0);
      }
    }
    tile_load<3>(static_cast<const char*>(block.groups) + 16 * kStep * kKeyRow + 64 * kVector,
                 kKeyRow);
    Score::Mul::template product<0, 1 + kStep, 3>();
    if constexpr (kStep == kSteps - 1) tile_store<0>(scores(to) + 16 * kVector, kKeyRow);
  }

  // One product for 16 channels and 32 keys of the block before.
  template <int kVector, int kStep>
  ASTRORAY_INLINE void add_values() {
    float* out = rows.scratch.out + before.tile * kRows * kDim + 16 * kVector;
    if constexpr (kVector == 0) tile_load<0>(weights(turn ^ 1) + 64 * kStep, kWeightRow);
    if constexpr (kStep == 0)
      if (before.block == begin) tile_load<4 + kVector>(out, kValueRow);
    const char* v = rows.head.values + (before.block * kBlock / 2 + 16 * kStep) * kValueRow;
    tile_load<3>(v + 64 * kVector, kValueRow);
    Value::Mul::template product<4 + kVector, 0, 3>();
    if constexpr (kStep == 1)
      if (before.block == end - 1) tile_store<4 + kVector>(out, kValueRow);
  }
};

// All frozen tiles of a group from `tile` on against a span; false where they must be done one by one.
template <class Score, class Value>
inline bool attend_frozen_tiles(Rows<Score, Value>& rows, int64_t tile, int64_t num_tiles,
                                int64_t begin, int64_t end) {
  using Narrow = FrozenTiles<Score, Value, 32>;
  using Wide = FrozenTiles<Score, Value, 64>;
  if constexpr (Narrow::kFits)
    if (rows.shape.dim == 32) {
      Narrow{rows, begin, end, num_tiles}.run(tile);
      return true;
    }
  if constexpr (Wide::kFits)
    if (rows.shape.dim == 64) {
      Wide{rows, begin, end, num_tiles}.run(tile);
      return true;
    }
  return false;
}

}  // namespace
}  // namespace astroray
