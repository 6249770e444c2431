// The register tile of tiles.h on AVX2: 6 rows by one vector of 16 numbers at a time, in 12 sums.
#pragma once
#include <cstdint>

namespace astroray {
namespace {

// SUM(A, B, TO): TO += A B; ymm15 is free.
#define ASTRORAY_SUM_FLOAT32(A, B, TO) "vfmadd231ps %%ymm" #A ", %%ymm" #B ", %%ymm" #TO "\n"
#define ASTRORAY_SUM_INT16(A, B, TO)                        \
  "vpmaddwd %%ymm" #A ", %%ymm" #B ", %%ymm15\n"            \
  "vpaddd %%ymm15, %%ymm" #TO ", %%ymm" #TO "\n"
// Sums of 16 bits, which saturate.
#define ASTRORAY_SUM_BYTES(A, B, TO)                        \
  "vpmaddubsw %%ymm" #A ", %%ymm" #B ", %%ymm15\n"          \
  "vpaddw %%ymm15, %%ymm" #TO ", %%ymm" #TO "\n"
#define ASTRORAY_ROW1(SUM, ADDRESS, A0, A1) \
  "vbroadcastss " ADDRESS ", %%ymm14\n" SUM(12, 14, A0) SUM(13, 14, A1)
#define ASTRORAY_COPY2(A0, A1) \
  "vmovaps %%ymm0, %%ymm" #A0 "\n vmovaps %%ymm1, %%ymm" #A1 "\n"
#define ASTRORAY_STORE2(A0, A1) \
  "vmovups %%ymm" #A0 ", (%[c])\n vmovups %%ymm" #A1 ", 32(%[c])\n add %[step], %[c]\n"

#define ASTRORAY_CLOBBERS                                                                 \
  "ymm0", "ymm1", "ymm2", "ymm3", "ymm4", "ymm5", "ymm6", "ymm7", "ymm8", "ymm9", "ymm10", \
      "ymm11", "ymm12", "ymm13", "ymm14", "ymm15", "memory", "cc"

#define ASTRORAY_TILE1(SUM)                                                                 \
  asm volatile(                                                                             \
      "vmovups (%[init]), %%ymm0\n vmovups 32(%[init]), %%ymm1\n"                           \
      ASTRORAY_COPY2(2, 3) ASTRORAY_COPY2(4, 5) ASTRORAY_COPY2(6, 7) ASTRORAY_COPY2(8, 9)   \
      ASTRORAY_COPY2(10, 11)                                                                \
      ".p2align 5\n1:\n"                                                                    \
      "vmovups (%[b]), %%ymm12\n vmovups 32(%[b]), %%ymm13\n"                               \
      ASTRORAY_ROW1(SUM, "(%[a])", 0, 1)                                                    \
      ASTRORAY_ROW1(SUM, "(%[a],%[s])", 2, 3)                                               \
      ASTRORAY_ROW1(SUM, "(%[a],%[s],2)", 4, 5)                                             \
      ASTRORAY_ROW1(SUM, "(%[a3])", 6, 7)                                                   \
      ASTRORAY_ROW1(SUM, "(%[a3],%[s])", 8, 9)                                              \
      ASTRORAY_ROW1(SUM, "(%[a3],%[s],2)", 10, 11)                                          \
      "add %[step], %[b]\n add $4, %[a]\n add $4, %[a3]\n dec %[steps]\n jnz 1b\n"          \
      ASTRORAY_STORE2(0, 1) ASTRORAY_STORE2(2, 3) ASTRORAY_STORE2(4, 5)                     \
      ASTRORAY_STORE2(6, 7) ASTRORAY_STORE2(8, 9) ASTRORAY_STORE2(10, 11)                   \
      : [a] "+r"(a), [a3] "+r"(a3), [b] "+r"(b), [steps] "+r"(steps), [c] "+r"(c)           \
      : [s] "r"(stride), [init] "r"(init), [step] "i"(64 * W)                               \
      : ASTRORAY_CLOBBERS)

// The widths of one product, vector after vector.
#define ASTRORAY_PRODUCT(NAME, SUM)                                                           \
  struct NAME {                                                                               \
    template <int W>                                                                          \
    static inline void tile(const void* a, int64_t stride, const void* b, int64_t steps,      \
                            const void* init, void* c) {                                      \
      for (int w = 0; w < W; ++w)                                                             \
        vector<W>(static_cast<const char*>(a), stride, static_cast<const char*>(b) + 64 * w,  \
                  steps, static_cast<const char*>(init) + 64 * w,                             \
                  static_cast<char*>(c) + 64 * w);                                            \
    }                                                                                         \
    template <int W>                                                                          \
    static inline void vector(const char* a, int64_t stride, const char* b, int64_t steps,    \
                              const char* init, char* c) {                                    \
      const char* a3 = a + 3 * stride;                                                        \
      ASTRORAY_TILE1(SUM);                                                                    \
    }                                                                                         \
  };

ASTRORAY_PRODUCT(MulFloat32, ASTRORAY_SUM_FLOAT32)
ASTRORAY_PRODUCT(MulInt16, ASTRORAY_SUM_INT16)

}  // namespace
}  // namespace astroray
