// The published distance of a pair, to the last bit, and the nearest pairs of a query so far.
#pragma once
#include <cstdint>

#include "lanes.h"

namespace astroray {
namespace {

// Distances of a query to 8 vectors: the root of the float64 sum, from the first dimension to the
// last, of the squares of the float64 differences.
inline void measure8(const float* query, const float* const* vector, int64_t dim,
                     double* distance) {
  Doubles total(0.0);
  for (int64_t d = 0; d < dim; d += 8) {
    const Doubles x = Doubles::load(query + d, dim - d);
    Doubles square[8];
    for (int i = 0; i < 8; ++i) {
      const Doubles rest = x - Doubles::load(vector[i] + d, dim - d);
      square[i] = rest * rest;  // setup.py sees to it that no sum is fused with it
    }
    transpose8(square);
    for (int i = 0; i < 8; ++i) total += square[i];
  }
  root(total).store(distance);
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
