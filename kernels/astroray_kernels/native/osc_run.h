// A quantized linear layer on AVX-512: blocks of tokens are quantized into the L2 and multiplied with
// one block of 64 output channels after another.
//
// Each block of tokens is a task of its own, or, where there are few tokens, each block and a share of
// the output channels. A number depends on its token and channel alone, whatever the task.
#pragma once
#include <omp.h>

#include <cstdlib>

#include "osc_quantize.h"
#include "osc_tiles.h"

namespace astroray {
namespace {

constexpr int64_t kCodeBytes = 192 * 1024;  // codes of a block of tokens: a fifth of the L2
constexpr int64_t kMostTokens = 192;

inline int64_t up(int64_t number, int64_t multiple) {
  return (number + multiple - 1) / multiple * multiple;
}

// Half of x (1 + erf(x / sqrt 2)) as max(x, 0) less a cubic of |x|, by the piece that it lies in.
struct Gelu {
  __m512 low[4], high[4], per_piece, end;

  explicit Gelu(const Linear& call) {
    for (int i = 0; i < 4; ++i) {
      low[i] = _mm512_loadu_ps(call.gelu + i * kGeluPieces);
      high[i] = _mm512_loadu_ps(call.gelu + i * kGeluPieces + 16);
    }
    per_piece = _mm512_set1_ps(kGeluPieces / call.gelu_end);
    end = _mm512_set1_ps(kGeluPieces * 0.9999999f);
  }

  __m512 operator()(__m512 x) const {
    const __m512 at = _mm512_min_ps(_mm512_mul_ps(_mm512_abs_ps(x), per_piece), end);
    const __m512i piece = _mm512_cvttps_epi32(at);
    const __m512 u = _mm512_sub_ps(at, _mm512_cvtepi32_ps(piece));
    __m512 cubic = _mm512_permutex2var_ps(low[0], piece, high[0]);
    for (int i = 1; i < 4; ++i)
      cubic = _mm512_fmadd_ps(cubic, u, _mm512_permutex2var_ps(low[i], piece, high[i]));
    return _mm512_sub_ps(_mm512_max_ps(_mm512_setzero_ps(), x), cubic);  // of NaN: NaN
  }
};

// What a thread works in.
struct Space {
  uint8_t* codes;        // [kMostTokens, stride]
  float* scale;          // [kMostTokens, G]
  char* outlier;         // [kMostTokens, outlier stride]
  int8_t* panel;         // [K4/4][64][4] weights of 4 bits, unpacked
  float* c;              // [6][64]
};

// Sizes of a call, the same for all threads.
template <class Outlier>
struct Plan {
  const Linear& call;
  int64_t steps, stride, outlier_steps, outlier_stride, rows, block, num_blocks, num_columns;
  int64_t per_task, num_shares, bytes;
  bool has_groups;

  explicit Plan(const Linear& c) : call(c) {
    has_groups = c.kind != kInt8;
    rows = has_groups ? 3 : kRows;
    steps = (c.num_in + 3) / 4;
    stride = up(c.num_in, 64);
    outlier_steps = (c.num_outliers + Outlier::kPerStep - 1) / Outlier::kPerStep;
    outlier_stride = 4 * outlier_steps;
    num_columns = (c.num_out + kColumns - 1) / kColumns;
    block = up(kCodeBytes / stride, kRows) + kRows;
    if (block > kMostTokens) block = kMostTokens;
    const int64_t fair = up((c.num_tokens + 4 * c.threads - 1) / (4 * c.threads), kRows);
    if (c.threads > 1 && block > fair) block = fair < 48 ? 48 : fair;
    num_blocks = (c.num_tokens + block - 1) / block;
    const bool is_shared = c.y != nullptr && c.threads > 1 && num_blocks < 2 * c.threads;
    num_shares = is_shared ? 2 * c.threads : 1;
    if (num_shares > num_columns) num_shares = num_columns;
    per_task = (num_columns + num_shares - 1) / num_shares;
    bytes = up(block * stride, 64) + up(block * c.num_groups * 4, 64) +
            up(block * outlier_stride + 4, 64) + (has_groups ? steps * 256 : 0) + kRows * kColumns * 4;
  }

  Space space(char* at) const {
    Space s{};
    s.codes = reinterpret_cast<uint8_t*>(at);
    at += up(block * stride, 64);
    s.scale = reinterpret_cast<float*>(at);
    at += up(block * call.num_groups * 4, 64);
    s.outlier = at;
    at += up(block * outlier_stride + 4, 64);
    s.c = reinterpret_cast<float*>(at);
    at += kRows * kColumns * 4;
    s.panel = reinterpret_cast<int8_t*>(at);
    return s;
  }

  template <int kKind>
  void quantize_block(const Space& s, int64_t first, int64_t count) const {
    for (int64_t row = 0; row < count; ++row) {
      quantize_token<kKind, Outlier::kPerStep>(call, first + row, s.codes + row * stride,
                                               s.scale + row * call.num_groups,
                                               s.outlier + row * outlier_stride);
    }
    for (int64_t row = count; row < up(count, rows); ++row) {  // of no token: numbers, unused
      memset(s.codes + row * stride, 0, stride);
      memset(s.scale + row * call.num_groups, 0, 4 * call.num_groups);
      memset(s.outlier + row * outlier_stride, 0, outlier_stride);
    }
  }

  // Nibbles to bytes: the whole numbers that 16 codes stand for.
  void unpack(const Space& s, int64_t column) const {
    const __m128i values =
        call.kind == kInt4 ? _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1)
                           : _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    const __m512i table = _mm512_broadcast_i32x4(values), low = _mm512_set1_epi8(15);
    const int8_t* from = call.weight + column * steps * 128;
    for (int64_t i = 0; i < steps / 2 * 4; ++i) {
      const __m512i both = _mm512_loadu_si512(from + 64 * i);
      int8_t* to = s.panel + i / 4 * 512 + i % 4 * 64;
      _mm512_store_si512(to, _mm512_shuffle_epi8(table, _mm512_and_si512(both, low)));
      const __m512i upper = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
      _mm512_store_si512(to + 256, _mm512_shuffle_epi8(table, upper));
    }
  }

  void multiply_block(const Space& s, int64_t first, int64_t count, int64_t column) const {
    Tile tile{};
    tile.stride = stride;
    tile.b = has_groups ? s.panel : call.weight + column * steps * 256;
    tile.steps = steps / call.num_groups;
    tile.groups = call.num_groups;
    tile.start = call.start + column * call.num_groups * kColumns;
    tile.scale = call.scale + column * call.num_groups * kColumns;
    tile.token_scale_stride = 4 * call.num_groups;
    tile.bias = call.bias + column * kColumns;
    tile.outlier_stride = outlier_stride;
    tile.outlier_weight =
        static_cast<const char*>(call.outlier_weight) + column * outlier_steps * 256;
    tile.outlier_steps = outlier_steps;
    if (has_groups) unpack(s, column);
    const bool is_direct = call.dtype == kFloat32 && call.gelu == nullptr &&
                           (column + 1) * kColumns <= call.num_out;
    for (int64_t row = 0; row < count; row += rows) {
      tile.a = s.codes + row * stride;
      tile.token_scale = s.scale + row * call.num_groups;
      tile.outlier = s.outlier + row * outlier_stride;
      const bool straight = is_direct && row + rows <= count;
      const int64_t at = (first + row) * call.num_out + column * kColumns;
      tile.c = straight ? static_cast<float*>(call.y) + at : s.c;
      tile.c_stride = 4 * (straight ? call.num_out : kColumns);
      if (straight) fetch(tile);
      has_groups ? Outlier::tile3(tile) : Outlier::tile6(tile);
      if (!straight) finish(s, at, count - row < rows ? count - row : rows, column);
    }
  }

  // Asks for the lines that the tile will write, so that they come while it is computed.
  void fetch(const Tile& tile) const {
    for (int64_t row = 0; row < rows; ++row) {
      const char* to = reinterpret_cast<const char*>(tile.c) + row * tile.c_stride;
      for (int i = 0; i < 256; i += 64) __builtin_prefetch(to + i, 1, 3);
    }
  }

  // Activation and type of the results of one tile.
  void finish(const Space& s, int64_t at, int64_t count, int64_t column) const {
    const int64_t left = call.num_out - column * kColumns;
    const int64_t width = left < kColumns ? left : kColumns;
    if (call.gelu != nullptr) {
      const Gelu gelu(call);
      for (int64_t i = 0; i < count * kColumns; i += 16)
        _mm512_store_ps(s.c + i, gelu(_mm512_load_ps(s.c + i)));
    }
    for (int64_t row = 0; row < count; ++row, at += call.num_out) {
      for (int64_t i = 0; i < width; i += 16) {
        const __m512 y = _mm512_load_ps(s.c + row * kColumns + i);
        const __mmask16 in = width - i >= 16 ? 0xffff : (1u << (width - i)) - 1;
        if (call.dtype == kFloat32) {
          _mm512_mask_storeu_ps(static_cast<float*>(call.y) + at + i, in, y);
        } else {
          const __m256i half =
              call.dtype == kBfloat16 ? to_bfloat16(y) : _mm512_cvtps_ph(y, 0);
          _mm256_mask_storeu_epi16(static_cast<uint16_t*>(call.y) + at + i, in, half);
        }
      }
    }
  }

  // Codes as a caller wants them: one a byte, or the nibbles of two.
  void give(const Space& s, int64_t first, int64_t count) const {
    const int64_t num_in = call.num_in, offset = offset_of(call.kind);
    for (int64_t row = 0; row < count; ++row) {
      const uint8_t* from = s.codes + row * stride;
      uint8_t* to = call.codes + (first + row) * (has_groups ? num_in / 2 : num_in);
      for (int64_t k = 0; k < num_in; ++k) {
        const int code = from[k] - offset;
        if (!has_groups)
          to[k] = static_cast<uint8_t>(code);
        else if (k % 2)
          to[k / 2] |= nibble(code) << 4;
        else
          to[k / 2] = nibble(code);
      }
    }
    memcpy(call.token_scale + first * call.num_groups, s.scale, 4 * count * call.num_groups);
    for (int64_t row = 0; row < count; ++row)
      for (int64_t i = 0; i < call.num_outliers; ++i) {
        constexpr int64_t width = 4 / Outlier::kPerStep;  // of a float32 the upper half
        memcpy(call.token_outlier + (first + row) * call.num_outliers + i,
               s.outlier + row * outlier_stride + (i + 1) * width - 2, 2);
      }
  }

  uint8_t nibble(int code) const {
    if (call.kind == kInt4) return code & 15;
    constexpr uint8_t codes[13] = {0, 1, 2, 3, 4, 0, 5, 0, 6, 0, 0, 0, 7};
    return code < 0 ? codes[-code] | 8 : codes[code];
  }

  void run(const Space& s, int64_t task) const {
    const int64_t first = task / num_shares * block, share = task % num_shares;
    const int64_t count = call.num_tokens - first < block ? call.num_tokens - first : block;
    switch (call.kind) {
      case kInt8: quantize_block<kInt8>(s, first, count); break;
      case kInt4: quantize_block<kInt4>(s, first, count); break;
      default: quantize_block<kE2m1>(s, first, count);
    }
    if (call.y == nullptr) return give(s, first, count);
    const int64_t end = (share + 1) * per_task < num_columns ? (share + 1) * per_task : num_columns;
    for (int64_t column = share * per_task; column < end; ++column)
      multiply_block(s, first, count, column);
  }
};

template <class Outlier>
int linear(Linear& call) {
  const Plan<Outlier> plan(call);
  const int64_t each = up(plan.bytes, 4096);
  char* memory = static_cast<char*>(aligned_alloc(4096, each * call.threads));
  if (memory == nullptr) return 1;
  const int64_t num_tasks = plan.num_blocks * plan.num_shares;
#pragma omp parallel for num_threads(call.threads) schedule(dynamic)
  for (int64_t task = 0; task < num_tasks; ++task)
    plan.run(plan.space(memory + each * omp_get_thread_num()), task);
  free(memory);
  return 0;
}

}  // namespace
}  // namespace astroray
