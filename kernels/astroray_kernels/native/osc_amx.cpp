// Quantized linear layers of 8 bits by AMX: whole numbers by tdpbusd, outliers by tdpbf16ps.
#include "osc_run.h"
#include "osc_tiles_amx.h"

namespace astroray {

int linear_amx(Linear& call) {
  const bool are_bytes = call.kind == kInt8 && (call.next == nullptr || call.next->kind == kInt8);
  return are_bytes ? linear<Tiles>(call) : 2;
}

}  // namespace astroray
