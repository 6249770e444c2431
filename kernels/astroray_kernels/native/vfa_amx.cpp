// Attention kernels by AMX's tiles: scores of bfloat16 or of 8 bits, values of bfloat16 or of 8 bits.
#include "int8.h"
#include "kernels.h"
#include "value_bfloat16.h"

namespace astroray {
namespace {

ASTRORAY_PRODUCT(MulBfloat16, "tdpbf16ps")

// Queries and keys as bfloat16, which float32 ones are rounded to and bfloat16 ones are: the scale is
// left to the scores, and the mean stays in bfloat16 keys.
struct ScoreBfloat16 {
  using Mul = MulBfloat16;
  static constexpr int kPerGroup = 2;
  static constexpr bool kIsFloat = true, kCentered = true, kIsRounded = true, kHasInit = false;
  static void put(char* row, int64_t d, Floats x) { store_bfloat16(row + 2 * d, x); }
};

}  // namespace

Kernel attention_amx(int score, int value) {
  if (score == kScoreBfloat16 && value == kValueBfloat16)
    return attend<ScoreBfloat16, ValueBfloat16<MulBfloat16>>;
  if (score == kScoreInt8 && value == kValueBfloat16)
    return attend<ScoreInt8, ValueBfloat16<MulBfloat16>>;
  if (score == kScoreInt8 && value == kValueInt8) return attend<ScoreInt8, ValueInt8>;
  return nullptr;
}

}  // namespace astroray
