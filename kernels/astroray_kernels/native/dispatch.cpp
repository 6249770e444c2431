// The library's face: plain C, found by ctypes. Compiled for any x86-64; says what the CPU can do.
//
// `allowed` are the features that a call may use, so that all code can be tested on one machine.
#include "features.h"

#include <cpuid.h>

#include <cstdint>
#include <cstring>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels.h"
#include "peak.h"

namespace astroray {
namespace {

// Bits that older compilers have no name for.
bool has_float16_products() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 23 & 1);
}
bool converts_float16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}

// Tiles are in the CPU, saved by the operating system, and granted to this process: Linux asks for that,
// since a thread's state grows by 8 KB.
bool may_use_tiles() {
#if defined(__linux__) && defined(ASTRORAY_HAVE_AMX)
  constexpr unsigned kBfloat16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25, kOsSaves = 1u << 27;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsSaves)) return false;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~d & (kBfloat16 | kTile | kInt8)) return false;
  asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
  return (a >> 17 & 3) == 3 && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
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

int32_t find_features() {
  __builtin_cpu_init();
  int32_t found = is_amd() ? kIsAmd : 0;
#ifdef ASTRORAY_HAVE_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && converts_float16())
    found |= kHasAvx2;
#endif
#ifdef ASTRORAY_HAVE_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512vbmi2"))
    found |= kHasAvx512;
#endif
#ifdef ASTRORAY_HAVE_AVX512BF16
  if (found & kHasAvx512 && __builtin_cpu_supports("avx512bf16")) found |= kHasBfloat16;
#endif
#ifdef ASTRORAY_HAVE_AVX512FP16
  if (found & kHasAvx512 && has_float16_products()) found |= kHasFloat16;
#endif
#ifdef ASTRORAY_HAVE_AMX
  if (found & kHasBfloat16 && may_use_tiles()) found |= kHasAmx;
#endif
  return found;
}

}  // namespace

int32_t features() {
  static const int32_t found = find_features();  // cpuid is slow on virtual machines
  return found;
}

}  // namespace astroray

ASTRORAY_EXPORT int32_t astroray_interface() { return astroray::kInterface; }

// What this CPU has and the compiler of this library knew, as bits of Feature.
ASTRORAY_EXPORT int32_t astroray_features() { return astroray::features(); }

// Runs one call. 0: done; 1: no memory; 2: no kernel of this kind here.
ASTRORAY_EXPORT int32_t astroray_attention(astroray::Attention* call, int32_t allowed) {
  using namespace astroray;
  const int32_t found = features() & allowed;
  Kernel kernel = nullptr;
#ifdef ASTRORAY_HAVE_AMX
  if (found & kHasAmx) kernel = attention_amx(call->score, call->value);
#endif
#ifdef ASTRORAY_HAVE_AVX512
  if (kernel == nullptr && found & kHasAvx512)
    kernel = attention_avx512(call->score, call->value);
#endif
#ifdef ASTRORAY_HAVE_AVX512BF16
  if (kernel == nullptr && found & kHasBfloat16)
    kernel = attention_avx512bf16(call->score, call->value);
#endif
#ifdef ASTRORAY_HAVE_AVX512FP16
  if (kernel == nullptr && found & kHasFloat16)
    kernel = attention_avx512fp16(call->score, call->value);
#endif
#ifdef ASTRORAY_HAVE_AVX2
  if (kernel == nullptr && found & kHasAvx2) kernel = attention_avx2(call->score, call->value);
#endif
  return kernel == nullptr ? 2 : kernel(*call);
}

// Runs the instruction of a PeakKind; see peak.h. Returns its flops, 0 where it cannot run here.
ASTRORAY_EXPORT int64_t astroray_peak(int32_t kind, int64_t rounds) {
  using namespace astroray;
  const int32_t found = features();
  int64_t flops = 0;
#ifdef ASTRORAY_HAVE_AVX512
  if (found & kHasAvx512) flops = peak_avx512(kind, rounds);
#endif
#ifdef ASTRORAY_HAVE_AVX512BF16
  if (flops == 0 && found & kHasBfloat16) flops = peak_avx512bf16(kind, rounds);
#endif
#ifdef ASTRORAY_HAVE_AVX512FP16
  if (flops == 0 && found & kHasFloat16) flops = peak_avx512fp16(kind, rounds);
#endif
#ifdef ASTRORAY_HAVE_AMX
  if (flops == 0 && found & kHasAmx) flops = peak_amx(kind, rounds);
#endif
#ifdef ASTRORAY_HAVE_AVX2
  if (flops == 0 && found & kHasAvx2) flops = peak_avx2(kind, rounds);
#endif
  return flops;
}
