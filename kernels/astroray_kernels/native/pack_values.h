// Values in the layouts that the register tiles read, and their number formats.
#pragma once
#include "pack.h"

namespace astroray {
namespace {

// Value formats. kPerGroup: keys in 32 bits. kBytes: of one probability. kByTable: weights come from a
// table, two vectors at once. kScales: V must be scaled, by divisor. group: a number of each of kPerGroup
// keys, the first in the lowest bits.
struct ValueFloat32 {
  using Mul = MulFloat32;
  static constexpr int kPerGroup = 1, kBytes = 4, kDegree = 5;
  static constexpr bool kByTable = false, kScales = false;
  static constexpr float kLow = 1e-20f, kHigh = 1e30f, kHeadroom = 60.0f, kMost = 120.0f;
  static float divisor(float top) { return power_above(top); }
  static Ints group(const Floats* x) { return as_ints(*x); }
  static Floats keep(void* to, Floats p) {
    p.store(to);
    return p;
  }
  static Floats widen(const char* c) { return Floats::load(c); }
};

// Largest sizes of a head's values, channel by channel.
template <class Row>
struct Sizes {
  Ints of[Row::kVectors];

  Sizes() {
    for (Ints& size : of) size = Ints(0);
  }
  void raise(const Row& row) {
    for (int i = 0; i < Row::kVectors; ++i) of[i] = max(of[i], sizes(row.x[i]));
  }
  // Whether all are 0 or within 2^20 of 1.
  bool are_moderate() const {
    bool all = true;
    for (const Ints& size : of) {
      const Floats x = as_floats(size);
      all = all && (at_least(x, Floats(0x1p-20f)) | at_least(Floats(0.0f), x)) == 0xffff &&
            at_least(Floats(0x1p20f), x) == 0xffff;
    }
    return all;
  }
};

// What channels are divided by, to `scale`; returns its inverse, of half a value: 2^-127 may count as 0.
template <class Value, class Row>
inline Row scale_values(const HeadRows<Row>& values, float* scale) {
  uint8_t valid[kBlock];
  Sizes<Row> tops;
  for (int64_t start = 0; start < values.call.length; start += kBlock)
    values.visit(start, valid, [&](int, const Row& row) { tops.raise(row); });
  alignas(64) float inverse[Row::kDim];
  for (int i = 0; i < Row::kVectors; ++i) tops.of[i].store(scale + 16 * i);
  for (int64_t d = 0; d < Row::kDim; ++d) {
    const float top = scale[d];
    scale[d] = top != top ? top : top ? Value::divisor(top) : 1.0f;
    inverse[d] = 1.0f / (scale[d] * 0.5f);
  }
  return Row::load(inverse);
}

// Which group of a block's keys stands at a place. Weights by table lie as _mm512_packs_epi32 leaves them,
// four keys of the first 16 and four of the next 16 in turns.
template <class Value>
constexpr int64_t keys_at(int64_t place) {
  if (!Value::kByTable) return place;
  return place / 16 * 16 + place % 16 / 4 * 2 + place % 2 + (place % 4 >= 2 ? 8 : 0);
}

// Packs V as [chunk][keys / kPerGroup][channels] groups, after `change`; keys that take no part are zero.
template <class Value, class Row, class Change>
inline void put_values(const HeadRows<Row>& values, const Shape& shape, char* to, Change change) {
  const int64_t span = shape.num_blocks * kBlock / Value::kPerGroup;
  const int vectors = static_cast<int>(shape.chunk / 16);
  uint8_t valid[kBlock];
  for (int64_t b = 0; b < shape.num_blocks; ++b) {
    valid_keys(values.call, values.batch, b * kBlock, valid);
    for (int64_t g = 0; g < kBlock / Value::kPerGroup; ++g, to += 4 * shape.chunk) {
      Row rows[Value::kPerGroup];
      for (int i = 0; i < Value::kPerGroup; ++i) {
        const int64_t j = keys_at<Value>(g) * Value::kPerGroup + i;
        rows[i] = valid[j] ? change(values.load(b * kBlock + j)) : Row::all(0.0f);
      }
      for (int i = 0; i < Row::kVectors; ++i) {
        Floats x[Value::kPerGroup];
        for (int n = 0; n < Value::kPerGroup; ++n) x[n] = rows[n].x[i];
        Value::group(x).store(to + 4 * (i / vectors * span * shape.chunk + i % vectors * 16));
      }
    }
  }
}

// Packs V: as it is where that is safe, which shows on the way, else channels divided by `value_scale`.
template <class Value, class Row>
inline void pack_values(const HeadRows<Row>& values, const Shape& shape, Head* head) {
  if constexpr (!Value::kScales) {
    Sizes<Row> tops;
    put_values<Value>(values, shape, head->values, [&](const Row& row) {
      tops.raise(row);
      return row;
    });
    Row::all(1.0f).store(head->value_scale);
    if (tops.are_moderate()) return;
  }
  const Row inverse = scale_values<Value>(values, head->value_scale), half = Row::all(0.5f);
  put_values<Value>(values, shape, head->values,
                    [&](const Row& row) { return row * half * inverse; });
}

}  // namespace
}  // namespace astroray
