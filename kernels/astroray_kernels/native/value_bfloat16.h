// Probabilities and values as bfloat16.
#pragma once
#include "run.h"

namespace astroray {
namespace {

inline void store_bfloat16(void* to, Floats x) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(x));
}

// Sums are float32: any row maximum within 2^60 will do.
template <class Product>
struct ValueBfloat16 {
  using Mul = Product;
  static constexpr int kPerGroup = 2, kBytes = 2, kDegree = 3;
  static constexpr bool kByTable = false, kScales = false;
  static constexpr float kLow = 1e-20f, kHigh = 1e30f, kHeadroom = 60.0f, kMost = 60.0f;
  static float divisor(float top) { return power_above(top); }
  static Ints group(const Floats* x) { return number(x[0]) | number(x[1]) << 16; }
  static Ints number(Floats x) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)); }
  static Floats keep(void* to, Floats p) {
    store_bfloat16(to, p);
    return p;
  }
  static Floats widen(const char* c) { return Floats::load(c); }
};

}  // namespace
}  // namespace astroray
