// Scores and values of 8 bits, by vpdpbusd or by AMX: AVX2 has no product of theirs that cannot saturate.
#pragma once
#include "run.h"

namespace astroray {
namespace {

// The unsigned operand is the broadcast one, which the assembler takes second.
ASTRORAY_PRODUCT(MulInt8, ASTRORAY_INT8_PRODUCT)

struct ScoreInt8 {
  using Mul = MulInt8;
  static constexpr int kPerGroup = 4;
  static constexpr bool kIsFloat = false, kCentered = true, kIsRounded = false, kHasInit = true;
  static void put(char* row, int64_t d, Ints n, bool is_query) {
    const __m128i bytes = is_query ? _mm512_cvtusepi32_epi8(n + Ints(128)) : _mm512_cvtsepi32_epi8(n);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(row + d), bytes);
  }
};

struct ValueInt8 {
  using Mul = MulInt8;
  static constexpr int kPerGroup = 4, kBytes = 1, kDegree = 3;
  static constexpr bool kByTable = false, kScales = true;
  static constexpr float kLow = 0.0f, kHigh = 0.0f, kHeadroom = 0.0f, kMost = -1.0f;  // online only
  static float divisor(float top) { return top / 127.0f; }
  static Ints group(const Floats* x) {
    Ints all(0);
    for (int i = 0; i < 4; ++i) all = all | (rounded(x[i]) & Ints(0xff)) << (8 * i);
    return all;
  }
  static Floats keep(void* to, Floats p) {  // p <= 1; the sum counts what is kept
    const Floats whole = _mm512_roundscale_ps(p * Floats(255.0f), 8);
    _mm_storeu_si128(static_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(rounded(whole)));
    return whole;
  }
  static Floats widen(const char* c) { return to_floats(Ints::load(c)); }
};

}  // namespace
}  // namespace astroray
