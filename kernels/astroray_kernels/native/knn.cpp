// The search for nearest vectors as plain C, found by ctypes. Compiled for any x86-64.
#include "knn.h"

#include "features.h"

// Runs one call. 0: done; 1: no memory; 2: no kernel of this kind here. `allowed`: Features.
ASTRORAY_EXPORT int32_t astroray_nearest(astroray::Nearest* call, int32_t allowed) {
  using namespace astroray;
  const int32_t found = features() & allowed;
#ifdef ASTRORAY_HAVE_AVX512
  if (found & kHasAvx512) return nearest_avx512(*call);
#endif
#ifdef ASTRORAY_HAVE_AVX2
  if (found & kHasAvx2) return nearest_avx2(*call);
#endif
  (void)call;
  return 2;
}
