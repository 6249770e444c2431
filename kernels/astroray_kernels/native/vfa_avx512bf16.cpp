// Attention kernels whose values are weighed by vdpbf16ps: fast on AMD since Zen 4.
#include "int8.h"
#include "kernels.h"
#include "value_bfloat16.h"

namespace astroray {
namespace {

ASTRORAY_PRODUCT(MulBfloat16, "vdpbf16ps")

}  // namespace

Kernel attention_avx512bf16(int score, int value) {
  if (value != kValueBfloat16) return nullptr;
  if (score == kScoreInt16) return attend<ScoreInt16, ValueBfloat16<MulBfloat16>>;
  if (score == kScoreInt8) return attend<ScoreInt8, ValueBfloat16<MulBfloat16>>;
  return nullptr;
}

}  // namespace astroray
