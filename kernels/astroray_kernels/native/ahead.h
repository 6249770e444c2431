// Prefetching of the next head while this one is computed.
#pragma once
#include <cstdint>

#include "vfa.h"

namespace astroray {
namespace {

// What the thread is likely to need next, the following head's q, k and v and the place of its
// result: asked for a row at a time, so that memory works while this head is computed.
struct Ahead {
  const char* base[4];
  int64_t strides[4];  // bytes from row to row
  int64_t row_bytes, row, end, burst;
  int which;

  Ahead() : base{}, strides{}, row_bytes(0), row(0), end(0), burst(0), which(0) {}

  // calls  of fetch() that will be made while this head is computed
  Ahead(const Attention& call, int64_t head_at, int64_t first, int64_t num_rows, int64_t calls)
      : row(first), end(first + num_rows), burst((4 * num_rows + calls - 1) / calls), which(0) {
    const int64_t b = head_at / call.heads, h = head_at % call.heads;
    const int64_t bytes = call.dtype == kFloat32 ? 4 : 2;
    const void* tensors[4] = {call.q, call.k, call.v, call.out};
    const int64_t* steps[4] = {call.q_strides, call.k_strides, call.v_strides, call.out_strides};
    for (int i = 0; i < 4; ++i) {
      base[i] = static_cast<const char*>(tensors[i]) + (b * steps[i][0] + h * steps[i][1]) * bytes;
      strides[i] = steps[i][2] * bytes;
    }
    row_bytes = call.dim * bytes;
  }

  __attribute__((always_inline)) void fetch() {
    for (int64_t i = 0; i < burst && row < end; ++i) fetch_row();
  }

  __attribute__((always_inline)) void fetch_row() {
    const char* at = base[which] + row * strides[which];
    if (which < 3) {
      for (int64_t i = 0; i < row_bytes; i += 64) __builtin_prefetch(at + i, 0, 2);
    } else {
      for (int64_t i = 0; i < row_bytes; i += 64) __builtin_prefetch(at + i, 1, 2);
    }
    which = (which + 1) % 4;
    row += which == 0;
  }
};

}  // namespace
}  // namespace astroray
