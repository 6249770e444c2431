// The products of AMX's tiles, as peak.h says.
#include "peak.h"
#include "tiles_amx.h"

namespace astroray {
namespace {

ASTRORAY_PRODUCT(MulInt8, ASTRORAY_INT8_PRODUCT)
ASTRORAY_PRODUCT(MulBfloat16, "tdpbf16ps")

// Four sums that do not wait for one another: a product takes 16 cycles, and its sum 52.
template <class Product>
void run(int64_t rounds) {
  for (int64_t i = 0; i < rounds; ++i) {
    Product::template product<0, 4, 6>();
    Product::template product<1, 4, 7>();
    Product::template product<2, 5, 6>();
    Product::template product<3, 5, 7>();
  }
}

}  // namespace

int64_t peak_amx(int kind, int64_t rounds) {
  const int64_t fewer = rounds / 16, tile = 2 * 16 * 16 * 16;  // flops of 16 groups of one number
  if (kind != kPeakTileInt8 && kind != kPeakTileBfloat16) return 0;
  begin_tiles();
  kind == kPeakTileInt8 ? run<MulInt8>(fewer) : run<MulBfloat16>(fewer);
  end_tiles();
  return fewer * 4 * tile * (kind == kPeakTileInt8 ? 4 : 2);
}

}  // namespace astroray
