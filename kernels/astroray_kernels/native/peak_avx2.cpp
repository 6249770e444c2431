// Peaks of the products of AVX2, each with the sum that it needs: 12 of them, as many as its tiles have.
#include "peak.h"
#include "tiles.h"

namespace astroray {

#define CLEAR(R) "vpxor %%ymm" #R ", %%ymm" #R ", %%ymm" #R "\n"
#define FLOAT32(R) ASTRORAY_SUM_FLOAT32(12, 13, R)
#define PAIRS(R) ASTRORAY_SUM_INT16(12, 13, R)
#define BYTES(R) ASTRORAY_SUM_BYTES(12, 13, R)
#define EIGHTS(R) \
  "vpmaddubsw %%ymm12, %%ymm13, %%ymm14\n vpmaddubsw %%ymm12, %%ymm13, %%ymm15\n" \
  "vpaddw %%ymm14, %%ymm15, %%ymm15\n vpmaddwd %%ymm12, %%ymm15, %%ymm15\n" \
  "vpaddd %%ymm15, %%ymm" #R ", %%ymm" #R "\n"
#define TWELVE(DO) \
  ASTRORAY_PEAK_SIX(DO, 0, 1, 2, 3, 4, 5) ASTRORAY_PEAK_SIX(DO, 6, 7, 8, 9, 10, 11)

// 12 products a round. Operands are zero.
#define RUN(STEP, ROUNDS)                                                              \
  asm volatile(CLEAR(12) CLEAR(13) CLEAR(14) TWELVE(CLEAR) ".p2align 6\n1:\n" TWELVE(STEP) \
               "dec %[rounds]\n jnz 1b\n"                                              \
               : [rounds] "+r"(ROUNDS) : : ASTRORAY_CLOBBERS)

int64_t peak_avx2(int kind, int64_t rounds) {
  if (rounds <= 0) return 0;
  const int64_t products = 24 * 8 * rounds;
  rounds *= 2;
  if (kind == kPeakFloat32) {
    RUN(FLOAT32, rounds);
    return 2 * products;
  }
  if (kind == kPeakPairs) {
    RUN(PAIRS, rounds);
    return 4 * products;
  }
  if (kind == kPeakBytes) {
    RUN(BYTES, rounds);
    return 8 * products;
  }
  if (kind == kPeakEights) {
    RUN(EIGHTS, rounds);
    return 16 * products;
  }
  return 0;
}

}  // namespace astroray
