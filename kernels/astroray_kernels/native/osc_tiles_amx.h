// Tiles of a quantized linear layer on AMX: 32 rows by 64 columns, as 2 by 2 tiles of sums for each half
// of the columns, so that a tile of A or B is multiplied twice for each time it is loaded.
#pragma once
#include <cstring>

#include "osc_tiles.h"

namespace astroray {
namespace {

struct Tiles {
  static constexpr int kPerStep = 2;  // bfloat16 of a token that 32 bits take
  static constexpr int kTileRows = 32, kPackedRows = 32;
  static constexpr int kWholeSteps = 16;  // of 32 bits, in a step of a tile
  static constexpr int64_t kCodeBytes = 768 * 1024;  // every CPU with AMX has an L2 of 2 MB
  static constexpr Stored stored(int kind) { return kind == kInt8 ? kBytes : kNumbers; }
  static constexpr bool kHasExcess = false;

  static void unpack(const Linear& call, int64_t column, int64_t steps, int8_t* panel) {
    call.kind == kInt4 ? unpack_numbers<false>(call, column, steps, panel)
                       : unpack_numbers<true>(call, column, steps, panel);
  }

  static void multiply(const Tile& t, int kind) {
    for (int half = 0; half < 2; ++half)
      t.rows > 16 ? multiply_half<true>(t, kind, half) : multiply_half<false>(t, kind, half);
  }

 private:
  static constexpr int kHalf = kColumns / 2, kSums = kTileRows * kHalf;
  static constexpr int kGroups = 2;  // whose sums wait to be scaled: more would leave the L1

  template <bool kIsTall>
  static void multiply_half(const Tile& t, int kind, int half) {
    alignas(64) char sums[4 * kSums];
    alignas(64) float outliers[kSums];
    if (t.outlier_steps > 0)
      by_numbers<kIsTall>(static_cast<const char*>(t.outlier), t.outlier_stride,
                          half_of(t.outlier_weight, t.outlier_steps, half), t.outlier_steps, 1,
                          reinterpret_cast<char*>(outliers));
    else
      memset(outliers, 0, sizeof(outliers));
    const char* a = static_cast<const char*>(t.a);
    if (kind == kInt4) {
      multiply_groups<kIsTall>(t, half, outliers);
    } else if (kind == kInt8) {
      by_bytes<kIsTall>(a, t.stride, half_of(t.b, t.steps, half), t.steps, 1, sums);
      finish<true>(t, half, sums, outliers);
    } else {
      by_numbers<kIsTall>(a, t.stride, half_of(t.b, t.steps, half), t.steps, 1, sums);
      finish<false>(t, half, sums, outliers);
    }
  }

  static const char* half_of(const void* b, int64_t steps, int half) {
    return static_cast<const char*>(b) + 128 * steps * half;
  }

  // C = bias + sum over groups of token scale * A B * scale + outliers, which `sums` holds at first.
  template <bool kIsTall>
  static void multiply_groups(const Tile& t, int half, float* sums) {
    alignas(64) float group_sums[kGroups * kSums];
    const char* a = static_cast<const char*>(t.a);
    const char* b = half_of(t.b, t.steps * t.groups, half);
    for (int64_t group = 0; group < t.groups; group += kGroups) {
      const int64_t count = t.groups - group < kGroups ? t.groups - group : kGroups;
      by_numbers<kIsTall>(a + 4 * t.steps * group, t.stride, b + 128 * t.steps * group, t.steps,
                          count, reinterpret_cast<char*>(group_sums));
      for (int64_t row = 0; row < t.rows; row += kRowsAtOnce)
        scale_groups(t, half, group, count, row, group_sums, sums);
    }
  }

  // The sums of `count` groups times their scales, added to those of 8 rows, which registers hold.
  static constexpr int kRowsAtOnce = 8;
  static void scale_groups(const Tile& t, int half, int64_t first, int64_t count, int64_t row,
                           const float* group_sums, float* sums) {
    const int64_t stride = t.token_scale_stride / 4;
    const float* token = t.token_scale + row * stride + first;
    const float* scale = t.scale + first * kColumns + half * kHalf;
    const float* from = group_sums + row * kHalf;
    __m512 all[kRowsAtOnce][2];
    for (int r = 0; r < kRowsAtOnce; ++r)
      for (int i = 0; i < 2; ++i) all[r][i] = _mm512_load_ps(sums + (row + r) * kHalf + 16 * i);
    for (int64_t g = 0; g < count; ++g, ++token, scale += kColumns, from += kSums) {
      const __m512 by[2] = {_mm512_loadu_ps(scale), _mm512_loadu_ps(scale + 16)};
      for (int r = 0; r < kRowsAtOnce; ++r) {
        const __m512 of_token = _mm512_set1_ps(token[r * stride]);
        for (int i = 0; i < 2; ++i) {
          const __m512 sum = _mm512_mul_ps(by[i], _mm512_load_ps(from + r * kHalf + 16 * i));
          all[r][i] = _mm512_fmadd_ps(sum, of_token, all[r][i]);
        }
      }
    }
    const bool is_last = first + count == t.groups;
    const float* bias = t.bias + half * kHalf;
    for (int r = 0; r < kRowsAtOnce; ++r)
      for (int i = 0; i < 2; ++i) {
        if (!is_last)
          _mm512_store_ps(sums + (row + r) * kHalf + 16 * i, all[r][i]);
        else if (row + r < t.rows)
          _mm512_storeu_ps(reinterpret_cast<char*>(t.c) + (row + r) * t.c_stride + 128 * half + 64 * i,
                           _mm512_add_ps(all[r][i], _mm512_loadu_ps(bias + 16 * i)));
      }
  }

  // Tiles 4 and 5 are of A, 6 and 7 of B.
  template <bool kIsTall>
  static void load(const char* a, int64_t stride, const char* b) {
    constexpr int64_t kRow = kHalf * 4;
    ASTRORAY_TILE_LOAD(4, a, stride);
    ASTRORAY_TILE_LOAD(6, b, kRow);
    ASTRORAY_TILE_LOAD(7, b + 64, kRow);
    if constexpr (kIsTall) ASTRORAY_TILE_LOAD(5, a + 16 * stride, stride);
  }

  template <bool kIsTall>
  static void clear() {
    ASTRORAY_TILE_CLEAR(0);
    ASTRORAY_TILE_CLEAR(1);
    if constexpr (kIsTall) {
      ASTRORAY_TILE_CLEAR(2);
      ASTRORAY_TILE_CLEAR(3);
    }
  }

  template <bool kIsTall>
  static void store(char* c) {
    constexpr int64_t kRow = kHalf * 4;
    ASTRORAY_TILE_STORE(0, c, kRow);
    ASTRORAY_TILE_STORE(1, c + 64, kRow);
    if constexpr (kIsTall) {
      ASTRORAY_TILE_STORE(2, c + 16 * kRow, kRow);
      ASTRORAY_TILE_STORE(3, c + 16 * kRow + 64, kRow);
    }
  }

  // Sums of `groups` groups of `steps`, one behind the other. The next tiles are loaded before sums are
  // stored: a load waits for stores whose addresses look like its own, and those of four tiles have
  // all 4096 remainders.
#define OSC_TILES(NAME, OP)                                                                  \
  template <bool kIsTall>                                                                    \
  static void NAME(const char* a, int64_t stride, const char* b, int64_t steps,              \
                   int64_t groups, char* c) {                                                \
    load<kIsTall>(a, stride, b);                                                             \
    for (; groups > 0; --groups, c += 4 * kSums) {                                           \
      clear<kIsTall>();                                                                      \
      for (int64_t left = steps; left > 0; left -= kWholeSteps) {                            \
        ASTRORAY_TILE_PRODUCT(OP, 0, 4, 6);                                                  \
        ASTRORAY_TILE_PRODUCT(OP, 1, 4, 7);                                                  \
        if constexpr (kIsTall) {                                                             \
          ASTRORAY_TILE_PRODUCT(OP, 2, 5, 6);                                                \
          ASTRORAY_TILE_PRODUCT(OP, 3, 5, 7);                                                \
        }                                                                                    \
        a += 64;                                                                             \
        b += kWholeSteps * kHalf * 4;                                                        \
        if (groups > 1 || left > kWholeSteps) load<kIsTall>(a, stride, b);                   \
      }                                                                                      \
      store<kIsTall>(c);                                                                     \
    }                                                                                        \
  }
  OSC_TILES(by_bytes, "tdpbusd")
  OSC_TILES(by_numbers, "tdpbf16ps")

  // C = token scale * (start + A B) * scale + bias + outliers; of numbers there is no start.
  template <bool kIsWhole>
  static void finish(const Tile& t, int half, const char* sums, const float* outliers) {
    __m512i start[2];
    __m512 scale[2], bias[2];
    for (int i = 0; i < 2; ++i) {
      const int64_t at = half * kHalf + 16 * i;
      if constexpr (kIsWhole) start[i] = _mm512_loadu_si512(t.start + at);
      scale[i] = _mm512_loadu_ps(t.scale + at);
      bias[i] = _mm512_loadu_ps(t.bias + at);
    }
    char* c = reinterpret_cast<char*>(t.c) + 128 * half;
    for (int64_t row = 0; row < t.rows; ++row, c += t.c_stride) {
      const __m512 token = _mm512_set1_ps(t.token_scale[row]);
      for (int i = 0; i < 2; ++i) {
        const int64_t at = row * kHalf + 16 * i;
        __m512 sum = _mm512_load_ps(sums + 4 * at);
        if constexpr (kIsWhole)
          sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_castps_si512(sum), start[i]));
        const __m512 y = _mm512_fmadd_ps(_mm512_mul_ps(sum, token), scale[i], bias[i]);
        _mm512_storeu_ps(c + 64 * i, _mm512_add_ps(y, _mm512_load_ps(outliers + at)));
      }
    }
  }
};

}  // namespace
}  // namespace astroray
