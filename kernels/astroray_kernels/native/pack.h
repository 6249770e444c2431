// Keys and queries in the layouts that the register tiles read, and their number formats.
#pragma once
#include "rows.h"

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

// Scale of integers that hold rows of this largest number and norm. In 16 bits the norms of a query
// and a key stay below 2^15.5 each, so that by Cauchy-Schwarz no sum of products passes 2^31.
template <class Score>
inline Floats integer_scale(Floats top, Floats norm) {
  Floats scale = top / Floats(127.0f);
  if constexpr (Score::kPerGroup == 2) {
    const Floats most = top * Floats(11.32f / 46000.0f);  // of the norm, whose square may overflow
    scale = max(top / Floats(32767.0f), min(norm / Floats(46000.0f), most));
  }
  scale = choose(at_least(Floats(0.0f), top), Floats(1.0f), scale);
  return choose(is_nan(top) | is_nan(norm), Floats(__builtin_nanf("")), scale);
}
template <class Score>
inline float integer_scale(float top, float norm) {
  alignas(64) float scales[16];
  integer_scale<Score>(Floats(top), Floats(norm)).store(scales);
  return scales[0];
}

// A row as groups; returns the sum of its integers, of floats 0.
template <class Score, int kVectors>
inline int32_t put_row(const Row<kVectors>& row, float inverse, bool is_query, char* to) {
  if constexpr (Score::kIsFloat) {
    for (int i = 0; i < kVectors; ++i) Score::put(to, 16 * i, row.x[i]);
    return 0;
  } else {
    const Floats scale(inverse);
    Ints total(0);
    for (int i = 0; i < kVectors; ++i) {
      const Ints n = rounded(row.x[i] * scale);
      total = total + n;
      Score::put(to, 16 * i, n, is_query);
    }
    return Score::kHasInit ? sum(total) : 0;
  }
}

// Mean of the keys that take part, and how many they are.
template <class Row>
inline void find_mean(const HeadRows<Row>& keys, bool wanted, Head* head) {
  uint8_t valid[kBlock];
  Row total = Row::all(0.0f);
  head->num_valid = 0;
  for (int64_t start = 0; start < keys.call.length; start += kBlock)
    head->num_valid += keys.visit(start, valid, [&](int, const Row& row) {
      if (wanted) total = total + row;
    });
  const float count = head->num_valid ? static_cast<float>(head->num_valid) : 1.0f;
  for (Floats& x : total.x) x = x / Floats(count);
  total.store(head->mean);
}

// The signed abs-max key of a block: per channel the number of largest size, + on a tie.
template <class Row>
inline Row signed_abs_max(const float* rows) {
  Row repr;
  for (int i = 0; i < Row::kVectors; ++i) {
    Floats high = Floats::load(rows + 16 * i), low = high;
    for (int j = 1; j < kBlock; ++j) {
      const Floats x = Floats::load(rows + j * Row::kDim + 16 * i);
      high = max(high, x);
      low = min(low, x);
    }
    repr.x[i] = choose(at_least(high, Floats(0.0f) - low), high, low);
  }
  return repr;
}

// A block of keys on the way to be packed.
template <class Row>
struct Block {
  alignas(64) float rows[kBlock * Row::kDim];  // zero where a key takes no part
  alignas(64) float squares[kBlock];           // of norms
  uint8_t valid[kBlock];
  Ints size;  // of the largest number, lane by lane

  void put(int j, const Row& row, float square) {
    row.store(rows + j * Row::kDim);
    squares[j] = square;
    size = max(size, row.size());
  }

  void clear() {
    size = Ints(0);
    memset(valid, 0, sizeof(valid));
    for (int j = 0; j < kBlock; ++j) put(j, Row::all(0.0f), 0.0f);
  }

  // Takes the keys from `start` on, with their mean or without; squares are those without it.
  int fill(const HeadRows<Row>& keys, int64_t start, const Row& mean, bool with_mean) {
    size = Ints(0);
    const int count = keys.visit(start, valid, [&](int j, const Row& row) {
      const Row rest = row - mean;
      put(j, with_mean ? row : rest, rest.square());
    });
    for (int j = 0; count < kBlock && j < kBlock; ++j)
      if (!valid[j]) put(j, Row::all(0.0f), 0.0f);
    return count;
  }

  float square() const {  // the largest; NaN where there is one
    Ints top(0);
    for (int j = 0; j < kBlock; j += 16) top = max(top, sizes(Floats::load(squares + j)));
    return largest_size(top);
  }
};

// A block as the tiles read it.
template <class Score, class Row>
inline KeyBlock pack_block(const Block<Row>& block, char* groups, int32_t* init, float* bias) {
  constexpr bool kLiesReady = Score::kIsFloat && Score::kPerGroup == 1;  // float32
  constexpr int64_t num_groups = Row::kDim / Score::kPerGroup;
  alignas(64) char numbers[kLiesReady ? 64 : kBlock * num_groups * 4];
  const char* plain = kLiesReady ? reinterpret_cast<const char*>(block.rows) : numbers;
  float scale = 1.0f;
  if constexpr (!Score::kIsFloat)
    scale = integer_scale<Score>(largest_size(block.size), __builtin_sqrtf(block.square()));
  if constexpr (!kLiesReady) {
    const float inverse = 1.0f / scale;
    for (int j = 0; j < kBlock; ++j) {
      const int32_t sum = put_row<Score>(Row::load(block.rows + j * Row::kDim), inverse, false,
                                         numbers + j * num_groups * 4);
      // Unsigned, since the integers of a NaN may be any and their sum too large to be multiplied.
      if (Score::kHasInit) init[j] = static_cast<int32_t>(-128u * static_cast<uint32_t>(sum));
    }
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
  for (int j = 0; j < kBlock; ++j) all &= block.valid[j] != 0;
  for (int j = 0; !all && j < kBlock; ++j) bias[j] = block.valid[j] ? 0.0f : kMasked;
  return KeyBlock{groups, init, all ? nullptr : bias, scale};
}

template <class Score, class Row>
inline void pack_keys(const HeadRows<Row>& keys, const Shape& shape, char* groups, int32_t* init,
                      float* bias, Head* head) {
  const int64_t bytes = kBlock * Row::kDim * 4 / Score::kPerGroup;
  const auto pack = [&](const Block<Row>& block, int64_t place) {
    return pack_block<Score>(block, groups + place * bytes, init + place * kBlock,
                             bias + place * kBlock);
  };
  find_mean(keys, Score::kCentered, head);
  head->has_mean = Score::kIsRounded && keys.call.dtype != kFloat32;
  const Row mean = Row::load(head->mean);
  Block<Row> block, reprs;
  float norm2 = 0.0f;
  head->key_step = 0.0f;
  for (int64_t b = 0; b < shape.num_blocks; ++b) {
    const bool any = block.fill(keys, b * kBlock, mean, !Score::kCentered || head->has_mean) > 0;
    const float most = block.square();
    norm2 = most > norm2 || most != most ? most : norm2;
    head->blocks[b] = pack(block, b);
    if (head->blocks[b].scale > head->key_step) head->key_step = head->blocks[b].scale;
    if (keys.call.estimate != kSabsmax) continue;
    const int64_t at = b % kBlock;
    if (at == 0) reprs.clear();
    const Row repr = signed_abs_max<Row>(block.rows);
    reprs.put(static_cast<int>(at), repr, repr.square());
    reprs.valid[at] = any;
    if (at == kBlock - 1 || b == shape.num_blocks - 1)
      head->reprs[b / kBlock] = pack(reprs, shape.num_blocks + b / kBlock);
  }
  head->key_norm = __builtin_sqrtf(norm2);
}

// Whether scores of 8 bits, or of what was rounded to bfloat16, are too coarse for this head: the root
// mean square of their error, in powers of two, where norms and steps are largest.
template <class Score, class Row>
inline bool is_coarse(const HeadRows<Row>& queries, const Head& head) {
  float norm2 = 0.0f;
  Ints size(0);
  for (int64_t n = 0; n < queries.call.length; ++n) {
    const Row row = queries.load(n);
    const float square = row.square();
    if (square != square) continue;
    norm2 = square > norm2 ? square : norm2;
    size = max(size, row.size());
  }
  const float top = largest_size(size);
  const float by = queries.call.scale * kLog2E;
  if constexpr (Score::kIsRounded) {  // of each number 2^-10 of itself, of q and of k
    const float error2 = 0x1p-19f * norm2 * by * by / static_cast<float>(Row::kDim);
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

}  // namespace
}  // namespace astroray
