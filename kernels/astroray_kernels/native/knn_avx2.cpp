// The search for nearest vectors on AVX2.
#include "knn_search.h"

namespace astroray {

int nearest_avx2(Nearest& call) { return nearest(call); }

}  // namespace astroray
