// What the callers of the search for nearest vectors and its kernel agree on.
#pragma once
#include <cstdint>

namespace astroray {

// One call. Arrays are contiguous, all numbers finite.
struct Nearest {
  const float* query;      // [G, D]
  const float* const* vector;  // [V] where each lies, [D]
  const double* center;    // [D] any; products lose least near the middle
  const int64_t* label;    // [V] what each vector is called in results; null = its row
  const int64_t* exclude;  // [G] the label that a query may not find, or -1; null = none
  const double* within;    // [G] the largest distance that is looked for; null = any
  const int64_t* cell;     // [V] the cell of each vector, where there are cells
  const float* centers;    // [C, D] of cells; any, but near their vectors they save most
  int64_t* index;          // [G, K] out: labels, nearest first, ties by label; -1: there is none
  double* distance;        // [G, K] out; NaN where there is none
  int64_t num_queries, num_vectors, dim, num_neighbors, num_cells;
  double scale;  // power of two that brings the norms around the center to at most 1
  int32_t threads;
  int64_t compared;  // out: pairs that the cells could not rule out
  int64_t measured;  // out: of them, those that the products could not
};

// 0: done; 1: no memory
int nearest_avx2(Nearest& call);
int nearest_avx512(Nearest& call);

}  // namespace astroray
