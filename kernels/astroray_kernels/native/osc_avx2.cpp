// Quantized linear layers for any CPU with AVX2.
#include "osc_run.h"

namespace astroray {

int linear_avx2(Linear& call) { return linear<Bytes>(call); }

}  // namespace astroray
