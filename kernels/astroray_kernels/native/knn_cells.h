// Which blocks of vectors a query need not be compared with, by how far both are from a center.
//
// The caller says in which cell each vector lies, and a center of each. For framed rows x', y' and
// the framed center c' of y's cell, the triangle inequality has
//
//   |x' - y'| >= max(|x' - c'| - |y' - c'|, |y' - c'| - |x' - c'|)
//
// whatever c' is: cells decide how many pairs are compared, never what is found. A vector that may
// still be among the K nearest has |x' - y'| <= r + v (X + M), as knn_search.h says. |x' - c'| is
// the root of a float32 sum of squares, none of them negative: a term passes through at most D + 2
// roundings, and the root through one when it is stored, so it errs by less than (D + 8) u of
// itself, u = 2^-24, and by less than kFaint where squares fall below float32's range (Higham,
// Accuracy and Stability, section 3.1). |y' - c'| is summed in float64 and widened as much.
#pragma once
#include <algorithm>
#include <cstdlib>

#include "knn_pack.h"

namespace astroray {
namespace {

constexpr double kFaint = 0x1p-54;  // the root of 2^17 squares below 2^-126
constexpr double kFar = 1.5;        // of the median distance from a center

// Vectors of one cell between two distances from its center.
struct Shell {
  double low, high;  // bounds of the distances

  void add(double least, double most) {
    low = least < low ? least : low;
    high = most > high ? most : high;
  }
};

constexpr Shell kEmpty = {__builtin_inf(), -__builtin_inf()};

// Those of a block.
struct Segment {
  int64_t cell, shell;  // [2 C] of the cell, those near its center or those far from it
  Shell bounds;
};

// Vectors in the order of cells, then of their distance from the center: a block holds few cells,
// and of each a thin shell. Behind all of them come those far from their centers, in the same
// order: a few of them in a block would make its shell thick.
struct Cells {
  const Nearest& call;
  int64_t num_blocks;
  double shrink, grow;  // what a computed distance from a center is widened by
  float* rows;          // [C, padded D] framed centers
  double* away;         // [V] distance from the center of the vector's cell
  int64_t* sorted;      // [V] rows by cell, then distance
  int64_t* start;       // [C + 1] where each cell starts in it
  int64_t* order;       // [V] rows by place
  int64_t* home;        // [C + 1] places where those of a cell start that are not far
  Shell* shells;        // [2 C] of each cell those near its center, then of each those far from it
  Segment* segments;    // in the order of blocks
  int64_t* first;       // [blocks + 1] where those of each block start
  char* memory;

  Cells(const Nearest& c, int64_t blocks)
      : call(c), num_blocks(blocks), memory(nullptr) {
    const double error = static_cast<double>(c.dim + 8) * 0x1p-24;
    shrink = 1.0 - error;
    grow = 1.0 + error;
    if (!any()) return;
    const int64_t sizes[] = {c.num_cells * padded_dim(c.dim) * 4,
                             c.num_vectors * 8,
                             c.num_vectors * 8,
                             (c.num_cells + 1) * 8,
                             c.num_vectors * 8,
                             (c.num_cells + 1) * 8,
                             2 * c.num_cells * static_cast<int64_t>(sizeof(Shell)),
                             (blocks + 2 * c.num_cells) * static_cast<int64_t>(sizeof(Segment)),
                             (blocks + 1) * 8};
    int64_t total = 0, at[9];
    for (int i = 0; i < 9; total += (sizes[i++] + 63) / 64 * 64) at[i] = total;
    memory = static_cast<char*>(aligned_alloc(64, total));
    if (memory == nullptr) return;
    rows = reinterpret_cast<float*>(memory + at[0]);
    away = reinterpret_cast<double*>(memory + at[1]);
    sorted = reinterpret_cast<int64_t*>(memory + at[2]);
    start = reinterpret_cast<int64_t*>(memory + at[3]);
    order = reinterpret_cast<int64_t*>(memory + at[4]);
    home = reinterpret_cast<int64_t*>(memory + at[5]);
    shells = reinterpret_cast<Shell*>(memory + at[6]);
    segments = reinterpret_cast<Segment*>(memory + at[7]);
    first = reinterpret_cast<int64_t*>(memory + at[8]);
  }
  ~Cells() { free(memory); }
  Cells(const Cells&) = delete;
  Cells& operator=(const Cells&) = delete;

  bool any() const { return call.num_cells > 0; }
  bool is_ready() const { return !any() || memory != nullptr; }

  void frame_centers() {
    const int64_t dim = padded_dim(call.dim);
    for (int64_t c = 0; c < call.num_cells; ++c)
      frame_row(call, call.centers + c * call.dim, rows + c * dim);
  }

  // framed  [padded D]: scratch of the thread
  void measure(int64_t v, float* framed) {
    const int64_t dim = padded_dim(call.dim);
    frame_row(call, call.vector[v], framed);
    const float* center = rows + call.cell[v] * dim;
    Doubles squares(0.0);
    for (int64_t d = 0; d < dim; d += 8) {
      const Doubles rest = Doubles::load(framed + d, 8) - Doubles::load(center + d, 8);
      squares = multiply_add(rest, rest, squares);
    }
    away[v] = __builtin_sqrt(sum(squares));
  }

  void sort_by_cell() {
    memset(start, 0, (call.num_cells + 1) * 8);
    for (int64_t v = 0; v < call.num_vectors; ++v) ++start[call.cell[v] + 1];
    for (int64_t c = 0; c < call.num_cells; ++c) start[c + 1] += start[c];
    for (int64_t v = 0; v < call.num_vectors; ++v) sorted[start[call.cell[v]]++] = v;
    for (int64_t c = call.num_cells; c > 0; --c) start[c] = start[c - 1];
    start[0] = 0;
  }

  // Where those of a cell end that are not far.
  int64_t near_end(int64_t c) const {
    if (start[c] == start[c + 1]) return start[c];
    const double most = kFar * away[sorted[(start[c] + start[c + 1] - 1) / 2]];
    const auto is_near = [this, most](int64_t row) { return away[row] <= most; };
    return std::partition_point(sorted + start[c], sorted + start[c + 1], is_near) - sorted;
  }

  void sort_cell(int64_t c) {
    std::sort(sorted + start[c], sorted + start[c + 1], [this](int64_t a, int64_t b) {
      return away[a] < away[b] || (away[a] == away[b] && a < b);
    });
  }

  void divide() {
    int64_t near = 0, far = call.num_vectors;
    for (int64_t c = 0; c < call.num_cells; ++c) {  // far ones from the end, the last cell first
      const int64_t back = call.num_cells - 1 - c;
      for (int64_t i = start[back + 1]; i > near_end(back); --i) order[--far] = sorted[i - 1];
      home[c] = near;
      for (int64_t i = start[c]; i < near_end(c); ++i) order[near++] = sorted[i];
    }
    home[call.num_cells] = near;
    std::fill(shells, shells + 2 * call.num_cells, kEmpty);
    int64_t num = 0;
    for (int64_t place = 0; place < call.num_vectors; ++place) {
      const int64_t row = order[place], cell = call.cell[row];
      const int64_t shell = place < near ? cell : call.num_cells + cell;
      if (place % kBlock == 0) first[place / kBlock] = num;
      if (place % kBlock == 0 || shell != segments[num - 1].shell)
        segments[num++] = Segment{cell, shell, kEmpty};
      segments[num - 1].bounds.add(away[row] * shrink, away[row] * grow);
      shells[shell].add(away[row] * shrink, away[row] * grow);
    }
    first[num_blocks] = num;
  }

  // Distances of 16 framed rows from all centers, and the nearest cell of each that has a vector.
  // column  [D, 16] a column a row
  // to      [C, 16]
  void measure_all(const float* column, float* to, int64_t* nearest) const {
    const int64_t dim = padded_dim(call.dim);
    Floats least(__builtin_inff());
    nearest[0] = -1;
    for (int64_t c = 0; c < call.num_cells; c += 2) {  // two at once: sums wait for each other
      const int64_t both[] = {c, c + 1 < call.num_cells ? c + 1 : c};
      const float* center[] = {rows + both[0] * dim, rows + both[1] * dim};
      Floats squares[] = {Floats(0.0f), Floats(0.0f)};
      for (int64_t d = 0; d < call.dim; ++d) {
        const Floats x = Floats::load(column + d * 16);
        for (int i = 0; i < 2; ++i) {
          const Floats rest = x - Floats(center[i][d]);
          squares[i] = multiply_add(rest, rest, squares[i]);
        }
      }
      for (int i = 0; i < 2; ++i) {
        const Floats distance = root(squares[i]);
        distance.store(to + both[i] * 16);
        if (home[both[i]] == home[both[i] + 1]) continue;
        if (nearest[0] < 0) std::fill(nearest, nearest + 16, both[i]);
        for (uint32_t nearer = 0xffff & ~at_least(distance, least); nearer; nearer &= nearer - 1)
          nearest[__builtin_ctz(nearer)] = both[i];
        least = min(least, distance);
      }
    }
  }
};

}  // namespace
}  // namespace astroray
