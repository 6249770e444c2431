// Quantized linear layers whose outlier channels are multiplied as float32: on CPUs without
// vdpbf16ps, and on those where it is no faster.
#include "osc_run.h"

namespace astroray {
namespace {

OSC_OUTLIER(OutlierFloat32, "vfmadd231ps", 1)

}  // namespace

int linear_avx512(Linear& call) { return linear<OutlierFloat32>(call); }

}  // namespace astroray
