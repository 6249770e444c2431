// Frozen tiles of rows whose weights come from a table: while a tile of scores is formed, those of the
// block before are weighed.
//
// Nothing of a block waits for another one, since the row maximum is frozen. Had the weights of a block
// their place behind its scores, as the online softmax must have it, they would fill the scheduler while
// they wait for the last sums, and the products behind them could not begin. So a quarter of them stands
// behind each quarter of the products of the following block, which may be the next tile's.
#pragma once
#include <type_traits>

#include "attend.h"

namespace astroray {
namespace {

// What the weights of a tile are formed with, as the assembly finds it.
struct alignas(64) Weighing {
  float scale[16], shift[16];  // of the rows' scores, steps
  uint16_t one[32];            // 2^0, as steps and as bfloat16
  uint16_t zero[32];
  uint8_t excess[kSteps];
};

// The weights of 32 scores: half H of row R. Registers 29 to 31, and k1 for the lower bytes of words.
#define ASTRORAY_WEIGH(R, H)                                                          \
  "vbroadcastss 4*" #R "(%[by]), %%zmm31\n"                                           \
  "vcvtdq2ps 256*" #R "+128*" #H "(%[scores]), %%zmm29\n"                             \
  "vcvtdq2ps 256*" #R "+128*" #H "+64(%[scores]), %%zmm30\n"                          \
  "vfmadd213ps 64+4*" #R "(%[by])%{1to16%}, %%zmm31, %%zmm29\n"                       \
  "vfmadd213ps 64+4*" #R "(%[by])%{1to16%}, %%zmm31, %%zmm30\n"                       \
  "vcvtps2dq %%zmm29, %%zmm29\n vcvtps2dq %%zmm30, %%zmm30\n"                         \
  "vpackssdw %%zmm30, %%zmm29, %%zmm29\n"                                             \
  "vpaddsw 128(%[by]), %%zmm29, %%zmm29\n"                                            \
  "vpmaxsw 192(%[by]), %%zmm29, %%zmm29\n"                                            \
  "vmovdqa64 %%zmm29, %%zmm30\n vmovdqa64 256(%[by]), %%zmm31\n"                      \
  "vpermi2b 320(%[by]), %%zmm31, %%zmm30%{%%k1%}%{z%}\n"                              \
  "vpsubw %%zmm30, %%zmm29, %%zmm29\n"                                                \
  "vmovdqu64 %%zmm29, 512*" #R "+64*" #H "(%[weights])\n"                             \
  "vmovups 64*" #R "(%[sums]), %%zmm30\n"                                             \
  "vdpbf16ps 128(%[by]), %%zmm29, %%zmm30\n"                                          \
  "vmovups %%zmm30, 64*" #R "(%[sums])\n"

#define ASTRORAY_QUARTER(OP) \
  "mov %[quarter], %[steps]\n .p2align 5\n1:\n" ASTRORAY_STEP4(OP) ASTRORAY_NEXT(256)

#define ASTRORAY_TILE4_MIXED(OP)                                                                 \
  asm volatile(                                                                                  \
      "kmovq %[low_bytes], %%k1\n" ASTRORAY_BEGIN4                                               \
      ASTRORAY_QUARTER(OP) ASTRORAY_WEIGH(0, 0) ASTRORAY_WEIGH(0, 1) ASTRORAY_WEIGH(1, 0)        \
      ASTRORAY_QUARTER(OP) ASTRORAY_WEIGH(1, 1) ASTRORAY_WEIGH(2, 0) ASTRORAY_WEIGH(2, 1)        \
      ASTRORAY_QUARTER(OP) ASTRORAY_WEIGH(3, 0) ASTRORAY_WEIGH(3, 1) ASTRORAY_WEIGH(4, 0)        \
      ASTRORAY_QUARTER(OP) ASTRORAY_WEIGH(4, 1) ASTRORAY_WEIGH(5, 0) ASTRORAY_WEIGH(5, 1)        \
      ASTRORAY_STORE4                                                                            \
      : [a] "+r"(a), [a3] "+r"(a3), [b] "+r"(b), [steps] "=&r"(steps)                            \
      : [s] "r"(stride), [init] "r"(init), [c] "r"(c), [quarter] "m"(quarter),                   \
        [low_bytes] "m"(low_bytes), [by] "r"(by), [scores] "r"(scores), [weights] "r"(weights),  \
        [sums] "r"(sums)                                                                         \
      : ASTRORAY_CLOBBERS, "zmm29", "zmm30", "zmm31", "k1")

// A product with it. `steps` is a multiple of 4.
#define ASTRORAY_MIXED_PRODUCT(NAME, OP)                                                         \
  struct NAME {                                                                                  \
    static void tile(const void* a_, int64_t stride, const void* b_, int64_t all_steps,          \
                     const void* init, void* c, const Weighing* by, const int32_t* scores,       \
                     char* weights, float* sums) {                                               \
      const char *a = static_cast<const char*>(a_), *b = static_cast<const char*>(b_);           \
      const char* a3 = a + 3 * stride;                                                           \
      const int64_t quarter = all_steps / 4;                                                     \
      const uint64_t low_bytes = 0x5555555555555555;                                             \
      int64_t steps;                                                                             \
      ASTRORAY_TILE4_MIXED(OP);                                                                  \
    }                                                                                            \
  };
ASTRORAY_MIXED_PRODUCT(MixedInt16, "vpdpwssd")
ASTRORAY_MIXED_PRODUCT(MixedInt8, "vpdpbusd")

template <class Score, class Value>
struct MixedTiles {
  static_assert(kRows == 6 && kSpan * Value::kBytes == 512, "the assembly's places");

  // Rows of a tile against a block of keys.
  struct Place {
    int64_t tile, block;
  };

  Rows<Score, Value>& rows;
  int64_t begin, end, num_tiles;  // of a span of blocks, and of the group of rows
  Weighing by{};
  int parity = 0;  // of the scores that are weighed

  // All frozen tiles from `tile` on against the span.
  void run(int64_t tile) {
    Place now{frozen_from(tile), begin};
    if (now.tile == num_tiles) return;
    Value::set_table(&by);
    rows.score(now.tile, rows.head.blocks[now.block], scores(parity));
    while (now.tile < num_tiles) {
      const Place after = now.block + 1 < end ? Place{now.tile, now.block + 1}
                                              : Place{frozen_from(now.tile + 1), begin};
      const KeyBlock& block = rows.head.blocks[now.block];
      if (after.tile < num_tiles) {
        rows.ahead.fetch();
        score_and_weigh(after, now);
      } else {
        rows.weigh(now.tile, block, scores(parity), weights(now));
      }
      if (now.block == end - 1) add_values(now.tile);
      parity ^= 1;
      now = after;
    }
  }

 private:
  int64_t frozen_from(int64_t tile) const {
    while (tile < num_tiles && rows.scratch.online[tile]) ++tile;
    return tile;
  }

  int32_t* scores(int of) const { return rows.scratch.scores + of * kRows * kBlock; }
  char* weights(Place at) const {  // of two tiles in turns
    return rows.scratch.p + (at.tile % 2 * kRows * kSpan + (at.block - begin) * kBlock) * Value::kBytes;
  }

  // O += P V, where O lies as the tile's sums do.
  void add_values(int64_t tile) {
    const char* p = weights({tile, begin});
    if (rows.shape.dim != 64) return rows.add_values(tile, begin, end, p);
    constexpr int64_t kKeys = kBlock / Value::kPerGroup;
    Value::Mul::add4(p, kSpan * Value::kBytes, rows.head.values + 4 * begin * kKeys * 64,
                     (end - begin) * kKeys, rows.scratch.out + tile * kRows * 64);
  }

  void score_and_weigh(Place after, Place now) {
    const int64_t at = now.tile * kRows;
    constexpr uint32_t kOfTile = (1u << kRows) - 1;
    const Floats unit(kSteps), scale(rows.head.blocks[now.block].scale);
    (unit * load_lanes(rows.scratch.row_scale + at, kOfTile) * scale).store(by.scale);
    (Floats(-kSteps) * load_lanes(rows.scratch.m + at, kOfTile)).store(by.shift);
    const KeyBlock& block = rows.head.blocks[after.block];
    using Product = std::conditional_t<Score::kPerGroup == 2, MixedInt16, MixedInt8>;
    Product::tile(rows.scratch.q + after.tile * kRows * rows.row_bytes, rows.row_bytes,
                           block.groups, rows.shape.dim / Score::kPerGroup, rows.start_of(block),
                           scores(parity ^ 1), &by, scores(parity), weights(now),
                           rows.scratch.sums + 16 * at);
  }
};

// Attends all frozen tiles of a group from `tile` on against a span; false where they must be done one
// by one, since keys take no part or scores may be too far from their maximum for the table.
template <class Score, class Value>
bool attend_mixed_tiles(Rows<Score, Value>& rows, int64_t tile, int64_t num_tiles, int64_t begin,
                        int64_t end) {
  for (int64_t b = begin; b < end; ++b)
    if (rows.head.blocks[b].bias != nullptr) return false;
  for (int64_t t = tile; t < num_tiles; ++t)
    if (!rows.scratch.online[t] && !rows.scratch.bounded[t]) return false;
  MixedTiles<Score, Value>{rows, begin, end, num_tiles}.run(tile);
  return true;
}

}  // namespace
}  // namespace astroray
