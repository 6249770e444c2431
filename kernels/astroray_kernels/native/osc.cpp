// Quantized linear layers as plain C, found by ctypes. Compiled for any x86-64.
#include "osc.h"

#include "features.h"

// Runs one call, its layers laid out for that LinearPath. 0: done; 1: no memory; 2: no kernel here.
ASTRORAY_EXPORT int32_t astroray_linear(astroray::Linear* call, int32_t path) {
  using namespace astroray;
  const int32_t found = features();
#ifdef ASTRORAY_HAVE_AMX
  if (path == kLinearTiles && found & kHasAmx) return linear_amx(*call);
#endif
#ifdef ASTRORAY_HAVE_AVX512BF16
  if (path == kLinearBfloat16 && found & kHasBfloat16) return linear_avx512bf16(*call);
#endif
#ifdef ASTRORAY_HAVE_AVX512
  if (path == kLinearFloat32 && found & kHasAvx512) return linear_avx512(*call);
#endif
#ifdef ASTRORAY_HAVE_AVX2
  if (path == kLinearAvx2 && found & kHasAvx2) return linear_avx2(*call);
#endif
  (void)call;
  (void)path;
  (void)found;
  return 2;
}
