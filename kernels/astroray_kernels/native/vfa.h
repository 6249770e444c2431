// What the callers of the attention kernels and the kernels agree on.
#pragma once
#include <cstdint>

namespace astroray {

enum Dtype : int32_t { kFloat32 = 0, kBfloat16 = 1, kFloat16 = 2 };

// How scores are formed: products of Q and K.
enum ScoreKind : int32_t { kScoreFloat32 = 0, kScoreInt16 = 1, kScoreInt8 = 2, kScoreBfloat16 = 3 };

// How probabilities weigh V.
enum ValueKind : int32_t {
  kValueFloat32 = 0,
  kValueBfloat16 = 1,
  kValueFloat16 = 2,
  kValueInt8 = 3
};

// Where the row maximum m comes from.
enum Estimate : int32_t {
  kOnline = 0,         // none: FlashAttention's running maximum
  kCauchySchwarz = 1,  // |q| max|k - mean|, never below the true maximum
  kSabsmax = 2,        // signed abs-max keys, then the sink and the local blocks (the paper)
  kSinkLocal = 3,      // true maximum over the sink and the local blocks
  kExact = 4,          // true maximum over all keys
};

// One call. Tensors are [B, H, N, D], D contiguous, other strides in elements.
struct Attention {
  const void* q;
  const void* k;
  const void* v;
  void* out;
  const uint8_t* mask;  // [B, N] contiguous, 1 = the key takes part; null = all do
  uint8_t* todo;        // [B, H] in: 1 = attend this head; out: 1 = left, too coarse for its scores
  int64_t batch, heads, length, dim;
  int64_t q_strides[3], k_strides[3], v_strides[3], out_strides[3];  // of B, H, N
  float scale;
  float skip;        // nats; <= 0: no tile is skipped
  int32_t dtype;     // Dtype of q, k, v and out
  int32_t score;     // ScoreKind
  int32_t value;     // ValueKind
  int32_t estimate;  // Estimate
  int32_t threads;
  int64_t facts[4];  // out: row tiles, row tiles redone, tiles of scores, tiles skipped
};

using Kernel = int (*)(Attention&);

}  // namespace astroray
