// What a CPU may have that kernels are chosen by.
#pragma once
#include <cstdint>

#define ASTRORAY_EXPORT extern "C" __attribute__((visibility("default")))

namespace astroray {

// Of what Python calls and hands over: the functions, the structures of osc.h, vfa.h, knn.h and peak.h,
// and how what they point to lies. Raised here and in library.py when any of it changes, so that a
// library of another version is refused instead of run.
constexpr int32_t kInterface = 5;

// kHasAvx2: with FMA and F16C. kHasAvx512: with VNNI, VBMI and VBMI2. kHasAmx: tiles of int8 and of
// bfloat16, and the kernel lets this process use them.
enum Feature : int32_t {
  kHasAvx512 = 1,
  kHasBfloat16 = 2,
  kHasFloat16 = 4,
  kIsAmd = 8,
  kHasAvx2 = 16,
  kHasAmx = 32
};

int32_t features();  // of this CPU, as far as the compiler of the library knew them

}  // namespace astroray
