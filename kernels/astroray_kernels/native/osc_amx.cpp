// Quantized linear layers by AMX: 8 bits by tdpbusd, 4 bits and outliers by tdpbf16ps.
#include "osc_run.h"
#include "osc_tiles_amx.h"

namespace astroray {

int linear_amx(Linear& call) { return call.y == nullptr ? 2 : linear<Tiles>(call); }

}  // namespace astroray
