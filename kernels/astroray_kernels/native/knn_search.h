// The exact nearest vectors of many queries: integer products rule out, float64 measures the rest.
//
// For rows x', y' of the frame (knn_pack.h) let s = x'y' - |y'|^2 / 2: |x' - y'|^2 = |x'|^2 - 2 s.
// With integers p, q, scales a, b, rests d = x' - a p and e = y' - b q, and X >= |x'|, |a p|,
// M >= |y'|, |b q|:
//
//   x'y' = ab pq + d y' + a p e                       |x'y' - ab pq| <= |d| M + X |e|
//   S = float32(ab pq - |y'|^2 / 2)                   errs by 4u (X M + M^2) more, u = 2^-24
//
// Let r be the K-th smallest distance so far, in the frame and raised for the roundings of a
// published distance. A vector at most that far has |x' - y'| <= r + v (X + M), v = 1.01 u for
// moving both into the frame. So what may still be among the K nearest has
//
//   S >= (|x'|^2 - r^2) / 2 - v r (X + M) - v^2 (X^2 + M^2) - |d| M - X |e| - 4u (X M + M^2)
//
// which is A - B M - X |e| - C M^2 with A, B of the query and its r. Vectors that pass are
// measured; all others are proven to be farther. pq is exact (`scale_of`), so results depend on
// nothing else.
//
// A query may know a distance beyond which it looks for nothing; r is that until K are found.
// Where vectors lie in cells, a query looks into the one around it first. By the bound of
// knn_cells.h whole cells are left out then for all 6 queries of a tile, and blocks of the others
// by the r of when they are reached.
#pragma once
#include <omp.h>

#include "knn_best.h"
#include "knn_cells.h"
#include "knn_pack.h"

namespace astroray {
namespace {

constexpr int kTiles = 64;              // the bits of a number
constexpr int kShare = kTiles * kRows;  // queries that share a block while it is in the L1
constexpr int kPending = kBlock + 8;    // hits of a block beside those too few to measure
constexpr double kUnit = 0x1p-24, kMoved = 1.01 * kUnit;
constexpr double kFarthest = 4.0;  // framed; no two rows are farther apart
constexpr double kTiny = 0x1p-90;  // what numbers below float32's range lose, 2^31 of them
alignas(64) constexpr int32_t kNoStart[kBlock] = {};

struct Query {
  Best best;
  double square;  // |x'|^2
  double within;  // infinite: any distance
  int64_t exclude;
  int64_t home;  // the nearest center
  int num_pending;
  int64_t pending[kPending];  // rows that passed and wait to be measured
};

// Queries that are tested against one block after another.
struct Group {
  const Nearest& call;
  const Vectors& vectors;
  const Cells& cells;
  int64_t stride;  // bytes of a packed query
  int16_t* packed;
  float* framed;   // [64, padded D]
  float* away;     // [tile / 2, C, 2, 8] distances of two tiles' queries from the centers
  uint64_t* near;  // [2 C] the tiles, a bit each, that a shell of a cell may be needed by
  Query queries[kShare];
  // What the test needs; read 8 at a time from every sixth.
  double a[kShare + 8], b[kShare + 8], x[kShare + 8];
  float scale[kShare + 8];
  double lost[kShare];
  alignas(64) double reach[kTiles * 8];  // [tile, 8] r + v X; minus infinity where no query is
  alignas(64) int32_t scores[kRows * kBlock];
  int64_t first, num_rows, compared, measured;

  // Of the workspace: pairs, framed rows, packed rows, distances from centers, tiles. A group has
  // more rows than a block.
  static int64_t bytes(const Nearest& call) {
    return kShare * call.num_neighbors * static_cast<int64_t>(sizeof(Pair)) +
           padded_dim(call.dim) * (kBlock * 4 + kShare * 2) +
           call.num_cells * (kTiles * 8 * 4 + 2 * 8);
  }

  Group(const Nearest& c, const Vectors& v, const Cells& l, char* workspace)
      : call(c), vectors(v), cells(l), stride(padded_dim(c.dim) * 2), compared(0), measured(0) {
    Pair* pairs = reinterpret_cast<Pair*>(workspace);
    for (int r = 0; r < kShare; ++r) queries[r].best.pairs = pairs + r * call.num_neighbors;
    framed = reinterpret_cast<float*>(pairs + kShare * call.num_neighbors);
    packed = reinterpret_cast<int16_t*>(framed + kBlock * padded_dim(call.dim));
    away = reinterpret_cast<float*>(packed + kShare * padded_dim(call.dim));
    near = reinterpret_cast<uint64_t*>(away + call.num_cells * kTiles * 8);
    memset(a, 0, sizeof(a));
    memset(b, 0, sizeof(b));
    memset(x, 0, sizeof(x));
    memset(scale, 0, sizeof(scale));
  }

  int64_t label(int64_t row) const { return call.label == nullptr ? row : call.label[row]; }

  int64_t num_tiles() const { return (num_rows + kRows - 1) / kRows; }

  // Where the queries of a tile end; the last may have fewer.
  int64_t end_of(int64_t tile) const {
    return (tile + 1) * kRows < num_rows ? (tile + 1) * kRows : num_rows;
  }

  // The place of a query among 8 of each tile.
  static int64_t lane(int64_t r) { return r / kRows * 8 + r % kRows; }

  // How far the queries of a tile are from a center.
  Doubles distances(int64_t tile, int64_t cell) const {
    return Doubles::load(away + ((tile / 2 * call.num_cells + cell) * 2 + tile % 2) * 8, 8);
  }

  // column  [D, 16] the framed queries of two tiles, the first of which is even
  void measure_centers(int64_t tile, const float* column) {
    int64_t nearest[16];
    cells.measure_all(column, away + tile / 2 * call.num_cells * 16, nearest);
    for (int64_t r = tile * kRows; r < end_of(tile + 1); ++r)
      queries[r].home = nearest[lane(r) % 16];
  }

  void load() {
    const int64_t dim = padded_dim(call.dim);
    float* column = framed + dim;
    memset(column, 0, dim * 16 * sizeof(float));
    memset(packed, 0, kShare * stride);
    std::fill(reach, reach + kTiles * 8, -__builtin_inf());
    for (int64_t r = 0; r < num_rows; ++r) {
      Query& query = queries[r];
      Row row = frame_row(call, call.query + (first + r) * call.dim, framed);
      scale[r] = scale_of(row.top, row.norm);
      round_row(framed, dim, scale[r], packed + r * dim, &row);
      query.best.size = 0;
      query.num_pending = 0;
      query.square = row.square;
      query.within = call.within == nullptr ? __builtin_inf() : call.within[first + r];
      query.exclude = call.exclude == nullptr ? -1 : call.exclude[first + r];
      if (cells.any()) {
        for (int64_t d = 0; d < dim; ++d) column[d * 16 + lane(r) % 16] = framed[d];
        if ((r + 1) % (2 * kRows) == 0 || r + 1 == num_rows)
          measure_centers(r / (2 * kRows) * 2, column);
      }
      x[r] = row.norm + row.lost;
      lost[r] = row.lost;
      tighten(r);
    }
  }

  // The test's coefficients for the K-th distance so far.
  void tighten(int64_t r) {
    const Query& query = queries[r];
    const bool is_full = query.best.size == call.num_neighbors;
    const double last = is_full ? query.best.pairs[0].distance : query.within;
    const double roundings = static_cast<double>(call.dim + 16) * 0x1p-52;
    const double kth = last * call.scale * (1.0 + roundings) + 0x1p-120;
    if (!(kth < kFarthest)) {
      a[r] = -__builtin_inf();
      b[r] = 0.0;
      reach[lane(r)] = __builtin_inf();
      return;
    }
    const double moved = kMoved * x[r];
    a[r] = (query.square - kth * kth) * 0.5 - kth * moved - moved * moved - kTiny -
           roundings * (query.square + kth * kth);
    b[r] = lost[r] + kMoved * kth + 4.0 * kUnit * x[r];
    reach[lane(r)] = (kth + moved) * (1.0 + 0x1p-40);  // for the roundings of `needs`
  }

  // Measures what waits, 8 at a time; the last fewer where they are asked for.
  void measure(int64_t r, bool is_last) {
    Query& query = queries[r];
    const float* from = call.query + (first + r) * call.dim;
    int at = 0;
    while (query.num_pending - at >= (is_last ? 1 : 8)) {
      const int count = query.num_pending - at < 8 ? query.num_pending - at : 8;
      const float* rows[8];
      double distance[8];
      for (int i = 0; i < 8; ++i)
        rows[i] = call.vector[query.pending[at + (i < count ? i : 0)]];
      measure8(from, rows, call.dim, distance);
      for (int i = 0; i < count; ++i)
        if (distance[i] <= query.within)
          query.best.add(Pair{distance[i], label(query.pending[at + i])}, call.num_neighbors);
      measured += count;
      at += count;
    }
    query.num_pending -= at;
    for (int i = 0; i < query.num_pending; ++i) query.pending[i] = query.pending[at + i];
    if (at > 0) tighten(r);
  }

  // The vectors of a block that may be among the nearest of a query; they are measured at the next
  // block, when they have come from memory.
  void keep(int64_t r, int64_t block, uint64_t hits) {
    Query& query = queries[r];
    for (; hits != 0; hits &= hits - 1) {
      const int64_t row = vectors.row(block * kBlock + __builtin_ctzll(hits));
      if (label(row) == query.exclude) continue;
      query.pending[query.num_pending++] = row;
      const char* at = reinterpret_cast<const char*>(call.vector[row]);
      for (int64_t i = 0; i < call.dim * 4; i += 64) __builtin_prefetch(at + i);
    }
  }

  // 6 queries against a block.
  void test(int64_t tile, int64_t at) {
    const VectorBlock& block = vectors.blocks[at];
    const int64_t r0 = tile * kRows;
    const int64_t rows = end_of(tile) - r0;
    for (int64_t r = r0; r < r0 + rows; ++r)
      if (queries[r].num_pending >= 8) measure(r, false);
    MulInt16::tile<4>(packed + r0 * stride / 2, stride, vectors.groups + at * vectors.block_groups,
                      (call.dim + 1) / 2, kNoStart, scores);
    Doubles least = Doubles::load(a + r0);
    least = subtract_product(least, Doubles::load(b + r0), Doubles(block.most));
    least = subtract_product(least, Doubles::load(x + r0), Doubles(block.lost));
    least = least - Doubles((4.0 * kUnit + kMoved * kMoved) * block.most * block.most);
    float limit[8];
    store_floats(limit, subtract_product(least, abs(least), Doubles(2.0 * kUnit)));
    compared += rows * kBlock;
    for (int64_t r = 0; r < rows; ++r) {
      const Floats factor(scale[r0 + r] * block.scale), bound(limit[r]);
      uint64_t hits = 0;
      for (int i = 0; i < 4; ++i) {
        const Floats product = to_floats(Ints::load(scores + r * kBlock + 16 * i));
        const Floats score = multiply_subtract(product, factor, Floats::load(block.half + 16 * i));
        hits |= static_cast<uint64_t>(at_least(score, bound)) << (16 * i);
      }
      if (hits != 0) keep(r0 + r, at, hits);
    }
  }

  // Whether a vector of a shell around a center may be among the nearest of a query of a tile.
  // norm  none of these vectors has a larger one
  bool needs(int64_t tile, int64_t cell, const Shell& shell, double norm) const {
    const Doubles most = Doubles::load(reach + tile * 8) + Doubles(kMoved * norm + 4.0 * kFaint);
    const Doubles from = distances(tile, cell);
    const Doubles outside = from * Doubles(cells.shrink) - Doubles(shell.high);
    const Doubles inside = Doubles(shell.low) - from * Doubles(cells.grow);
    return largest(most - max(outside, inside)) >= 0.0;
  }

  // The same of the vectors of a block.
  bool needs(int64_t tile, int64_t at) const {
    for (int64_t s = cells.first[at]; s < cells.first[at + 1]; ++s) {
      const Segment& segment = cells.segments[s];
      if (needs(tile, segment.cell, segment.bounds, vectors.blocks[at].most)) return true;
    }
    return false;
  }

  // Which tiles may need whole shells, by the distances that are known now.
  void look_around() {
    double norm = 0.0;
    for (int64_t at = 0; at < vectors.num_blocks; ++at)
      norm = vectors.blocks[at].most > norm ? vectors.blocks[at].most : norm;
    for (int64_t shell = 0; shell < 2 * call.num_cells; ++shell) {
      near[shell] = 0;
      if (cells.shells[shell].high < 0.0) continue;  // there is none
      const int64_t cell = shell % call.num_cells;
      for (int64_t tile = 0; tile < num_tiles(); ++tile)
        if (needs(tile, cell, cells.shells[shell], norm)) near[shell] |= uint64_t{1} << tile;
    }
  }

  // The tiles, a bit each, that may need a block.
  uint64_t tiles_of(int64_t at) const {
    if (!cells.any()) return ~uint64_t{0} >> (kTiles - num_tiles());
    uint64_t tiles = 0;
    for (int64_t s = cells.first[at]; s < cells.first[at + 1]; ++s)
      tiles |= near[cells.segments[s].shell];
    return tiles;
  }

  // The blocks of the cell around a query.
  bool is_home(int64_t r, int64_t at) const {
    const int64_t from = cells.home[queries[r].home], to = cells.home[queries[r].home + 1];
    return from < to && from / kBlock <= at && at <= (to - 1) / kBlock;
  }

  bool is_home_before(int64_t tile, int64_t end, int64_t at) const {
    for (int64_t r = tile * kRows; r < end; ++r)
      if (is_home(r, at)) return true;
    return false;
  }

  // A tile against the cells around its queries, each block once.
  void search_homes(int64_t tile) {
    const int64_t end = end_of(tile);
    for (int64_t r = tile * kRows; r < end; ++r) {
      const int64_t from = cells.home[queries[r].home], to = cells.home[queries[r].home + 1];
      for (int64_t at = from / kBlock; at * kBlock < to; ++at)
        if (is_home(r, at) && !is_home_before(tile, r, at) && needs(tile, at)) test(tile, at);
    }
    for (int64_t r = tile * kRows; r < end; ++r) measure(r, true);
  }

  // Asks for a tile's part of a block, so that memory works meanwhile.
  void fetch(int64_t at, int64_t tile) {
    const int64_t bytes = vectors.block_groups * 4, part = bytes / (num_rows / kRows + 1) + 64;
    const char* block = reinterpret_cast<const char*>(vectors.groups) + at * bytes;
    const int64_t end = (tile + 1) * part < bytes ? (tile + 1) * part : bytes;
    for (int64_t i = tile * part / 64 * 64; i < end; i += 64) __builtin_prefetch(block + i, 0, 2);
  }

  void write(int64_t r) {
    Best& best = queries[r].best;
    best.sort();
    const int64_t at = (first + r) * call.num_neighbors;
    for (int64_t i = 0; i < call.num_neighbors; ++i) {
      call.index[at + i] = i < best.size ? best.pairs[i].index : -1;
      call.distance[at + i] = i < best.size ? best.pairs[i].distance : __builtin_nan("");
    }
  }

  void run(int64_t group, int64_t rows_of_a_group) {
    first = group * rows_of_a_group;
    num_rows = call.num_queries - first;
    if (num_rows > rows_of_a_group) num_rows = rows_of_a_group;
    load();
    if (cells.any()) {
      for (int64_t tile = 0; tile < num_tiles(); ++tile) search_homes(tile);
      look_around();
    }
    for (int64_t at = 0; at < vectors.num_blocks; ++at)
      for (uint64_t tiles = tiles_of(at); tiles != 0; tiles &= tiles - 1) {
        const int64_t tile = __builtin_ctzll(tiles);
        if (cells.any() && (!needs(tile, at) || is_home_before(tile, end_of(tile), at))) continue;
        fetch(at + 1, tile);
        test(tile, at);
      }
    for (int64_t r = 0; r < num_rows; ++r) {
      measure(r, true);
      write(r);
    }
  }
};

inline int nearest(Nearest& call) {
  Vectors vectors(call);
  Cells cells(call, vectors.num_blocks);
  const int64_t bytes = (Group::bytes(call) + 63) / 64 * 64;
  char* memory = static_cast<char*>(aligned_alloc(64, bytes * call.threads));
  const bool ready = memory != nullptr && vectors.groups != nullptr && vectors.blocks != nullptr &&
                     cells.is_ready();
  int64_t compared = 0, measured = 0;
  if (ready) {
    // As many queries in a group as leave each thread one at least.
    const int64_t tiles = (call.num_queries + kRows - 1) / kRows;
    int64_t rows = (tiles + call.threads - 1) / call.threads * kRows;
    if (rows > kShare) rows = kShare;
    if (cells.any()) {
      cells.frame_centers();
      cells.sort_by_cell();
      vectors.order = cells.order;
    }
#pragma omp parallel num_threads(call.threads) reduction(+ : compared, measured)
    {
      Group group(call, vectors, cells, memory + omp_get_thread_num() * bytes);
      if (cells.any()) {
#pragma omp for schedule(static)
        for (int64_t v = 0; v < call.num_vectors; ++v) cells.measure(v, group.framed);
#pragma omp for schedule(dynamic)
        for (int64_t c = 0; c < call.num_cells; ++c) cells.sort_cell(c);
#pragma omp single
        cells.divide();
      }
#pragma omp for schedule(static)
      for (int64_t b = 0; b < vectors.num_blocks; ++b) vectors.pack(b, group.framed, group.packed);
#pragma omp for schedule(dynamic)
      for (int64_t g = 0; g < (call.num_queries + rows - 1) / rows; ++g) group.run(g, rows);
      compared = group.compared;
      measured = group.measured;
    }
  }
  free(memory);
  call.compared = compared;
  call.measured = measured;
  return ready ? 0 : 1;
}

}  // namespace
}  // namespace astroray
