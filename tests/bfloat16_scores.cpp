// Attention with scores of bfloat16, which only AMX forms, by a product that any CPU with AVX2 has.
#include "run.h"

namespace astroray {
namespace {

// The register tile of tiles.h for pairs of bfloat16, one number after the other.
struct MulPairs {
  template <int W>
  static void tile(const void* a, int64_t stride, const void* b, int64_t steps, const void*, void* c) {
    const auto widened = [](const void* from, int64_t at) {
      const uint32_t bits = uint32_t{static_cast<const uint16_t*>(from)[at]} << 16;
      float number;
      memcpy(&number, &bits, 4);
      return number;
    };
    for (int64_t row = 0; row < kRows; ++row)
      for (int64_t lane = 0; lane < 16 * W; ++lane) {
        float sum = 0.0f;
        for (int64_t step = 0; step < steps; ++step)
          for (int64_t i = 0; i < 2; ++i)
            sum += widened(static_cast<const char*>(a) + row * stride, 2 * step + i) *
                   widened(b, 2 * (step * 16 * W + lane) + i);
        memcpy(static_cast<char*>(c) + 4 * (row * 16 * W + lane), &sum, 4);
      }
  }
};

struct Score {  // as in vfa_amx.cpp
  using Mul = MulPairs;
  static constexpr int kPerGroup = 2;
  static constexpr bool kIsFloat = true, kCentered = true, kIsRounded = true, kHasInit = false;
  static void put(char* row, int64_t d, Floats x) { store_low_halves(row + 2 * d, to_bfloat16(x)); }
};

}  // namespace
}  // namespace astroray

extern "C" __attribute__((visibility("default"))) int attend(astroray::Attention* call) {
  return astroray::attend<astroray::Score, astroray::ValueFloat32>(*call);
}
