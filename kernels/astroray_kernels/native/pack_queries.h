// Queries in the layout that the register tiles read, and the bounds of their scores.
#pragma once
#include "pack.h"
#include "scratch.h"

namespace astroray {
namespace {

// Of the largest score of a row: whatever its estimate, none is then further than 2^24 from it.
constexpr float kBounded = 0x1p20f;

// Packs the queries of a group, from row `first` on, and bounds the maxima of their scores.
template <class Score, class Value, class Row>
inline void pack_queries(const HeadRows<Row>& queries, const Head& head, int64_t first,
                         int64_t num_rows, int64_t row_bytes, Scratch* scratch) {
  const float log2_scale = queries.call.scale * kLog2E;
  // Left to the scores, but for its sign.
  const float later = Score::kIsRounded ? __builtin_fabsf(log2_scale) : 1.0f;
  const Row by =
      Row::all(Score::kIsRounded ? __builtin_copysignf(1.0f, log2_scale) : log2_scale);
  const int64_t padded = (num_rows + kRows - 1) / kRows * kRows;
  const auto row_at = [&](int64_t r) {
    return r < num_rows ? queries.load(first + r) * by : Row::all(0.0f);
  };
  alignas(64) float squares[kGroup], tops[kGroup], inverses[kGroup];  // squares become bounds
  const Row mean = Row::load(head.mean);
  for (int64_t r = 0; r < padded; ++r) {
    const Row row = row_at(r);
    squares[r] = row.square();
    if constexpr (!Score::kIsFloat) tops[r] = largest_size(row.size());
    scratch->lift[r] = head.has_mean ? later * row.dot(mean) : 0.0f;
  }
  for (int64_t r = 0; r < padded; r += 16) {
    const Floats norm = root(Floats::load(squares + r));
    Floats scale(later);
    if constexpr (!Score::kIsFloat) scale = integer_scale<Score>(Floats::load(tops + r), norm);
    scale.store(scratch->row_scale + r);
    (Floats(1.0f) / scale).store(inverses + r);
    const Floats bound = norm * Floats(head.key_norm) * Floats(1.01f) * Floats(later);
    bound.store(squares + r);
    const Floats above = max(bound - Floats(Value::kHeadroom), Floats(0.0f));
    (above + Floats::load(scratch->lift + r)).store(scratch->m + r);
  }
  for (int64_t r = 0; r < padded; ++r)
    put_row<Score>(row_at(r), inverses[r], true, scratch->q + r * row_bytes);
  for (int64_t r = 0; r < padded; ++r) {
    bool& all = scratch->bounded[r / kRows];
    all = (r % kRows == 0 || all) && squares[r] < kBounded;
  }
}

}  // namespace
}  // namespace astroray
