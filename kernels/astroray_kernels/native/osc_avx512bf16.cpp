// Quantized linear layers whose outlier channels are multiplied by vdpbf16ps.
#include "osc_run.h"

namespace astroray {
namespace {

OSC_OUTLIER(OutlierBfloat16, "vdpbf16ps", 2)

}  // namespace

int linear_avx512bf16(Linear& call) { return linear<OutlierBfloat16>(call); }

}  // namespace astroray
