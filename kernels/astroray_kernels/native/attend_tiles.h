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

// What the tiles and vectors of one turn read and write. A turn copies it, and asks for nothing else of
// an object: a compiler reads that anew after each tile, which may have been stored over it, and the
// exponentials then wait for addresses.
struct Turn {
  const char *keys, *weights, *values;  // of the block that follows, and of the one before
  const int32_t* init;
  int32_t* scores_to;
  const int32_t* scores;  // of the block that is weighed
  char* weights_to;
  float* sums;
  const float *m, *row_scale;
  float scale;
  uint64_t valid;  // a bit for each key
};

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
  int parity = 0;

  // All frozen tiles from `tile` on against the span.
  void run(int64_t tile) {
    after = {frozen_from(tile), begin};
    if (after.tile == num_tiles) return;
    load_queries();
    all_products<true, false>(turn(), std::make_integer_sequence<int, kScores>());
    do {
      parity ^= 1;
      before = now;
      now = after;
      after = follower();
      if (after.block == begin) load_queries();
      if (before.block == begin) load_sums();
      rows.ahead.fetch();
      weigh(turn());
      if (before.block == end - 1) store_sums();
    } while (after.tile >= 0);
    parity ^= 1;
    before = now;
    if (before.block == begin) load_sums();
    all_products<false, true>(turn(), std::make_integer_sequence<int, kScores + kValues>());
    store_sums();
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
  float* out() const { return rows.scratch.out + before.tile * kRows * kDim; }

  void load_queries() {
    const char* q = rows.scratch.q + after.tile * kRows * rows.row_bytes;
    tile_load<1>(q, rows.row_bytes);
    if constexpr (kSteps > 1) tile_load<2>(q + 64, rows.row_bytes);
  }

  void load_sums() { load_sums(std::make_integer_sequence<int, kVectors>()); }
  template <int... kVector>
  void load_sums(std::integer_sequence<int, kVector...>) {
    (tile_load<4 + kVector>(out() + 16 * kVector, kValueRow), ...);
  }
  void store_sums() { store_sums(std::make_integer_sequence<int, kVectors>()); }
  template <int... kVector>
  void store_sums(std::integer_sequence<int, kVector...>) {
    (tile_store<4 + kVector>(out() + 16 * kVector, kValueRow), ...);
  }

  Turn turn() const {
    Turn t{};
    if (after.tile >= 0) {
      const KeyBlock& block = rows.head.blocks[after.block];
      t.keys = static_cast<const char*>(block.groups);
      t.init = block.init;
      t.scores_to = scores(parity ^ 1);
    }
    if (before.tile >= 0) {
      t.weights = weights(parity ^ 1);
      t.values = rows.head.values + before.block * kBlock / 2 * kValueRow;
    }
    if (now.tile >= 0) {
      const KeyBlock& block = rows.head.blocks[now.block];
      const int64_t at = now.tile * kRows;
      t.scores = scores(parity);
      t.weights_to = weights(parity);
      t.sums = rows.scratch.sums + 16 * at;
      t.m = rows.scratch.m + at;
      t.row_scale = rows.scratch.row_scale + at;
      t.scale = block.scale;
      t.valid = valid_bits(block);
    }
    return t;
  }

  static uint64_t valid_bits(const KeyBlock& block) {
    if (block.bias == nullptr) return ~uint64_t{0};
    uint64_t bits = 0;
    for (int c = 0; c < 4; ++c) {
      const Floats bias = Floats::load(block.bias + 16 * c);
      bits |= static_cast<uint64_t>(at_least(bias, Floats(0.0f))) << (16 * c);
    }
    return bits;
  }

  void weigh(const Turn& t) {
    if (after.tile < 0) {
      before.tile < 0 ? weigh<false, false>(t) : weigh<false, true>(t);
    } else {
      before.tile < 0 ? weigh<true, false>(t) : weigh<true, true>(t);
    }
  }

  template <bool kHasAfter, bool kHasBefore>
  static __attribute__((noinline)) void weigh(const Turn& of) {
    const Turn t = of;
    weigh_rows<kHasAfter, kHasBefore>(t, std::make_integer_sequence<int, kRows>());
    if constexpr (kHasAfter && !kHasBefore) tile_store<0>(t.scores_to + 48, kKeyRow);
  }

  template <bool kHasAfter, bool kHasBefore, int... kRow>
  static ASTRORAY_INLINE void weigh_rows(const Turn& t, std::integer_sequence<int, kRow...>) {
    (weigh_and_multiply<kHasAfter, kHasBefore, kRow>(t), ...);
  }

  template <bool kHasAfter, bool kHasBefore, int kRow>
  static ASTRORAY_INLINE void weigh_and_multiply(const Turn& t) {
    constexpr int kAll = kScores + kValues, kFrom = kRow * kAll / kRows;
    constexpr int kTo = (kRow + 1) * kAll / kRows;
    weigh_row<kRow>(t);
    products<kHasAfter, kHasBefore, kFrom>(t, std::make_integer_sequence<int, kTo - kFrom>());
  }

  // P = 2^(S - m) of a row, and its sums.
  template <int kRow>
  static ASTRORAY_INLINE void weigh_row(const Turn& t) {
    const Floats scale = Floats(t.row_scale[kRow]) * Floats(t.scale), m(t.m[kRow]);
    Floats total = Floats::load(t.sums + 16 * kRow);
    for (int c = 0; c < 4; ++c) {
      const Floats s = Rows<Score, Value>::as_float(t.scores + kRow * kBlock + 16 * c);
      const Floats all = exp2_16<Value::kDegree>(multiply_subtract(s, scale, m));
      const Floats weight =
          _mm512_maskz_mov_ps(static_cast<__mmask16>(t.valid >> (16 * c)), all);
      total += Value::keep(t.weights_to + kRow * kWeightRow + 32 * c, weight);
    }
    total.store(t.sums + 16 * kRow);
  }

  template <bool kHasAfter, bool kHasBefore, int... kOp>
  static ASTRORAY_INLINE void all_products(const Turn& t, std::integer_sequence<int, kOp...>) {
    (product<kHasAfter, kHasBefore, kOp>(t), ...);
    if constexpr (kHasAfter) tile_store<0>(t.scores_to + 48, kKeyRow);
  }
  template <bool kHasAfter, bool kHasBefore, int kFrom, int... kOp>
  static ASTRORAY_INLINE void products(const Turn& t, std::integer_sequence<int, kOp...>) {
    (product<kHasAfter, kHasBefore, kFrom + kOp>(t), ...);
  }

  template <bool kHasAfter, bool kHasBefore, int kOp>
  static ASTRORAY_INLINE void product(const Turn& t) {
    if constexpr (kOp < kScores) {
      if constexpr (kHasAfter) form_scores<kOp / kSteps, kOp % kSteps>(t);
    } else if constexpr (kHasBefore) {
      if constexpr (kOp == kScores && kHasAfter) tile_store<0>(t.scores_to + 48, kKeyRow);
      constexpr int kAt = kOp - kScores;
      add_values<kAt % kVectors, kAt / kVectors>(t);
    }
  }

  // One product for 16 keys of the block that follows.
  template <int kVector, int kStep>
  static ASTRORAY_INLINE void form_scores(const Turn& t) {
    if constexpr (kStep == 0) {
      if constexpr (kVector > 0) tile_store<0>(t.scores_to + 16 * (kVector - 1), kKeyRow);
      if constexpr (Score::kHasInit) {
        tile_load<0>(reinterpret_cast<const char*>(t.init + 16 * kVector), 0);
      } else {
        ASTRORAY_TILE_CLEAR(0);
      }
    }
    tile_load<3>(t.keys + 16 * kStep * kKeyRow + 64 * kVector, kKeyRow);
    Score::Mul::template product<0, 1 + kStep, 3>();
  }

  // One product for 16 channels and 32 keys of the block before.
  template <int kVector, int kStep>
  static ASTRORAY_INLINE void add_values(const Turn& t) {
    if constexpr (kVector == 0) tile_load<0>(t.weights + 64 * kStep, kWeightRow);
    tile_load<3>(t.values + 16 * kStep * kValueRow + 64 * kVector, kValueRow);
    Value::Mul::template product<4 + kVector, 0, 3>();
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
