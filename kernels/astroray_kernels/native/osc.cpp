// Quantized linear layers as plain C, found by ctypes. Compiled for any x86-64.
#include "osc.h"

#include "features.h"

// Runs one call, outliers as bfloat16 or as float32. 0: done; 1: no memory; 2: no kernel here.
ASTRORAY_EXPORT int32_t astroray_linear(astroray::Linear* call, int32_t is_bfloat16) {
  using namespace astroray;
  const int32_t found = features();
#ifdef ASTRORAY_HAVE_AVX512BF16
  if (is_bfloat16 && found & kHasBfloat16) return linear_avx512bf16(*call);
#endif
#ifdef ASTRORAY_HAVE_AVX512
  if (!is_bfloat16 && found & kHasAvx512) return linear_avx512(*call);
#endif
  (void)call;
  (void)is_bfloat16;
  (void)found;
  return 2;
}
