// The search for nearest vectors on AVX-512 with VNNI.
#include "knn_search.h"

namespace astroray {

int nearest_avx512(Nearest& call) { return nearest(call); }

}  // namespace astroray
