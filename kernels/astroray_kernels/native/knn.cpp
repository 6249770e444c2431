// The search for nearest vectors as plain C, found by ctypes. Compiled for any x86-64.
#include "knn.h"

extern "C" int32_t astroray_features();  // dispatch.cpp

// Runs one call. 0: done; 1: no memory; 2: no kernel of this kind here.
extern "C" __attribute__((visibility("default"))) int32_t
astroray_nearest(astroray::Nearest* call) {
#ifdef ASTRORAY_HAVE_AVX512
  if (astroray_features() & 1) return astroray::nearest_avx512(*call);
#endif
  (void)call;
  return 2;
}
