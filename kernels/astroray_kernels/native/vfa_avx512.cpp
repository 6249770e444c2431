// Attention kernels for any CPU with AVX-512 and VNNI: products in float32, int16 and int8.
#include "int8.h"
#include "kernels.h"

namespace astroray {

Kernel attention_avx512(int score, int value) {
  if (score == kScoreFloat32 && value == kValueFloat32) return attend<ScoreFloat32, ValueFloat32>;
  if (score == kScoreInt16 && value == kValueFloat32) return attend<ScoreInt16, ValueFloat32>;
  if (score == kScoreInt8 && value == kValueFloat32) return attend<ScoreInt8, ValueFloat32>;
  if (score == kScoreInt8 && value == kValueInt8) return attend<ScoreInt8, ValueInt8>;
  return nullptr;
}

}  // namespace astroray
