// Keys, queries and values in the layouts that the register tiles read, and their number formats.
#pragma once
#include "core.h"

namespace astroray {
namespace {

// Score formats. kPerGroup: numbers in 32 bits. kIsFloat: not integers times a scale. kCentered: keys lose
// their mean, rows gain a bound. kIsRounded: queries and keys of 16 bits stay what they are, without the
// scale, and with the mean. kHasInit: sums start from something.
// put: 16 rounded numbers from place d of a row on; those of a query are its left side.
struct ScoreFloat32 {
  using Mul = MulFloat32;
  static constexpr int kPerGroup = 1;
  static constexpr bool kIsFloat = true, kCentered = false, kIsRounded = false, kHasInit = false;
  static void put(char* row, int64_t d, Floats x) { x.store(row + 4 * d); }
};
struct ScoreInt16 {
  using Mul = MulInt16;
  static constexpr int kPerGroup = 2;
  static constexpr bool kIsFloat = false, kCentered = true, kIsRounded = false, kHasInit = false;
  static void put(char* row, int64_t d, Ints n, bool) {
    store_saturated(reinterpret_cast<int16_t*>(row) + d, n);
  }
};

// A packed block of 64 keys.
struct KeyBlock {
  const void* groups;   // [D / kPerGroup][64] groups of 32 bits
  const int32_t* init;  // [64] what a score starts from
  const float* bias;    // [64] 0, or kMasked; null where all keys take part
  float scale;          // of the integers; 1 for floats
};

// A head's keys and values, packed. Pointers go into one workspace.
struct Head {
  KeyBlock* blocks;    // [num_blocks]
  KeyBlock* reprs;     // [num_reprs] signed abs-max keys, 64 blocks' in one
  char* values;        // [chunk][groups of keys][channels of a chunk] groups of 32 bits
  float* value_scale;  // [D]
  float* mean;         // [D] of the keys, zero where they are not centered
  bool has_mean;       // keys are packed with it
  float key_norm;      // largest |k - mean|
  float key_step;      // largest scale of a block's integers
  int64_t num_valid;
  bool coarse;  // too much so for these scores
};

struct Shape {
  int64_t length, dim, num_blocks, num_reprs, num_chunks, chunk;  // chunk: channels
  explicit Shape(const Attention& call)
      : length(call.length),
        dim(call.dim),
        num_blocks((call.length + kBlock - 1) / kBlock),
        num_reprs((num_blocks + kBlock - 1) / kBlock),
        num_chunks(call.dim > 64 ? 2 : 1),
        chunk(call.dim / num_chunks) {}
};

inline float sum_of_squares(const float* x, int64_t n) {
  Floats squares(0.0f);
  for (int64_t d = 0; d < n; d += 16) squares = square_onto(squares, Floats::load(x + d));
  return sum(squares);
}

// Sizes of numbers as integers, in the same order, and NaN above all of them.
inline Ints sizes(Floats x) { return as_ints(x) & Ints(0x7fffffff); }

inline float largest(const float* x, int64_t n) {  // NaN where there is one
  Ints top(0);
  for (int64_t d = 0; d < n; d += 16) top = max(top, sizes(Floats::load(x + d)));
  const int32_t bits = largest(top);
  float size;
  memcpy(&size, &bits, 4);
  return size;
}

// Scale of integers that hold rows of this largest number and norm. In 16 bits the norms of a query
// and a key stay below 2^15.5 each, so that by Cauchy-Schwarz no sum of products passes 2^31.
template <class Score>
inline float integer_scale(float top, float norm) {
  if (top != top || norm != norm) return __builtin_nanf("");
  if (top == 0.0f) return 1.0f;
  if constexpr (Score::kPerGroup == 2) {
    const float most = top * (11.32f / 46000.0f);  // of the norm, whose square may overflow
    const float by_top = top / 32767.0f, by_norm = norm / 46000.0f < most ? norm / 46000.0f : most;
    return by_top > by_norm ? by_top : by_norm;
  }
  return top / 127.0f;
}

// One row of D floats as groups; returns the sum of its integers, of floats 0.
template <class Score>
inline int32_t quantize_row(const float* x, int64_t dim, float inverse, bool is_query, char* to) {
  if constexpr (Score::kIsFloat) {
    for (int64_t d = 0; d < dim; d += 16) Score::put(to, d, Floats::load(x + d));
    return 0;
  } else {
    const Floats scale(inverse);
    Ints total(0);
    for (int64_t d = 0; d < dim; d += 16) {
      const Ints n = rounded(Floats::load(x + d) * scale);
      total = total + n;
      Score::put(to, d, n, is_query);
    }
    return sum(total);
  }
}

// Packs 64 rows of D floats as a block. Rows of keys that take no part are zero.
//
// norm  largest of a row
template <class Score>
inline void pack_block(const float* rows, const uint8_t* valid, int64_t dim, float norm,
                       char* groups, int32_t* init, float* bias, KeyBlock* block) {
  constexpr bool kLiesReady = Score::kIsFloat && Score::kPerGroup == 1;  // float32
  alignas(64) char numbers[kLiesReady ? 64 : kBlock * kMaxDim * 4 / Score::kPerGroup];
  const char* plain = kLiesReady ? reinterpret_cast<const char*>(rows) : numbers;
  const int64_t num_groups = dim / Score::kPerGroup;
  float scale = 1.0f;
  if constexpr (!Score::kIsFloat) scale = integer_scale<Score>(largest(rows, kBlock * dim), norm);
  if constexpr (!kLiesReady)
    for (int j = 0; j < kBlock; ++j) {
      const int32_t sum = quantize_row<Score>(rows + j * dim, dim, 1.0f / scale, false,
                                              numbers + j * num_groups * 4);
      // Unsigned, since the integers of a NaN may be any and their sum too large to be multiplied.
      init[j] = Score::kHasInit ? static_cast<int32_t>(-128u * static_cast<uint32_t>(sum)) : 0;
    }
  for (int64_t d = 0; d < num_groups; d += 16)
    for (int j = 0; j < kBlock; j += 16)
      if (num_groups - d >= 16) {
        transpose16(reinterpret_cast<const uint32_t*>(plain) + j * num_groups + d, num_groups,
                    reinterpret_cast<uint32_t*>(groups) + d * kBlock + j, kBlock);
      } else {
        for (int i = 0; i < 16; ++i)
          for (int64_t e = d; e < num_groups; ++e)
            memcpy(groups + 4 * (e * kBlock + j + i), plain + 4 * ((j + i) * num_groups + e), 4);
      }
  bool all = true;
  for (int j = 0; j < kBlock; ++j) {
    bias[j] = valid[j] ? 0.0f : kMasked;
    all = all && bias[j] == 0.0f;
  }
  *block = KeyBlock{groups, init, all ? nullptr : bias, scale};
}

// Which of a block's 64 keys take part, none past the end; returns how many.
inline int valid_keys(const Attention& call, int64_t batch, int64_t start, uint8_t* valid) {
  int count = 0;
  for (int j = 0; j < kBlock; ++j) {
    const int64_t n = start + j;
    valid[j] = n < call.length && (call.mask == nullptr || call.mask[batch * call.length + n]);
    count += valid[j];
  }
  return count;
}

inline void load_row(const void* x, int dtype, int64_t at, int64_t dim, float* to) {
  for (int64_t d = 0; d < dim; d += 16) load16(x, dtype, at + d).store(to + d);
}

// A block's rows as floats, zero where a key takes no part; `at` is the first row's place in x.
inline void load_block(const void* x, int dtype, int64_t at, int64_t stride, int64_t dim,
                       const uint8_t* valid, float* rows) {
  for (int j = 0; j < kBlock; ++j) {
    if (valid[j]) {
      load_row(x, dtype, at + j * stride, dim, rows + j * dim);
    } else {
      memset(rows + j * dim, 0, sizeof(float) * dim);
    }
  }
}

// Mean of the keys that take part, and how many they are.
inline void find_mean(const Attention& call, int64_t batch, int64_t base, Head* head, bool wanted) {
  uint8_t valid[kBlock];
  head->num_valid = 0;
  memset(head->mean, 0, sizeof(float) * call.dim);
  for (int64_t start = 0; start < call.length; start += kBlock) {
    head->num_valid += valid_keys(call, batch, start, valid);
    for (int64_t d = 0; wanted && d < call.dim; d += 16) {
      Floats total = Floats::load(head->mean + d);
      for (int j = 0; j < kBlock; ++j)
        if (valid[j])
          total += load16(call.k, call.dtype, base + (start + j) * call.k_strides[2] + d);
      total.store(head->mean + d);
    }
  }
  const float count = head->num_valid ? static_cast<float>(head->num_valid) : 1.0f;
  for (int64_t d = 0; d < call.dim; ++d) head->mean[d] /= count;
}

// Takes the mean from the rows that take part, where it is wanted; returns the largest square of their
// norms without it.
inline float center(float* rows, const uint8_t* valid, const float* mean, int64_t dim,
                    bool wanted) {
  alignas(64) float norms2[kBlock];
  for (int j = 0; j < kBlock; ++j) {
    norms2[j] = 0.0f;
    if (!valid[j]) continue;
    float* row = rows + j * dim;
    Floats squares(0.0f);
    for (int64_t d = 0; d < dim; d += 16) {
      const Floats x = Floats::load(row + d) - Floats::load(mean + d);
      if (wanted) x.store(row + d);
      squares = square_onto(squares, x);
    }
    norms2[j] = sum(squares);
  }
  return largest(norms2, kBlock);
}

// The signed abs-max key of a block: per channel the number of largest size, + on a tie.
inline void signed_abs_max(const float* rows, int64_t dim, float* to) {
  for (int64_t d = 0; d < dim; d += 16) {
    Floats high = Floats::load(rows + d), low = high;
    for (int j = 1; j < kBlock; ++j) {
      const Floats x = Floats::load(rows + j * dim + d);
      high = max(high, x);
      low = min(low, x);
    }
    choose(at_least(high, Floats(0.0f) - low), high, low).store(to + d);
  }
}

template <class Score>
inline void pack_keys(const Attention& call, const Shape& shape, int64_t batch, int64_t head_index,
                      char* groups, int32_t* init, float* bias, Head* head) {
  const int64_t base = batch * call.k_strides[0] + head_index * call.k_strides[1];
  const int64_t dim = shape.dim, bytes = kBlock * dim * 4 / Score::kPerGroup;
  find_mean(call, batch, base, head, Score::kCentered);
  head->has_mean = Score::kIsRounded && call.dtype != kFloat32;
  alignas(64) float rows[kBlock * kMaxDim];
  alignas(64) float reprs[kBlock * kMaxDim];
  uint8_t valid[kBlock], present[kBlock];
  float norm2 = 0.0f;
  for (int64_t b = 0; b < shape.num_blocks; ++b) {
    const bool any = valid_keys(call, batch, b * kBlock, valid) > 0;
    load_block(call.k, call.dtype, base + b * kBlock * call.k_strides[2], call.k_strides[2], dim,
               valid, rows);
    const float most = center(rows, valid, head->mean, dim, Score::kCentered && !head->has_mean);
    norm2 = most > norm2 || most != most ? most : norm2;
    pack_block<Score>(rows, valid, dim, __builtin_sqrtf(most), groups + b * bytes,
                      init + b * kBlock, bias + b * kBlock, head->blocks + b);
    if (call.estimate != kSabsmax) continue;
    const int64_t at = b % kBlock, block = b / kBlock;
    if (at == 0) {
      memset(reprs, 0, sizeof(reprs));
      memset(present, 0, sizeof(present));
    }
    signed_abs_max(rows, dim, reprs + at * dim);
    present[at] = any;
    if (at == kBlock - 1 || b == shape.num_blocks - 1) {
      const int64_t place = shape.num_blocks + block;
      float norms2[kBlock];
      for (int j = 0; j < kBlock; ++j) norms2[j] = sum_of_squares(reprs + j * dim, dim);
      pack_block<Score>(reprs, present, dim, __builtin_sqrtf(largest(norms2, kBlock)),
                        groups + place * bytes, init + place * kBlock, bias + place * kBlock,
                        head->reprs + block);
    }
  }
  head->key_norm = __builtin_sqrtf(norm2);
  head->key_step = 0.0f;
  for (int64_t b = 0; b < shape.num_blocks; ++b)
    if (head->blocks[b].scale > head->key_step) head->key_step = head->blocks[b].scale;
}

// Whether scores of 8 bits, or of what was rounded to bfloat16, are too coarse for this head: the root
// mean square of their error, in powers of two, where norms and steps are largest.
template <class Score>
inline bool is_coarse(const Attention& call, int64_t batch, int64_t head_index, const Head& head) {
  const int64_t base = batch * call.q_strides[0] + head_index * call.q_strides[1];
  alignas(64) float row[kMaxDim];
  float norm2 = 0.0f, top = 0.0f;
  for (int64_t n = 0; n < call.length; ++n) {
    load_row(call.q, call.dtype, base + n * call.q_strides[2], call.dim, row);
    const float square = sum_of_squares(row, call.dim), most = largest(row, call.dim);
    norm2 = square > norm2 ? square : norm2;
    top = most > top ? most : top;
  }
  const float by = call.scale * kLog2E;
  if constexpr (Score::kIsRounded) {  // of each number 2^-10 of itself, of q and of k
    const float error2 = 0x1p-19f * norm2 * by * by / static_cast<float>(call.dim);
    return !(error2 * head.key_norm * head.key_norm <= kCoarseRounded * kCoarseRounded);
  }
  const float from_keys = __builtin_sqrtf(norm2) * by * head.key_step;
  const float from_queries = head.key_norm * top * by / 127.0f;
  return !(from_keys * from_keys + from_queries * from_queries <= 12.0f * kCoarse * kCoarse);
}

// A power of two above `top`, so that dividing by it is exact and no sum of values overflows.
inline float power_above(float top) {
  uint32_t bits;
  memcpy(&bits, &top, 4);
  bits = (bits & 0x7f800000u) + 0x00800000u;
  if (bits > 0x7f000000u) bits = 0x7f000000u;
  memcpy(&top, &bits, 4);
  return top;
}

// Value formats. kPerGroup: keys in 32 bits. kBytes: of one probability.
struct ValueFloat32 {
  using Mul = MulFloat32;
  static constexpr int kPerGroup = 1, kBytes = 4, kDegree = 5;
  static constexpr float kLow = 1e-20f, kHigh = 1e30f, kHeadroom = 60.0f, kMost = 120.0f;
  static float divisor(float top) { return power_above(top); }
  static Ints number(Floats x) { return as_ints(x); }
  static Floats keep(void* to, Floats p) {
    p.store(to);
    return p;
  }
  static Floats widen(const char* c) { return Floats::load(c); }
};

// Per channel: the number that the head's values are divided by, and its inverse.
template <class Value>
inline void scale_values(const Attention& call, int64_t batch, int64_t base, float* scale,
                         float* inverse) {
  uint8_t valid[kBlock];
  alignas(64) float tops[kMaxDim] = {};
  for (int64_t start = 0; start < call.length; start += kBlock) {
    valid_keys(call, batch, start, valid);
    for (int64_t d = 0; d < call.dim; d += 16) {
      Ints top = Ints::load(tops + d);
      for (int j = 0; j < kBlock; ++j)
        if (valid[j])
          top = max(top, sizes(load16(call.v, call.dtype,
                                      base + (start + j) * call.v_strides[2] + d)));
      top.store(tops + d);
    }
  }
  for (int64_t d = 0; d < call.dim; ++d) {
    const bool is_nan = tops[d] != tops[d];
    scale[d] = is_nan ? tops[d] : tops[d] ? Value::divisor(tops[d]) : 1.0f;
    inverse[d] = 1.0f / (scale[d] * 0.5f);  // of half a value: 2^-127 may count as 0
  }
}

// Packs V as [chunk][keys / kPerGroup][channels] groups; keys that take no part are zero.
template <class Value>
inline void pack_values(const Attention& call, const Shape& shape, int64_t batch,
                        int64_t head_index, Head* head) {
  const int64_t base = batch * call.v_strides[0] + head_index * call.v_strides[1];
  const int64_t dim = shape.dim, span = shape.num_blocks * kBlock / Value::kPerGroup;
  alignas(64) float inverse[kMaxDim];
  alignas(64) float rows[kBlock * kMaxDim];
  uint8_t valid[kBlock];
  scale_values<Value>(call, batch, base, head->value_scale, inverse);
  for (int64_t b = 0; b < shape.num_blocks; ++b) {
    valid_keys(call, batch, b * kBlock, valid);
    load_block(call.v, call.dtype, base + b * kBlock * call.v_strides[2], call.v_strides[2], dim,
               valid, rows);
    for (int64_t d = 0; d < dim; d += 16) {
      const Floats by = Floats::load(inverse + d);
      char* to = head->values +
                 4 * (((d / shape.chunk) * span + b * kBlock / Value::kPerGroup) * shape.chunk +
                      d % shape.chunk);
      for (int64_t g = 0; g < kBlock / Value::kPerGroup; ++g) {
        Ints group(0);
        for (int i = 0; i < Value::kPerGroup; ++i) {
          const Floats x = Floats::load(rows + (g * Value::kPerGroup + i) * dim + d);
          const Ints n = Value::number(x * Floats(0.5f) * by);
          group = group | n << (i * (32 / Value::kPerGroup));
        }
        group.store(to + 4 * g * shape.chunk);
      }
    }
  }
}

}  // namespace
}  // namespace astroray
