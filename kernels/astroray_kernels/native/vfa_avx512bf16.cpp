// Attention kernels whose values are weighed by vdpbf16ps: fast on AMD since Zen 4.
#include "int8.h"
#include "kernels.h"
#include "value_bfloat16.h"

namespace astroray {
namespace {

ASTRORAY_PRODUCT(MulBfloat16, "vdpbf16ps")

struct Excess {
  alignas(64) uint8_t of[kSteps];  // what of a step's place over the fraction of its power
  constexpr Excess() : of{} {
    for (int i = 0; i < kSteps; ++i) {
      const double x = 0.6931471805599453 * i / kSteps;
      double power = 1.0;  // e^x
      for (int n = 20; n > 0; --n) power = 1.0 + x / n * power;
      of[i] = static_cast<uint8_t>(i - static_cast<int>(kSteps * (power - 1.0) + 0.5));
    }
  }
};
constexpr Excess kExcess;

// A weight of bfloat16 has 7 bits behind its first one, so 2^t of t in steps of 1/128 is a whole number
// of bits: the steps, less what a table says of their last 7, are exponent and fraction as they lie.
// Weights of two vectors are one register, whose words lie as keys_at has it.
struct ValueByTable : ValueBfloat16<MulBfloat16> {
  static constexpr bool kByTable = true;

  // 2^(steps / 128): 0 far below, infinity or NaN far above; steps within 2^31.
  static ASTRORAY_INLINE __m512i look_up(Floats a, Floats b) {
    constexpr __mmask64 kLowBytes = 0x5555555555555555;
    const __m512i lowest = _mm512_set1_epi16(-127 * kSteps);
    const __m512i steps =
        _mm512_max_epi16(_mm512_packs_epi32(rounded(a), rounded(b)), lowest);
    const __m512i excess = _mm512_maskz_permutex2var_epi8(
        kLowBytes, _mm512_load_si512(kExcess.of), steps, _mm512_load_si512(kExcess.of + 64));
    return _mm512_sub_epi16(_mm512_adds_epi16(steps, _mm512_set1_epi16(127 * kSteps)), excess);
  }

  // The same for any numbers, NaN for NaN.
  static ASTRORAY_INLINE __m512i compute(Floats a, Floats b) {
    const Floats step(1.0f / kSteps);
    return _mm512_packus_epi32(number(exp2_16<kDegree>(a * step)), number(exp2_16<kDegree>(b * step)));
  }

  // bounded: whether steps are within 2^31
  static ASTRORAY_INLINE Floats keep(char* to, Floats a, Floats b, bool bounded, Floats total) {
    const __m512i words = bounded ? look_up(a, b) : compute(a, b);
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    _mm512_storeu_si512(to, words);
    return _mm512_dpbf16_ps(total, (__m512bh)words, (__m512bh)ones);
  }
};

}  // namespace

Kernel attention_avx512bf16(int score, int value) {
  if (value != kValueBfloat16) return nullptr;
  if (score == kScoreInt16) return attend<ScoreInt16, ValueByTable>;
  if (score == kScoreInt8) return attend<ScoreInt8, ValueByTable>;
  return nullptr;
}

}  // namespace astroray
