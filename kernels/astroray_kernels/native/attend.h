// Rows against a packed head: the frozen maximum, its certificate, and the online softmax behind
// it.
#pragma once
#include "ahead.h"
#include "pack_queries.h"
#include "pack_values.h"

namespace astroray {
namespace {

constexpr float kWorthVoting = 0.1f;      // share of blocks left out that pays for the votes
constexpr int64_t kFetchBytes = 1 << 20;  // of a head's q, k and v that the L2 has room for

template <class Score, class Value>
struct Rows;

// Weighs a vector at a time: 2^t, kept and added to the lanes' sums.
template <class Value>
struct OneByOne {
  static constexpr int kVectors = 1;
  static constexpr float kUnit = 1.0f;  // of t in one power of two
  Floats keep(char* to, const Floats* t, Floats total) const {
    return total + Value::keep(to, exp2_16<Value::kDegree>(*t));
  }
};

// In attend_tiles.h for AMX, and in attend_mixed.h where weights come from a table.
template <class Score, class Value>
bool attend_frozen_tiles(Rows<Score, Value>&, int64_t, int64_t, int64_t, int64_t);
template <class Score, class Value>
bool attend_mixed_tiles(Rows<Score, Value>&, int64_t, int64_t, int64_t, int64_t);

template <class Score, class Value>
struct Rows {
  const Attention& call;
  const Shape& shape;
  const Head& head;
  Scratch& scratch;
  int64_t row_bytes;  // of packed Q
  int64_t first;      // row of the group
  int64_t num_rows;   // of the group
  int64_t* facts;
  Ahead ahead;
  bool voting = false;  // whether tiles may leave blocks out

  // Packs the group's queries and bounds their maxima.
  void load(int64_t head_at) {
    with_row(shape.dim, [&](auto row) {
      pack_queries<Score, Value>(
          HeadRows<decltype(row)>(call, call.q, call.q_strides, head_at / call.heads,
                                  head_at % call.heads),
          head, first, num_rows, row_bytes, &scratch);
    });
  }

  // Whether the tile's rows can be frozen; sets m where it is not the bound of `load`.
  bool choose(int64_t tile) {
    if (call.estimate == kOnline || Value::kMost < 0.0f) return false;
    float* m = scratch.m + tile * kRows;
    if (call.estimate == kCauchySchwarz) {
      if (!Score::kCentered) return true;  // the sums will tell
      // The mean score is 0, or `lift`, so l >= num_valid 2^(lift - m): it cannot fail below this.
      const float most =
          Value::kMost + (31 - __builtin_clz(static_cast<uint32_t>(head.num_valid | 1)));
      for (int r = 0; r < kRows; ++r)
        if (!(m[r] - scratch.lift[tile * kRows + r] <= most)) return false;
      return true;
    }
    for (int r = 0; r < kRows; ++r) m[r] = kMasked;
    if (call.estimate == kSabsmax)
      for (int64_t b = 0; b < shape.num_reprs; ++b) raise(tile, head.reprs[b]);
    if (call.estimate == kExact) {
      for (int64_t b = 0; b < shape.num_blocks; ++b) raise(tile, head.blocks[b]);
    } else {
      raise_near(tile);
    }
    return true;
  }

  // Raises m to the true maximum over the sink block and the blocks of the tile's own positions.
  void raise_near(int64_t tile) {
    const int64_t row = first + tile * kRows;
    const int64_t last = row + kRows - 1 < call.length ? row + kRows - 1 : call.length - 1;
    raise(tile, head.blocks[0]);
    for (int64_t b = row / kBlock; b <= last / kBlock; ++b)
      if (b > 0) raise(tile, head.blocks[b]);
  }

  void raise(int64_t tile, const KeyBlock& block) {
    score(tile, block, scratch.scores);
    for (int r = 0; r < kRows; ++r) {
      const float top = largest(row_max(tile, r, block, scratch.scores));
      float& m = scratch.m[tile * kRows + r];
      m = top > m ? top : m;
    }
  }

  static const int32_t* start_of(const KeyBlock& block) {
    return Score::kHasInit ? block.init : kNothing;
  }

  void score(int64_t tile, const KeyBlock& block, int32_t* to) {
    Score::Mul::template tile<4>(scratch.q + tile * kRows * row_bytes, row_bytes, block.groups,
                                 shape.dim / Score::kPerGroup, start_of(block), to);
  }

  static Floats as_float(const int32_t* scores) {
    if constexpr (Score::kIsFloat) return Floats::load(scores);
    return to_floats(Ints::load(scores));
  }

  // Largest scores of a row in a block, lane by lane.
  Floats row_max(int64_t tile, int r, const KeyBlock& block, const int32_t* scores) const {
    const int32_t* row = scores + r * kBlock;
    const Floats scale(scratch.row_scale[tile * kRows + r] * block.scale);
    if (block.bias != nullptr) {
      Floats top(kMasked);
      for (int c = 0; c < 4; ++c) {
        const Floats bias = Floats::load(block.bias + 16 * c);
        top = max(top, multiply_add(as_float(row + 16 * c), scale, bias));
      }
      return top;
    }
    if constexpr (Score::kIsFloat)
      return max(max(as_float(row), as_float(row + 16)),
                 max(as_float(row + 32), as_float(row + 48))) *
             scale;
    const Ints a = max(Ints::load(row), Ints::load(row + 16));
    const Ints b = max(Ints::load(row + 32), Ints::load(row + 48));
    return to_floats(max(a, b)) * scale;
  }

  // P = 2^(S - m) of one block, kept at `p`, and its sums.
  template <bool kHasBias, class By>
  ASTRORAY_INLINE void weigh_block(int64_t tile, const KeyBlock& block, const int32_t* scores, char* p,
                                   const By& by) {
    ahead.fetch();
    for (int r = 0; r < kRows; ++r)
      weigh_row<kHasBias>(tile * kRows + r, block, scores + r * kBlock, p + r * kSpan * Value::kBytes,
                          by);
  }

  template <bool kHasBias>
  void weigh(int64_t tile, const KeyBlock& block, const int32_t* scores, char* p) {
    if constexpr (!Value::kByTable) {
      weigh_block<kHasBias>(tile, block, scores, p, OneByOne<Value>());
    } else if (scratch.bounded[tile]) {
      weigh_block<kHasBias>(tile, block, scores, p, typename Value::LookedUp());
    } else {
      weigh_block<kHasBias>(tile, block, scores, p, typename Value::Computed());
    }
  }

  template <bool kHasBias, class By>
  ASTRORAY_INLINE void weigh_row(int64_t at, const KeyBlock& block, const int32_t* scores, char* p,
                                 const By& by) {
    const Floats scale(By::kUnit * scratch.row_scale[at] * block.scale);
    const Floats shift(-By::kUnit * scratch.m[at]);
    Floats total = Floats::load(scratch.sums + 16 * at);
    for (int c = 0; c < 4; c += By::kVectors) {
      Floats t[By::kVectors];
      for (int i = 0; i < By::kVectors; ++i) {
        t[i] = multiply_add(as_float(scores + 16 * (c + i)), scale, shift);
        if constexpr (kHasBias) t[i] += Floats::load(block.bias + 16 * (c + i));
      }
      total = by.keep(p + 16 * c * Value::kBytes, t, total);
    }
    total.store(scratch.sums + 16 * at);
  }

  void weigh(int64_t tile, const KeyBlock& block, const int32_t* scores, char* p) {
    if (block.bias == nullptr) {
      weigh<false>(tile, block, scores, p);
    } else {
      weigh<true>(tile, block, scores, p);
    }
  }

  // O += P V over blocks `begin` to `end`, whose P begins at `p`.
  void add_values(int64_t tile, int64_t begin, int64_t end, const char* p) {
    const int64_t span = shape.num_blocks * kBlock / Value::kPerGroup;
    const int64_t steps = (end - begin) * kBlock / Value::kPerGroup;
    const int64_t vectors = shape.chunk / 16;
    for (int64_t chunk = 0; chunk < shape.num_chunks; ++chunk) {
      const char* v =
          head.values + 4 * (chunk * span + begin * kBlock / Value::kPerGroup) * shape.chunk;
      constexpr int64_t stride = kSpan * Value::kBytes;
      if (vectors == 4) {
        Value::Mul::template tile<4>(p, stride, v, steps, kNothing, scratch.c);
      } else if (vectors == 3) {
        Value::Mul::template tile<3>(p, stride, v, steps, kNothing, scratch.c);
      } else {
        Value::Mul::template tile<2>(p, stride, v, steps, kNothing, scratch.c);
      }
      for (int r = 0; r < kRows; ++r) {
        float* out = scratch.out + (tile * kRows + r) * shape.dim + chunk * shape.chunk;
        const char* c = scratch.c + r * vectors * 64;
        for (int64_t i = 0; i < vectors; ++i)
          (Floats::load(out + 16 * i) + Value::widen(c + 64 * i)).store(out + 16 * i);
      }
    }
  }

  void clear(int64_t tile) {
    memset(scratch.out + tile * kRows * shape.dim, 0, sizeof(float) * kRows * shape.dim);
    memset(scratch.sums + tile * kRows * 16, 0, sizeof(float) * kRows * 16);
  }

  // One span of keys with m frozen.
  void attend_frozen(int64_t tile, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      score(tile, head.blocks[b], scratch.scores);
      weigh(tile, head.blocks[b], scratch.scores, scratch.p + (b - begin) * kBlock * Value::kBytes);
    }
    add_values(tile, begin, end, scratch.p);
  }

  // What a tile begins an online softmax with.
  void begin_online(int64_t tile) {
    clear(tile);
    float* m = scratch.m + tile * kRows;
    for (int r = 0; r < kRows; ++r) m[r] = kMasked / 2;  // above a masked key, so that it weighs 0
    if (voting) raise_near(tile);
  }

  // One span of keys with a running maximum; where skip > 0, without the blocks voted out.
  void attend_online(int64_t tile, int64_t begin, int64_t end) {
    const uint32_t active = score_span(tile, begin, end);
    for (int64_t b = begin; b < end; ++b)
      if (active >> (b - begin) & 1)
        weigh(tile, head.blocks[b], scratch.scores + (b - begin) * kRows * kBlock,
              scratch.p + (b - begin) * kBlock * Value::kBytes);
    for (int64_t b = begin; b < end; ++b) {
      if (!(active >> (b - begin) & 1)) continue;
      int64_t until = b + 1;
      while (until < end && active >> (until - begin) & 1) ++until;
      add_values(tile, b, until, scratch.p + (b - begin) * kBlock * Value::kBytes);
      b = until;
    }
  }

  // Scores of a span, m raised to their maxima and O and l rescaled; a bit for each block kept.
  uint32_t score_span(int64_t tile, int64_t begin, int64_t end) {
    alignas(64) float tops[kSuper][kRows];
    Floats running[kRows];
    for (Floats& top : running) top = Floats(kMasked);
    for (int64_t b = begin; b < end; ++b) {
      int32_t* scores = scratch.scores + (b - begin) * kRows * kBlock;
      score(tile, head.blocks[b], scores);
      for (int r = 0; r < kRows; ++r) {
        const Floats top = row_max(tile, r, head.blocks[b], scores);
        running[r] = max(running[r], top);
        if (voting) tops[b - begin][r] = largest(top);
      }
    }
    uint32_t active = (1u << (end - begin)) - 1;
    if (voting) active = vote(tile, begin, end, tops);
    for (int r = 0; r < kRows; ++r) {
      const int64_t at = tile * kRows + r;
      const float top = largest(running[r]);
      if (!(top > scratch.m[at])) continue;
      const Floats by = exp2_16<5>(Floats(scratch.m[at] - top));
      scratch.m[at] = top;
      float* out = scratch.out + at * shape.dim;
      for (int64_t d = 0; d < shape.dim; d += 16) (Floats::load(out + d) * by).store(out + d);
      (Floats::load(scratch.sums + 16 * at) * by).store(scratch.sums + 16 * at);
    }
    return active;
  }

  uint32_t vote(int64_t tile, int64_t begin, int64_t end, const float (*tops)[kRows]) {
    uint32_t active = 0;
    const float limit = -call.skip * kLog2E;
    for (int64_t b = begin; b < end; ++b) {
      bool kept = false;
      for (int r = 0; r < kRows && tile * kRows + r < num_rows; ++r) {
        const float top = tops[b - begin][r], m = scratch.m[tile * kRows + r];
        kept = kept || !(top - (top > m ? top : m) < limit);
      }
      active |= static_cast<uint32_t>(kept) << (b - begin);
      ++facts[2];
      facts[3] += !kept;
    }
    return active;
  }

  // Sums of a tile's rows, 1 of those beyond the group.
  void totals(int64_t tile, float* l) const {
    for (int r = 0; r < kRows; ++r) {
      const int64_t row = tile * kRows + r;
      l[r] = row < num_rows ? sum(Floats::load(scratch.sums + 16 * row)) : 1.0f;
    }
  }

  // Whether sums prove that no row of a frozen tile overflowed or lost what matters.
  static bool certify(const float* l) {
    bool all = true;
    for (int r = 0; r < kRows; ++r) all &= l[r] > Value::kLow && l[r] < Value::kHigh;
    return all;
  }

  template <class Row>
  void store(int64_t head_at, int64_t tile, const float* l) {
    const int64_t* strides = call.out_strides;
    const int64_t base = head_at / call.heads * strides[0] + head_at % call.heads * strides[1];
    const Row scale = Row::load(head.value_scale);
    for (int r = 0; r < kRows && tile * kRows + r < num_rows; ++r) {
      const int64_t row = tile * kRows + r;
      const float by = l[r] == 0.0f ? 0.0f : 1.0f / l[r];
      Row out = Row::load(scratch.out + row * Row::kDim) * Row::all(by);
      if (l[r] != 0.0f) out = out * scale;
      out.store(call.out, call.dtype, base + (first + row) * strides[2]);
    }
  }

  void run(int64_t head_at) {
    load(head_at);
    const int64_t num_tiles = (num_rows + kRows - 1) / kRows;
    const int64_t start = call.skip > 0.0f ? scout() : 0;
    for (int64_t t = start; t < num_tiles; ++t) {
      scratch.online[t] = voting || !choose(t);
      if (scratch.online[t]) {
        begin_online(t);
      } else {
        clear(t);
      }
    }
    for (int64_t begin = 0; begin < shape.num_blocks; begin += kSuper) {
      const int64_t end = span_end(begin);
      const bool are_done = attend_frozen_tiles(*this, start, num_tiles, begin, end);
      for (int64_t t = start; t < num_tiles; ++t) {
        if (scratch.online[t]) {
          attend_online(t, begin, end);
        } else if (!are_done) {
          attend_frozen(t, begin, end);
        }
      }
    }
    for (int64_t t = 0; t < num_tiles; ++t) finish(head_at, t);
  }

  // Attends the group's first tile with votes, which decides whether the others vote: where next to
  // nothing can be left out, a frozen maximum is faster and exact. Returns the tiles that are done.
  int64_t scout() {
    const int64_t voted = facts[2], skipped = facts[3];
    voting = true;
    attend_alone(0);
    voting = facts[3] - skipped > kWorthVoting * static_cast<float>(facts[2] - voted);
    return 1;
  }

  void attend_alone(int64_t tile) {
    scratch.online[tile] = true;
    begin_online(tile);
    for (int64_t begin = 0; begin < shape.num_blocks; begin += kSuper)
      attend_online(tile, begin, span_end(begin));
  }

  int64_t span_end(int64_t begin) const {
    return begin + kSuper < shape.num_blocks ? begin + kSuper : shape.num_blocks;
  }

  // Certifies a tile, does it again online where it fails, and writes it.
  void finish(int64_t head_at, int64_t tile) {
    float l[kRows];
    totals(tile, l);
    if (!scratch.online[tile] && !certify(l)) {
      attend_alone(tile);
      totals(tile, l);
    }
    ++facts[0];
    facts[1] += scratch.online[tile] && call.estimate != kOnline;
    with_row(shape.dim, [&](auto row) { store<decltype(row)>(head_at, tile, l); });
  }
};

#ifndef __AMX_TILE__
template <class Score, class Value>
bool attend_frozen_tiles(Rows<Score, Value>& rows, int64_t tile, int64_t num_tiles, int64_t begin,
                         int64_t end) {
  if constexpr (Value::kByTable) return attend_mixed_tiles(rows, tile, num_tiles, begin, end);
  return false;
}
#endif

}  // namespace
}  // namespace astroray
