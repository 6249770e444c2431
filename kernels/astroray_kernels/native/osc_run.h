// A whole call: one quantized linear layer, or two, on blocks of tokens.
//
// Each block of tokens is a task of its own, or, where there are few tokens of one layer, each block and
// a share of the output channels. Of two layers a task does both, so that what is between them stays in
// the L2. A number depends on its token and channel alone, whatever the task.
#pragma once
#include <omp.h>

#include "osc_layer.h"

namespace astroray {
namespace {

constexpr int64_t kHiddenBytes = 448 * 1024;  // results between two layers
constexpr int64_t kMostTokens = 192, kFewTokens = 48;  // whole tiles of 6, or of 32 with half of one

inline int64_t hidden_stride(const Linear& call) {  // no power of two: all sets of the cache are used
  return call.next == nullptr ? 0 : up(call.num_out, 16) + 16;
}

// rows: of a tile
inline int64_t tokens_of_block(const Linear& call, int64_t rows, int64_t code_bytes,
                               int64_t most_bytes) {
  int64_t tokens = up(most_bytes / up(call.num_in * code_bytes, 64), rows) + rows;
  if (call.next != nullptr) {
    const int64_t fit = kHiddenBytes / (4 * hidden_stride(call)) / rows * rows;
    if (tokens > fit) tokens = fit < kFewTokens ? kFewTokens : fit;
  }
  if (tokens > kMostTokens) tokens = kMostTokens;
  const int64_t share = (call.num_tokens + 4 * call.threads - 1) / (4 * call.threads);
  const int64_t fair = up(share, rows) < kFewTokens ? kFewTokens : up(share, rows);
  return call.threads > 1 && tokens > fair ? fair : tokens;
}

// Sizes of a call, the same for all threads.
template <class Way>
struct Plan {
  const Linear& call;
  int64_t block;
  Layer<Way> first, last;  // the same where there is one
  int64_t num_blocks, num_shares, per_task, hidden_bytes, bytes;

  explicit Plan(const Linear& c)
      : call(c),
        block(tokens_of_block(c, Way::kTileRows, code_bytes<Way>(c.kind), Way::kCodeBytes)),
        first(c, block),
        last(c.next == nullptr ? c : *c.next, block) {
    num_blocks = (c.num_tokens + block - 1) / block;
    const bool is_shared = c.y != nullptr && c.next == nullptr && c.threads > 1 &&
                           num_blocks < 2 * c.threads;
    num_shares = is_shared ? 2 * c.threads : 1;
    if (num_shares > last.num_columns) num_shares = last.num_columns;
    per_task = (last.num_columns + num_shares - 1) / num_shares;
    hidden_bytes = block * hidden_stride(c) * 4;
    bytes = up(hidden_bytes + up(first.bytes, 64) + (c.next == nullptr ? 0 : last.bytes), 4096);
  }

  void run(char* at, int64_t task) const {
    const int64_t begin = task / num_shares * block, share = task % num_shares;
    const int64_t count = call.num_tokens - begin < block ? call.num_tokens - begin : block;
    Space s = first.space(at + hidden_bytes);
    first.quantize_block(s, call, begin, count);
    if (call.y == nullptr) return first.give(s, begin, count);
    if (call.next != nullptr) {
      const Results hidden{at, hidden_stride(call), kFloat32};
      for (int64_t column = 0; column < first.num_columns; ++column)
        first.multiply_block(s, hidden, count, column);
      Linear between = *call.next;
      between.x = at;
      between.dtype = kFloat32;
      between.stride = hidden.stride;
      s = last.space(at + hidden_bytes + up(first.bytes, 64));
      last.quantize_block(s, between, 0, count);
    }
    Results to{static_cast<char*>(call.y), last.call.num_out, call.dtype};
    to.y += begin * to.stride * to.width();
    const int64_t end = (share + 1) * per_task;
    for (int64_t column = share * per_task; column < end && column < last.num_columns; ++column)
      last.multiply_block(s, to, count, column);
  }
};

template <class Way>
int linear(Linear& call) {
  const Plan<Way> plan(call);
  char* memory = static_cast<char*>(aligned_alloc(4096, plan.bytes * call.threads));
  if (memory == nullptr) return 1;
  const int64_t num_tasks = plan.num_blocks * plan.num_shares;
#pragma omp parallel num_threads(call.threads)
  {
    begin_tiles();
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < num_tasks; ++task)
      plan.run(memory + plan.bytes * omp_get_thread_num(), task);
    end_tiles();
  }
  free(memory);
  return 0;
}

}  // namespace
}  // namespace astroray
