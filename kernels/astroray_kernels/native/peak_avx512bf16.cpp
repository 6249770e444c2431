// The peak of vdpbf16ps.
#include "peak.h"
#include "tiles.h"

namespace astroray {

#define BFLOAT16(R) ASTRORAY_PEAK_STEP("vdpbf16ps", R)

int64_t peak_avx512bf16(int kind, int64_t rounds) {
  if (rounds <= 0 || kind != kPeakBfloat16) return 0;
  const int64_t products = 24 * 32 * rounds;
  ASTRORAY_PEAK(BFLOAT16, rounds);
  return 2 * products;
}

}  // namespace astroray
