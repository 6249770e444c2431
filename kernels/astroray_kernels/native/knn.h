// What the callers of the search for nearest vectors and its kernel agree on.
#pragma once
#include <cstdint>

namespace astroray {

// One call. Arrays are contiguous, all numbers finite.
struct Nearest {
  const float* query;      // [G, D]
  const float* vector;     // [V, D]
  const double* center;    // [D] any; products lose least near the middle
  const int64_t* exclude;  // [G] the vector that a query may not find, or -1; null = none
  int64_t* index;          // [G, K] out: nearest first, ties by index; -1 where there is none
  double* distance;        // [G, K] out; NaN where there is none
  int64_t num_queries, num_vectors, dim, num_neighbors;
  double scale;  // power of two that brings the norms around the center to at most 1
  int32_t threads;
  int64_t measured;  // out: pairs that the products could not rule out
};

// 0: done; 1: no memory
int nearest_avx2(Nearest& call);
int nearest_avx512(Nearest& call);

}  // namespace astroray
