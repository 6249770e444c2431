// The kernels by instruction set; null where a set has none of that kind.
#pragma once
#include "vfa.h"

namespace astroray {

Kernel attention_avx2(int score, int value);
Kernel attention_avx512(int score, int value);
Kernel attention_avx512bf16(int score, int value);
Kernel attention_avx512fp16(int score, int value);
Kernel attention_amx(int score, int value);

}  // namespace astroray
