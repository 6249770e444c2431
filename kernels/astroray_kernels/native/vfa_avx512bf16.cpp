// Attention kernels whose values are weighed by vdpbf16ps: fast on AMD since Zen 4.
#include "attend_mixed.h"
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
  static constexpr uint16_t kOne = 127 * kSteps;  // 2^0, as steps and as bfloat16

  // t in steps, of which none is beyond 2^31: 0 far below, infinity or NaN far above.
  struct LookedUp {
    static constexpr int kVectors = 2;
    static constexpr float kUnit = kSteps;
    __m512i one = kept(_mm512_set1_epi16(kOne));
    __m512i low_bytes = kept(_mm512_set1_epi16(0xff));
    __m512i low_excess = kept(_mm512_load_si512(kExcess.of));
    __m512i high_excess = kept(_mm512_load_si512(kExcess.of + 64));

    ASTRORAY_INLINE Floats keep(char* to, const Floats* t, Floats total) const {
      const __m512i words = _mm512_packs_epi32(rounded(t[0]), rounded(t[1]));
      const __m512i steps =
          _mm512_max_epi16(_mm512_adds_epi16(words, one), _mm512_setzero_si512());
      const __m512i excess = _mm512_and_si512(
          _mm512_permutex2var_epi8(low_excess, steps, high_excess), low_bytes);
      return store(to, _mm512_sub_epi16(steps, excess), one, total);
    }

    // A constant that a compiler does not form anew at each use.
    static ASTRORAY_INLINE __m512i kept(__m512i x) {
      asm("" : "+v"(x));
      return x;
    }
  };

  // The same for the assembly of attend_mixed.h.
  static void set_table(Weighing* by) {
    for (uint16_t& one : by->one) one = kOne;
    memcpy(by->excess, kExcess.of, sizeof(by->excess));
  }

  // Any t; NaN for NaN.
  struct Computed {
    static constexpr int kVectors = 2;
    static constexpr float kUnit = 1.0f;
    Floats keep(char* to, const Floats* t, Floats total) const {
      const Ints low = number(exp2_16<kDegree>(t[0])), high = number(exp2_16<kDegree>(t[1]));
      return store(to, _mm512_packus_epi32(low, high), _mm512_set1_epi16(kOne), total);
    }
  };

 private:
  static ASTRORAY_INLINE Floats store(char* to, __m512i words, __m512i ones, Floats total) {
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
