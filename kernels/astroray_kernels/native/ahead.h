// Prefetching of the next head while this one is computed.
#pragma once
#include <cstdint>

#include "core.h"

namespace astroray {
namespace {

// What the thread is likely to need next, the following head's q, k and v and the place of its
// result: asked for a few rows at a time, so that memory works while this head is computed. On Zen 5
// what is asked for into the L2 alone (prefetcht1) is in part not there in time.
struct Ahead {
  const char* q;
  const char* k;
  const char* v;
  const char* out;
  int64_t q_stride, k_stride, v_stride, out_stride;  // bytes from row to row
  int64_t row_bytes, left, burst;                    // rows left, and of one fetch

  Ahead() : left(0), burst(0) {}

  // calls  of fetch() that will be made while this head is computed
  Ahead(const Attention& call, int64_t head_at, int64_t first, int64_t num_rows, int64_t calls)
      : left(num_rows), burst((num_rows + calls - 1) / calls) {
    const int64_t b = head_at / call.heads, h = head_at % call.heads;
    const int64_t bytes = call.dtype == kFloat32 ? 4 : 2;
    const auto begin = [&](const void* tensor, const int64_t* strides, int64_t* stride) {
      *stride = strides[2] * bytes;
      return static_cast<const char*>(tensor) +
             (b * strides[0] + h * strides[1] + first * strides[2]) * bytes;
    };
    q = begin(call.q, call.q_strides, &q_stride);
    k = begin(call.k, call.k_strides, &k_stride);
    v = begin(call.v, call.v_strides, &v_stride);
    out = begin(call.out, call.out_strides, &out_stride);
    row_bytes = call.dim * bytes;
  }

  ASTRORAY_INLINE void fetch() {
    for (int64_t i = left < burst ? left : burst; i > 0; --i) fetch_row();
  }

 private:
  ASTRORAY_INLINE void fetch_row() {
    for (int64_t i = 0; i < row_bytes; i += 64) {
      __builtin_prefetch(q + i);
      __builtin_prefetch(k + i);
      __builtin_prefetch(v + i);
      __builtin_prefetch(out + i, 1);
    }
    q += q_stride, k += k_stride, v += v_stride, out += out_stride;
    --left;
  }
};

}  // namespace
}  // namespace astroray
