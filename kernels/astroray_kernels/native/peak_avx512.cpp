// Peaks of the products that every CPU with AVX-512 and VNNI has.
#include "peak.h"
#include "tiles.h"

namespace astroray {

#define FLOAT32(R) ASTRORAY_PEAK_STEP("vfmadd231ps", R)
#define INT16(R) ASTRORAY_PEAK_STEP("vpdpwssd", R)
#define INT8(R) ASTRORAY_PEAK_STEP("vpdpbusd", R)

int64_t peak_avx512(int kind, int64_t rounds) {
  if (rounds <= 0) return 0;
  const int64_t products = 24 * 16 * rounds;
  if (kind == kPeakFloat32) {
    ASTRORAY_PEAK(FLOAT32, rounds);
    return 2 * products;
  }
  if (kind == kPeakInt16) {
    ASTRORAY_PEAK(INT16, rounds);
    return 4 * products;
  }
  if (kind == kPeakInt8) {
    ASTRORAY_PEAK(INT8, rounds);
    return 8 * products;
  }
  return 0;
}

}  // namespace astroray
