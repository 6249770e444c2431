// The peak of vfmadd231ph.
#include "peak.h"
#include "tiles.h"

namespace astroray {

#define FLOAT16(R) ASTRORAY_PEAK_STEP("vfmadd231ph", R)

int64_t peak_avx512fp16(int kind, int64_t rounds) {
  if (rounds <= 0 || kind != kPeakFloat16) return 0;
  const int64_t products = 24 * 32 * rounds;
  ASTRORAY_PEAK(FLOAT16, rounds);
  return 2 * products;
}

}  // namespace astroray
