// Rows moved into a frame and rounded to 16-bit integers, with what the rounding lost.
//
// A framed row x' is float32((x - center) scale): it differs from the exact one by at most 2^-24 of
// its norm. Its integers n with scale a leave the rest d = x' - a n, whose norm is measured here,
// not estimated.
#pragma once
#include "core.h"
#include "knn.h"

namespace astroray {
namespace {

constexpr float kNothing = 0x1p-100f;     // a row below it counts as zero; its rest is itself
constexpr double kAbove = 1.0 + 0x1p-20;  // covers the roundings of norms

inline int64_t padded_dim(int64_t dim) { return (dim + 31) / 32 * 32; }  // 16 groups of 2

struct Row {
  double square;  // |x'|^2
  double norm;    // at least |x'|
  float top;      // largest |x'_d|
  double lost;    // at least |x' - a n|
};

// Writes x' as float32, padded by zeros.
inline Row frame_row(const Nearest& call, const float* x, float* to) {
  const Doubles scale(call.scale);
  Doubles squares(0.0), top(0.0);
  for (int64_t d = 0; d < padded_dim(call.dim); d += 8) {
    const int64_t left = call.dim - d > 0 ? call.dim - d : 0;
    const Doubles moved = Doubles::load(x + d, left) - Doubles::load(call.center + d, left);
    const Doubles framed = store_floats(to + d, moved * scale);
    squares = multiply_add(framed, framed, squares);
    top = max(top, abs(framed));
  }
  const double square = sum(squares);
  return Row{square, __builtin_sqrt(square) * kAbove, static_cast<float>(largest(top)), 0.0};
}

// The scale of integers for rows up to this largest number and norm. Norms of integers stay below
// 2^15.49, and their products below 2^31 by Cauchy-Schwarz, also on the way.
inline float scale_of(float top, double norm) {
  if (top < kNothing) return 1.0f;
  const float by_top = top / 32767.0f, by_norm = static_cast<float>(norm / 46000.0);
  return by_top > by_norm ? by_top : by_norm;
}

// Rounds a framed row to integers of that scale; sets what was lost.
inline void round_row(const float* framed, int64_t dim, float scale, int16_t* to, Row* row) {
  const Floats inverse(1.0f / scale), by(scale);
  Doubles squares(0.0);
  for (int64_t d = 0; d < dim; d += 16) {
    const Floats x = Floats::load(framed + d);
    const Ints n = rounded(x * inverse);
    const Floats rest = subtract_product(x, by, to_floats(n));
    const Doubles low = lower(rest), high = upper(rest);
    squares = multiply_add(low, low, multiply_add(high, high, squares));
    store_saturated(to + d, n);
  }
  row->lost = __builtin_sqrt(sum(squares)) * kAbove;
}

// 64 vectors, packed for the register tiles.
struct VectorBlock {
  float scale;         // of the integers
  double most;         // largest norm, of y' and of its integers
  double lost;         // largest rest
  float half[kBlock];  // |y'|^2 / 2; NaN where there is no vector, so that no test passes
};

// All vectors. Without cells, blocks take them by a stride through the survey, since in a survey in
// the order of its clusters a query would meet its neighbors last and measure every vector on the
// way.
struct Vectors {
  const Nearest& call;
  const int64_t* order;  // rows by place; null: by the stride
  int64_t num_blocks, block_groups;
  uint64_t stride;
  uint32_t* groups;     // [block][group of 2 dimensions][64]
  VectorBlock* blocks;  // [block]

  explicit Vectors(const Nearest& c)
      : call(c),
        order(nullptr),
        num_blocks((c.num_vectors + kBlock - 1) / kBlock),
        block_groups(padded_dim(c.dim) / 2 * kBlock),
        stride(stride_of(c.num_vectors)),
        groups(static_cast<uint32_t*>(aligned_alloc(64, num_blocks * block_groups * 4 + 64))),
        blocks(static_cast<VectorBlock*>(malloc(num_blocks * sizeof(VectorBlock)))) {}
  ~Vectors() {
    free(groups);
    free(blocks);
  }
  Vectors(const Vectors&) = delete;
  Vectors& operator=(const Vectors&) = delete;

  // The row at a place of the packed order; a permutation, since the stride shares no divisor.
  int64_t row(int64_t place) const {
    if (order != nullptr) return order[place];
    return static_cast<int64_t>(static_cast<uint64_t>(place) * stride % call.num_vectors);
  }

  static uint64_t stride_of(uint64_t num) {  // near the golden section
    uint64_t stride = static_cast<uint64_t>(static_cast<double>(num) * 0.6180339887498949) | 1;
    for (;; stride += 2) {
      uint64_t a = num, b = stride;
      while (b != 0) {
        const uint64_t rest = a % b;
        a = b;
        b = rest;
      }
      if (a == 1) return stride;
    }
  }

  // framed  [64, padded D], plain  [64, padded D]: scratch of the thread
  void pack(int64_t at, float* framed, int16_t* plain) {
    const int64_t dim = padded_dim(call.dim);
    VectorBlock& block = blocks[at];
    Row rows[kBlock];
    float top = 0.0f;
    double norm = 0.0;
    for (int j = 0; j < kBlock; ++j) {
      const int64_t place = at * kBlock + j;
      if (place < call.num_vectors) {
        rows[j] = frame_row(call, call.vector[row(place)], framed + j * dim);
        block.half[j] = static_cast<float>(rows[j].square * 0.5);
      } else {
        memset(framed + j * dim, 0, sizeof(float) * dim);
        rows[j] = Row{};
        block.half[j] = __builtin_nanf("");
      }
      top = rows[j].top > top ? rows[j].top : top;
      norm = rows[j].norm > norm ? rows[j].norm : norm;
    }
    block.scale = scale_of(top, norm);
    block.most = block.lost = 0.0;
    for (int j = 0; j < kBlock; ++j) {
      round_row(framed + j * dim, dim, block.scale, plain + j * dim, &rows[j]);
      const double most = rows[j].norm + rows[j].lost;
      block.most = most > block.most ? most : block.most;
      block.lost = rows[j].lost > block.lost ? rows[j].lost : block.lost;
    }
    const uint32_t* pairs = reinterpret_cast<const uint32_t*>(plain);
    for (int64_t d = 0; d < dim / 2; d += 16)
      for (int j = 0; j < kBlock; j += 16)
        transpose16(pairs + j * (dim / 2) + d, dim / 2, groups + at * block_groups + d * kBlock + j,
                    kBlock);
  }
};

}  // namespace
}  // namespace astroray
