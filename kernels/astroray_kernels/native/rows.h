// Rows of D numbers in registers, and those of one head.
#pragma once
#include "core.h"

namespace astroray {
namespace {

// Sizes of numbers as integers, in the same order, and NaN above all of them.
inline Ints sizes(Floats x) { return as_ints(x) & Ints(0x7fffffff); }

inline float largest_size(Ints sizes) {  // NaN where there is one
  const int32_t bits = largest(sizes);
  float size;
  memcpy(&size, &bits, 4);
  return size;
}

// A row of D numbers, in registers.
template <int kWidth>
struct Row {
  static constexpr int kVectors = kWidth;
  static constexpr int64_t kDim = 16 * kVectors;
  Floats x[kVectors];

  static Row load(const void* from, int dtype, int64_t at) {
    Row row;
    for (int i = 0; i < kVectors; ++i) row.x[i] = load16(from, dtype, at + 16 * i);
    return row;
  }
  static Row load(const float* from) { return load(from, kFloat32, 0); }
  static Row all(float x) {
    Row row;
    for (int i = 0; i < kVectors; ++i) row.x[i] = Floats(x);
    return row;
  }
  void store(float* to) const { store(to, kFloat32, 0); }
  void store(void* to, int dtype, int64_t at) const {
    for (int i = 0; i < kVectors; ++i) store16(to, dtype, at + 16 * i, x[i]);
  }
  template <class Op>
  ASTRORAY_INLINE Row each(const Row& other, Op op) const {
    Row row;
    for (int i = 0; i < kVectors; ++i) row.x[i] = op(x[i], other.x[i]);
    return row;
  }
  Row operator+(const Row& other) const {
    return each(other, [](Floats a, Floats b) { return a + b; });
  }
  Row operator-(const Row& other) const {
    return each(other, [](Floats a, Floats b) { return a - b; });
  }
  Row operator*(const Row& other) const {
    return each(other, [](Floats a, Floats b) { return a * b; });
  }
  float dot(const Row& other) const {
    Floats total(0.0f);
    for (int i = 0; i < kVectors; ++i) total = multiply_add(x[i], other.x[i], total);
    return sum(total);
  }
  float square() const {
    Floats squares(0.0f);
    for (int i = 0; i < kVectors; ++i) squares = square_onto(squares, x[i]);
    return sum(squares);
  }
  Ints size() const {  // lane by lane the largest
    Ints top = sizes(x[0]);
    for (int i = 1; i < kVectors; ++i) top = max(top, sizes(x[i]));
    return top;
  }
};

// Calls `run` with an empty Row as wide as dim.
template <class Run>
inline auto with_row(int64_t dim, Run run) {
  if (dim == 32) return run(Row<2>());
  if (dim == 64) return run(Row<4>());
  if (dim == 96) return run(Row<6>());
  return run(Row<8>());
}

// Which of a block's 64 keys take part, none past the end; returns how many.
inline int valid_keys(const Attention& call, int64_t batch, int64_t start, uint8_t* valid) {
  int count = 0;
  for (int j = 0; j < kBlock; ++j) {
    const int64_t n = start + j;
    valid[j] = n < call.length && (call.mask == nullptr || call.mask[batch * call.length + n]);
    count += valid[j];
  }
  return count;
}

// The rows of q, k or v of one head.
template <class Row>
struct HeadRows {
  const Attention& call;
  const void* x;
  int64_t batch, base, stride;

  HeadRows(const Attention& call, const void* x, const int64_t* strides, int64_t batch, int64_t head)
      : call(call), x(x), batch(batch), base(batch * strides[0] + head * strides[1]),
        stride(strides[2]) {}

  Row load(int64_t n) const { return Row::load(x, call.dtype, base + n * stride); }

  // Calls `each` with the rows of a block that take part, by mask and length, and their places in
  // it; returns how many.
  template <class Each>
  int visit(int64_t start, uint8_t* valid, Each each) const {
    const int count = valid_keys(call, batch, start, valid);
    for (int j = 0; j < kBlock; ++j)
      if (valid[j]) each(j, load(start + j));
    return count;
  }
};

}  // namespace
}  // namespace astroray
