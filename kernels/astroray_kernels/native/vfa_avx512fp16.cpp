// Attention kernels whose values are weighed by vfmadd231ph: fast on Intel since Sapphire Rapids,
// where vdpbf16ps runs at half the speed of float32.
#include "int8.h"
#include "kernels.h"

namespace astroray {
namespace {

ASTRORAY_PRODUCT(MulFloat16, "vfmadd231ph")

// Probabilities and values as float16, channels scaled to at most 1. Even and odd keys are summed
// apart, in float16 over one span of 256 keys, then in float32. A row's P may reach 2^8; a sum
// below 2^15 proves that nothing overflowed, one above 2^-10 that what float16 lost does not
// matter.
struct ValueFloat16 {
  using Mul = MulFloat16;
  static constexpr int kPerGroup = 2, kBytes = 2, kDegree = 3;
  static constexpr bool kByTable = false, kScales = true;
  static constexpr float kLow = 0x1p-10f, kHigh = 0x1p15f, kHeadroom = 8.0f, kMost = 9.0f;
  static float divisor(float top) { return power_above(top); }
  static Ints group(const Floats* x) { return number(x[0]) | number(x[1]) << 16; }
  static Ints number(Floats x) { return _mm512_cvtepu16_epi32(_mm512_cvtps_ph(x, 0)); }
  static Floats keep(void* to, Floats p) {
    store_float16(to, p);
    return p;
  }
  static Floats widen(const char* c) {
    const Ints pairs = Ints::load(c);
    return Floats(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs))) +
           Floats(_mm512_cvtph_ps(_mm512_cvtepi32_epi16(pairs >> 16)));
  }
};

}  // namespace

Kernel attention_avx512fp16(int score, int value) {
  if (value != kValueFloat16) return nullptr;
  if (score == kScoreInt16) return attend<ScoreInt16, ValueFloat16>;
  if (score == kScoreInt8) return attend<ScoreInt8, ValueFloat16>;
  return nullptr;
}

}  // namespace astroray
