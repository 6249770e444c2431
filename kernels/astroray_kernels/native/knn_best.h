// The published distance of a pair, to the last bit, and the nearest pairs of a query so far.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace astroray {
namespace {

// One step of the sum in its own order; a compiler may not fuse what names its rounding.
inline __m512d squared(__m512d x) {
  return _mm512_mul_round_pd(x, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

// Writes the transpose of 8 vectors of 8 numbers over them.
inline void transpose8(__m512d* r) {
  __m512d t[8];
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm512_unpacklo_pd(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_pd(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i) {
    r[i] = _mm512_shuffle_f64x2(t[i], t[i + 2], 0x88);
    r[i + 2] = _mm512_shuffle_f64x2(t[i], t[i + 2], 0xdd);
    r[i + 4] = _mm512_shuffle_f64x2(t[i + 4], t[i + 6], 0x88);
    r[i + 6] = _mm512_shuffle_f64x2(t[i + 4], t[i + 6], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_f64x2(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_f64x2(r[i], r[i + 4], 0xdd);
  }
  for (int i = 0; i < 8; ++i) r[i] = t[i];
}

// Distances of a query to 8 vectors: the root of the float64 sum, from the first dimension to the
// last, of the squares of the float64 differences.
inline void measure8(const float* query, const float* const* vector, int64_t dim,
                     double* distance) {
  __m512d total = _mm512_setzero_pd();
  for (int64_t d = 0; d < dim; d += 8) {
    const __mmask8 valid = dim - d >= 8 ? 0xff : (1 << (dim - d)) - 1;
    const __m512d x = _mm512_cvtps_pd(_mm256_maskz_loadu_ps(valid, query + d));
    __m512d square[8];
    for (int i = 0; i < 8; ++i) {
      const __m512d y = _mm512_cvtps_pd(_mm256_maskz_loadu_ps(valid, vector[i] + d));
      square[i] = squared(_mm512_sub_pd(x, y));
    }
    transpose8(square);
    for (int i = 0; i < 8; ++i)
      total = _mm512_add_round_pd(total, square[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  _mm512_storeu_pd(distance, _mm512_sqrt_pd(total));
}

struct Pair {
  double distance;
  int64_t index;
};

inline bool before(const Pair& a, const Pair& b) {
  return a.distance < b.distance || (a.distance == b.distance && a.index < b.index);
}

// The first K pairs so far, a heap whose root is the last of them.
struct Best {
  Pair* pairs;  // [K]
  int64_t size;

  void add(const Pair& pair, int64_t most) {
    if (size < most) {
      int64_t at = size++;
      for (; at > 0 && before(pairs[(at - 1) / 2], pair); at = (at - 1) / 2)
        pairs[at] = pairs[(at - 1) / 2];
      pairs[at] = pair;
    } else if (before(pair, pairs[0])) {
      sink(pair, size);
    }
  }

  // Puts a pair in the place of the root of the first `length`.
  void sink(const Pair& pair, int64_t length) {
    int64_t at = 0;
    for (int64_t child = 1; child < length; child = 2 * at + 1) {
      if (child + 1 < length && before(pairs[child], pairs[child + 1])) ++child;
      if (!before(pair, pairs[child])) break;
      pairs[at] = pairs[child];
      at = child;
    }
    pairs[at] = pair;
  }

  void sort() {
    for (int64_t length = size - 1; length > 0; --length) {
      const Pair last = pairs[length];
      pairs[length] = pairs[0];
      sink(last, length);
    }
  }
};

}  // namespace
}  // namespace astroray
