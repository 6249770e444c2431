// Tiles of a quantized linear layer on AMX: 32 rows by 64 columns, as 2 by 2 tiles of sums for each half
// of the columns, so that a tile of A or B is multiplied twice for each time it is loaded.
#pragma once
#include "osc_tiles.h"

namespace astroray {
namespace {

struct Tiles {
  static constexpr int kPerStep = 2;     // bfloat16 of a token that 32 bits take
  static constexpr int kTileRows = 32;
  static constexpr int kWholeSteps = 16;  // of 32 bits, in a step of a tile
  static constexpr int kHalf = kColumns / 2;

  // C = token scale * (start + A B) * scale + bias + outliers.
  static void tile(const Tile& t) {
    alignas(64) int32_t sums[kTileRows * kHalf];
    alignas(64) float outliers[kTileRows * kHalf];
    const bool is_tall = t.rows > 16;
    for (int half = 0; half < 2; ++half) {
      is_tall ? multiply<true>(t, half, sums) : multiply<false>(t, half, sums);
      if (t.outlier_steps > 0) {
        is_tall ? add<true>(t, half, outliers) : add<false>(t, half, outliers);
        finish<true>(t, half, sums, outliers);
      } else {
        finish<false>(t, half, sums, outliers);
      }
    }
  }

  static void tile3(const Tile&) {}  // there are no groups

 private:
#define OSC_TILES(NAME, OP)                                                                  \
  template <bool kIsTall>                                                                    \
  static void NAME(const char* a, int64_t stride, const char* b, int64_t steps, char* c) {   \
    constexpr int64_t kRow = kHalf * 4, kTo = kHalf * 4;                                      \
    ASTRORAY_TILE_CLEAR(0);                                                                  \
    ASTRORAY_TILE_CLEAR(1);                                                                  \
    if constexpr (kIsTall) {                                                                 \
      ASTRORAY_TILE_CLEAR(2);                                                                \
      ASTRORAY_TILE_CLEAR(3);                                                                \
    }                                                                                        \
    for (; steps > 0; steps -= kWholeSteps, a += 64, b += kWholeSteps * kRow) {              \
      ASTRORAY_TILE_LOAD(4, a, stride);                                                      \
      ASTRORAY_TILE_LOAD(6, b, kRow);                                                        \
      ASTRORAY_TILE_LOAD(7, b + 64, kRow);                                                   \
      ASTRORAY_TILE_PRODUCT(OP, 0, 4, 6);                                                    \
      ASTRORAY_TILE_PRODUCT(OP, 1, 4, 7);                                                    \
      if constexpr (kIsTall) {                                                               \
        ASTRORAY_TILE_LOAD(5, a + 16 * stride, stride);                                      \
        ASTRORAY_TILE_PRODUCT(OP, 2, 5, 6);                                                  \
        ASTRORAY_TILE_PRODUCT(OP, 3, 5, 7);                                                  \
      }                                                                                      \
    }                                                                                        \
    ASTRORAY_TILE_STORE(0, c, kTo);                                                          \
    ASTRORAY_TILE_STORE(1, c + 64, kTo);                                                     \
    if constexpr (kIsTall) {                                                                 \
      ASTRORAY_TILE_STORE(2, c + 16 * kTo, kTo);                                             \
      ASTRORAY_TILE_STORE(3, c + 16 * kTo + 64, kTo);                                        \
    }                                                                                        \
  }
  OSC_TILES(multiply_bytes, "tdpbusd")
  OSC_TILES(multiply_outliers, "tdpbf16ps")

  template <bool kIsTall>
  static void multiply(const Tile& t, int half, int32_t* sums) {
    multiply_bytes<kIsTall>(static_cast<const char*>(t.a), t.stride,
                            static_cast<const char*>(t.b) + 128 * t.steps * half, t.steps,
                            reinterpret_cast<char*>(sums));
  }

  template <bool kIsTall>
  static void add(const Tile& t, int half, float* outliers) {
    multiply_outliers<kIsTall>(static_cast<const char*>(t.outlier), t.outlier_stride,
                               static_cast<const char*>(t.outlier_weight) + 128 * t.outlier_steps * half,
                               t.outlier_steps, reinterpret_cast<char*>(outliers));
  }

  template <bool kHasOutliers>
  static void finish(const Tile& t, int half, const int32_t* sums, const float* outliers) {
    __m512i start[2];
    __m512 scale[2], bias[2];
    for (int i = 0; i < 2; ++i) {
      const int64_t at = half * kHalf + 16 * i;
      start[i] = _mm512_loadu_si512(t.start + at);
      scale[i] = _mm512_loadu_ps(t.scale + at);
      bias[i] = _mm512_loadu_ps(t.bias + at);
    }
    char* c = reinterpret_cast<char*>(t.c) + 128 * half;
    for (int64_t row = 0; row < t.rows; ++row, c += t.c_stride) {
      const __m512 token = _mm512_set1_ps(t.token_scale[row]);
      for (int i = 0; i < 2; ++i) {
        const int64_t at = row * kHalf + 16 * i;
        const __m512i sum = _mm512_add_epi32(_mm512_load_si512(sums + at), start[i]);
        const __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), token);
        __m512 y = _mm512_fmadd_ps(x, scale[i], bias[i]);
        if constexpr (kHasOutliers) y = _mm512_add_ps(y, _mm512_load_ps(outliers + at));
        _mm512_storeu_ps(c + 64 * i, y);
      }
    }
  }
};

}  // namespace
}  // namespace astroray
