// Attention kernels whose values are weighed by vdpbf16ps: fast on AMD since Zen 4.
#include "int8.h"
#include "kernels.h"

namespace astroray {
namespace {

ASTRORAY_PRODUCT(MulBfloat16, "vdpbf16ps")

// Probabilities and values as bfloat16, sums in float32: any row maximum within 2^60 will do.
struct ValueBfloat16 {
  using Mul = MulBfloat16;
  static constexpr int kPerGroup = 2, kBytes = 2, kDegree = 3;
  static constexpr float kLow = 1e-20f, kHigh = 1e30f, kHeadroom = 60.0f, kMost = 60.0f;
  static float divisor(float top) { return power_above(top); }
  static Ints number(Floats x) { return to_bfloat16(x); }
  static Floats keep(void* to, Floats p) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(p));
    return p;
  }
  static Floats widen(const char* c) { return Floats::load(c); }
};

}  // namespace

Kernel attention_avx512bf16(int score, int value) {
  if (value != kValueBfloat16) return nullptr;
  if (score == kScoreInt16) return attend<ScoreInt16, ValueBfloat16>;
  if (score == kScoreInt8) return attend<ScoreInt8, ValueBfloat16>;
  return nullptr;
}

}  // namespace astroray
