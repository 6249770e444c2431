// Quantized linear layers as plain C, found by ctypes. Compiled for any x86-64.
#include "osc.h"

extern "C" int32_t astroray_features();  // dispatch.cpp

// Runs one call, outliers as bfloat16 or as float32. 0: done; 1: no memory; 2: no kernel here.
extern "C" __attribute__((visibility("default"))) int32_t
astroray_linear(astroray::Linear* call, int32_t is_bfloat16) {
  const int32_t found = astroray_features();
#ifdef ASTRORAY_HAVE_AVX512BF16
  if (is_bfloat16 && found & 2) return astroray::linear_avx512bf16(*call);
#endif
#ifdef ASTRORAY_HAVE_AVX512
  if (!is_bfloat16 && found & 1) return astroray::linear_avx512(*call);
#endif
  (void)call;
  (void)is_bfloat16;
  (void)found;
  return 2;
}
