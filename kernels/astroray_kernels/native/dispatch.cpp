// The library's face: plain C, found by ctypes. Compiled for any x86-64; says what the CPU can do.
#include <cpuid.h>

#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "peak.h"

#define ASTRORAY_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Feature : int32_t { kAvx512 = 1, kBfloat16 = 2, kFloat16 = 4, kAmd = 8 };

bool has_float16() {  // older compilers do not know its name
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 23 & 1);
}

bool is_amd() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return false;
  char name[13] = {};
  memcpy(name, &b, 4);
  memcpy(name + 4, &d, 4);
  memcpy(name + 8, &c, 4);
  return strcmp(name, "AuthenticAMD") == 0;
}

}  // namespace

// What this CPU has and the compiler of this library knew, as bits of Feature.
ASTRORAY_EXPORT int32_t astroray_features() {
  __builtin_cpu_init();
  int32_t found = is_amd() ? kAmd : 0;
#ifdef ASTRORAY_HAVE_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512vbmi2"))
    found |= kAvx512;
#endif
#ifdef ASTRORAY_HAVE_AVX512BF16
  if (found & kAvx512 && __builtin_cpu_supports("avx512bf16")) found |= kBfloat16;
#endif
#ifdef ASTRORAY_HAVE_AVX512FP16
  if (found & kAvx512 && has_float16()) found |= kFloat16;
#endif
  return found;
}

// Runs one call. 0: done; 1: no memory; 2: no kernel of this kind here.
ASTRORAY_EXPORT int32_t astroray_attention(astroray::Attention* call) {
  const int32_t found = astroray_features();
  astroray::Kernel kernel = nullptr;
#ifdef ASTRORAY_HAVE_AVX512
  if (found & kAvx512) kernel = astroray::attention_avx512(call->score, call->value);
#endif
#ifdef ASTRORAY_HAVE_AVX512BF16
  if (kernel == nullptr && found & kBfloat16)
    kernel = astroray::attention_avx512bf16(call->score, call->value);
#endif
#ifdef ASTRORAY_HAVE_AVX512FP16
  if (kernel == nullptr && found & kFloat16)
    kernel = astroray::attention_avx512fp16(call->score, call->value);
#endif
  return kernel == nullptr ? 2 : kernel(*call);
}

// Runs the instruction of a PeakKind; see peak.h. Returns its flops, 0 where it cannot run here.
ASTRORAY_EXPORT int64_t astroray_peak(int32_t kind, int64_t rounds) {
  const int32_t found = astroray_features();
  int64_t flops = 0;
#ifdef ASTRORAY_HAVE_AVX512
  if (found & kAvx512) flops = astroray::peak_avx512(kind, rounds);
#endif
#ifdef ASTRORAY_HAVE_AVX512BF16
  if (flops == 0 && found & kBfloat16) flops = astroray::peak_avx512bf16(kind, rounds);
#endif
#ifdef ASTRORAY_HAVE_AVX512FP16
  if (flops == 0 && found & kFloat16) flops = astroray::peak_avx512fp16(kind, rounds);
#endif
  return flops;
}
