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

// The vectors of a block that lie in one cell.
struct Segment {
  int64_t cell;
  double low, high;  // bounds of their distances from its center
};

// Vectors in the order of cells, then of their distance from the center: a block holds few cells,
// and of each a thin shell. Behind all of them come those far from their centers, in the same
// order: a few of them in a block would make its shell thick.
struct Cells {
  const Nearest& call;
  int64_t num_blocks, lanes;
  double shrink, grow;  // what a computed distance from a center is widened by
  float* rows;          // [C, padded D] framed centers
  float* columns;       // [D, lanes] the same, a column a center
  double* away;         // [V] distance from the center of the vector's cell
  int64_t* sorted;      // [V] rows by cell, then distance
  int64_t* start;       // [C + 1] where each cell starts in it
  int64_t* order;       // [V] rows by place
  int64_t* home;        // [C + 1] places where those of a cell start that are not far
  Segment* segments;    // in the order of blocks
  int64_t* first;       // [blocks + 1] where those of each block start
  char* memory;

  Cells(const Nearest& c, int64_t blocks)
      : call(c), num_blocks(blocks), lanes((c.num_cells + 15) / 16 * 16), memory(nullptr) {
    const double error = static_cast<double>(c.dim + 8) * 0x1p-24;
    shrink = 1.0 - error;
    grow = 1.0 + error;
    if (!any()) return;
    const int64_t sizes[] = {c.num_cells * padded_dim(c.dim) * 4,
                             c.dim * lanes * 4,
                             c.num_vectors * 8,
                             c.num_vectors * 8,
                             (c.num_cells + 1) * 8,
                             c.num_vectors * 8,
                             (c.num_cells + 1) * 8,
                             (blocks + 2 * c.num_cells) * static_cast<int64_t>(sizeof(Segment)),
                             (blocks + 1) * 8};
    int64_t total = 0, at[9];
    for (int i = 0; i < 9; total += (sizes[i++] + 63) / 64 * 64) at[i] = total;
    memory = static_cast<char*>(aligned_alloc(64, total));
    if (memory == nullptr) return;
    rows = reinterpret_cast<float*>(memory + at[0]);
    columns = reinterpret_cast<float*>(memory + at[1]);
    away = reinterpret_cast<double*>(memory + at[2]);
    sorted = reinterpret_cast<int64_t*>(memory + at[3]);
    start = reinterpret_cast<int64_t*>(memory + at[4]);
    order = reinterpret_cast<int64_t*>(memory + at[5]);
    home = reinterpret_cast<int64_t*>(memory + at[6]);
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
    memset(columns, 0, call.dim * lanes * 4);
    for (int64_t c = 0; c < call.num_cells; ++c) {
      frame_row(call, call.centers + c * call.dim, rows + c * dim);
      for (int64_t d = 0; d < call.dim; ++d) columns[d * lanes + c] = rows[c * dim + d];
    }
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
    int64_t num = 0;
    for (int64_t place = 0; place < call.num_vectors; ++place) {
      const int64_t row = order[place], cell = call.cell[row];
      if (place % kBlock == 0) first[place / kBlock] = num;
      if (place % kBlock == 0 || cell != segments[num - 1].cell)
        segments[num++] = Segment{cell, away[row] * shrink, 0.0};
      segments[num - 1].high = away[row] * grow;
    }
    first[num_blocks] = num;
  }

  // Distances of a framed row from all centers, each at to[c * step]; returns the nearest cell in
  // which there is a vector.
  int64_t measure_all(const float* framed, float* to, int64_t step) const {
    int64_t nearest = -1;
    for (int64_t c = 0; c < call.num_cells; c += 16) {
      Floats squares(0.0f);
      for (int64_t d = 0; d < call.dim; ++d) {
        const Floats rest = Floats(framed[d]) - Floats::load(columns + d * lanes + c);
        squares = multiply_add(rest, rest, squares);
      }
      alignas(64) float distance[16];
      store_floats(distance, root(lower(squares)));
      store_floats(distance + 8, root(upper(squares)));
      for (int64_t i = 0; i < 16 && c + i < call.num_cells; ++i) {
        to[(c + i) * step] = distance[i];
        if (home[c + i] == home[c + i + 1]) continue;
        if (nearest < 0 || distance[i] < to[nearest * step]) nearest = c + i;
      }
    }
    return nearest;
  }
};

}  // namespace
}  // namespace astroray
