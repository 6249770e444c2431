// Sixteen floats or integers, or eight doubles, at a time: one register of AVX-512, two of AVX2.
//
// What is written with them is compiled for both. Lanes, roundings and the order of sums are the
// same, but for two: t - floor(t) is rounded down by AVX-512's vreduceps and to nearest on AVX2, so
// that exponentials differ in their last bit; and powers of two below 2^-126 are zero on AVX2.
#pragma once
#include <cstdint>

namespace astroray {
namespace {

// A bit for each of the first `count` of 16 lanes.
inline uint32_t first_of_16(int64_t count) {
  return count <= 0 ? 0 : count >= 16 ? 0xffff : (1u << count) - 1;
}

}  // namespace
}  // namespace astroray

#ifdef __AVX512F__
#include "lanes_avx512.h"
#else
#include "lanes_avx2.h"
#endif

namespace astroray {
namespace {

inline Floats& operator+=(Floats& a, Floats b) { return a = a + b; }
inline Doubles& operator+=(Doubles& a, Doubles b) { return a = a + b; }
inline Floats square_onto(Floats sum, Floats x) { return multiply_add(x, x, sum); }

}  // namespace
}  // namespace astroray
