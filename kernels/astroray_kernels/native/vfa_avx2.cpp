// Attention kernels for any CPU with AVX2: products in float32 and int16.
#include "kernels.h"
#include "run.h"

namespace astroray {

Kernel attention_avx2(int score, int value) {
  if (score == kScoreFloat32 && value == kValueFloat32) return attend<ScoreFloat32, ValueFloat32>;
  if (score == kScoreInt16 && value == kValueFloat32) return attend<ScoreInt16, ValueFloat32>;
  return nullptr;
}

}  // namespace astroray
