// The register tiles of tiles.h on AVX-512: up to 6 rows by 4 vectors in 24 sums.
#pragma once
#include <cstdint>

namespace astroray {
namespace {

#define ASTRORAY_ROW4(OP, ADDRESS, A0, A1, A2, A3) \
  "vbroadcastss " ADDRESS ", %%zmm28\n"            \
  OP " %%zmm24, %%zmm28, %%zmm" #A0 "\n"           \
  OP " %%zmm25, %%zmm28, %%zmm" #A1 "\n"           \
  OP " %%zmm26, %%zmm28, %%zmm" #A2 "\n"           \
  OP " %%zmm27, %%zmm28, %%zmm" #A3 "\n"
#define ASTRORAY_ROW3(OP, ADDRESS, A0, A1, A2) \
  "vbroadcastss " ADDRESS ", %%zmm28\n"        \
  OP " %%zmm24, %%zmm28, %%zmm" #A0 "\n"       \
  OP " %%zmm25, %%zmm28, %%zmm" #A1 "\n"       \
  OP " %%zmm26, %%zmm28, %%zmm" #A2 "\n"
#define ASTRORAY_ROW2(OP, ADDRESS, A0, A1) \
  "vbroadcastss " ADDRESS ", %%zmm28\n"    \
  OP " %%zmm24, %%zmm28, %%zmm" #A0 "\n"   \
  OP " %%zmm25, %%zmm28, %%zmm" #A1 "\n"

#define ASTRORAY_CLOBBERS                                                                      \
  "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", "zmm8", "zmm9", "zmm10",      \
      "zmm11", "zmm12", "zmm13", "zmm14", "zmm15", "zmm16", "zmm17", "zmm18", "zmm19", "zmm20", \
      "zmm21", "zmm22", "zmm23", "zmm24", "zmm25", "zmm26", "zmm27", "zmm28", "memory", "cc"

#define ASTRORAY_COPY(FROM, TO) "vmovaps %%zmm" #FROM ", %%zmm" #TO "\n"
#define ASTRORAY_STORE(REG, OFFSET) "vmovups %%zmm" #REG ", " #OFFSET "(%[c])\n"
#define ASTRORAY_LOAD(REG, OFFSET) "vmovups " #OFFSET "(%[c]), %%zmm" #REG "\n"

// Operands: a, a3 = a + 3 stride, s = stride of A in bytes, b, steps, init [W vectors], c [6][W].
#define ASTRORAY_OPERANDS                                                                        \
  : [a] "+r"(a), [a3] "+r"(a3), [b] "+r"(b), [steps] "+r"(steps)                                 \
  : [s] "r"(stride), [init] "r"(init), [c] "r"(c)                                                \
  : ASTRORAY_CLOBBERS

#define ASTRORAY_NEXT(BYTES)   \
  "add $" #BYTES ", %[b]\n"    \
  "add $4, %[a]\n"             \
  "add $4, %[a3]\n"            \
  "dec %[steps]\n"             \
  "jnz 1b\n"

// The parts of a tile of 4 vectors: sums from `init` or from C, one step, and sums to C.
#define ASTRORAY_BEGIN4                                                                          \
  "vmovups (%[init]), %%zmm0\n vmovups 64(%[init]), %%zmm1\n"                                    \
  "vmovups 128(%[init]), %%zmm2\n vmovups 192(%[init]), %%zmm3\n"                                \
  ASTRORAY_COPY(0, 4) ASTRORAY_COPY(1, 5) ASTRORAY_COPY(2, 6) ASTRORAY_COPY(3, 7)                \
  ASTRORAY_COPY(0, 8) ASTRORAY_COPY(1, 9) ASTRORAY_COPY(2, 10) ASTRORAY_COPY(3, 11)              \
  ASTRORAY_COPY(0, 12) ASTRORAY_COPY(1, 13) ASTRORAY_COPY(2, 14) ASTRORAY_COPY(3, 15)            \
  ASTRORAY_COPY(0, 16) ASTRORAY_COPY(1, 17) ASTRORAY_COPY(2, 18) ASTRORAY_COPY(3, 19)            \
  ASTRORAY_COPY(0, 20) ASTRORAY_COPY(1, 21) ASTRORAY_COPY(2, 22) ASTRORAY_COPY(3, 23)
#define ASTRORAY_LOAD4                                                                           \
  ASTRORAY_LOAD(0, 0) ASTRORAY_LOAD(1, 64) ASTRORAY_LOAD(2, 128)                                 \
  ASTRORAY_LOAD(3, 192) ASTRORAY_LOAD(4, 256) ASTRORAY_LOAD(5, 320)                              \
  ASTRORAY_LOAD(6, 384) ASTRORAY_LOAD(7, 448) ASTRORAY_LOAD(8, 512)                              \
  ASTRORAY_LOAD(9, 576) ASTRORAY_LOAD(10, 640) ASTRORAY_LOAD(11, 704)                            \
  ASTRORAY_LOAD(12, 768) ASTRORAY_LOAD(13, 832) ASTRORAY_LOAD(14, 896)                           \
  ASTRORAY_LOAD(15, 960) ASTRORAY_LOAD(16, 1024) ASTRORAY_LOAD(17, 1088)                         \
  ASTRORAY_LOAD(18, 1152) ASTRORAY_LOAD(19, 1216) ASTRORAY_LOAD(20, 1280)                        \
  ASTRORAY_LOAD(21, 1344) ASTRORAY_LOAD(22, 1408) ASTRORAY_LOAD(23, 1472)
#define ASTRORAY_STORE4                                                                          \
  ASTRORAY_STORE(0, 0) ASTRORAY_STORE(1, 64) ASTRORAY_STORE(2, 128)                              \
  ASTRORAY_STORE(3, 192) ASTRORAY_STORE(4, 256) ASTRORAY_STORE(5, 320)                           \
  ASTRORAY_STORE(6, 384) ASTRORAY_STORE(7, 448) ASTRORAY_STORE(8, 512)                           \
  ASTRORAY_STORE(9, 576) ASTRORAY_STORE(10, 640) ASTRORAY_STORE(11, 704)                         \
  ASTRORAY_STORE(12, 768) ASTRORAY_STORE(13, 832) ASTRORAY_STORE(14, 896)                        \
  ASTRORAY_STORE(15, 960) ASTRORAY_STORE(16, 1024) ASTRORAY_STORE(17, 1088)                      \
  ASTRORAY_STORE(18, 1152) ASTRORAY_STORE(19, 1216) ASTRORAY_STORE(20, 1280)                     \
  ASTRORAY_STORE(21, 1344) ASTRORAY_STORE(22, 1408) ASTRORAY_STORE(23, 1472)
#define ASTRORAY_STEP4(OP)                                                                       \
  "vmovups (%[b]), %%zmm24\n vmovups 64(%[b]), %%zmm25\n"                                        \
  "vmovups 128(%[b]), %%zmm26\n vmovups 192(%[b]), %%zmm27\n"                                    \
  ASTRORAY_ROW4(OP, "(%[a])", 0, 1, 2, 3)                                                        \
  ASTRORAY_ROW4(OP, "(%[a],%[s])", 4, 5, 6, 7)                                                   \
  ASTRORAY_ROW4(OP, "(%[a],%[s],2)", 8, 9, 10, 11)                                               \
  ASTRORAY_ROW4(OP, "(%[a3])", 12, 13, 14, 15)                                                   \
  ASTRORAY_ROW4(OP, "(%[a3],%[s])", 16, 17, 18, 19)                                              \
  ASTRORAY_ROW4(OP, "(%[a3],%[s],2)", 20, 21, 22, 23)

#define ASTRORAY_TILE4(OP, BEGIN)                                                                  \
  asm volatile(BEGIN ".p2align 5\n1:\n" ASTRORAY_STEP4(OP) ASTRORAY_NEXT(256) ASTRORAY_STORE4        \
                   ASTRORAY_OPERANDS)

#define ASTRORAY_TILE3(OP)                                                                       \
  asm volatile(                                                                                  \
      "vmovups (%[init]), %%zmm0\n vmovups 64(%[init]), %%zmm1\n"                                \
      "vmovups 128(%[init]), %%zmm2\n"                                                           \
      ASTRORAY_COPY(0, 3) ASTRORAY_COPY(1, 4) ASTRORAY_COPY(2, 5)                                \
      ASTRORAY_COPY(0, 6) ASTRORAY_COPY(1, 7) ASTRORAY_COPY(2, 8)                                \
      ASTRORAY_COPY(0, 9) ASTRORAY_COPY(1, 10) ASTRORAY_COPY(2, 11)                              \
      ASTRORAY_COPY(0, 12) ASTRORAY_COPY(1, 13) ASTRORAY_COPY(2, 14)                             \
      ASTRORAY_COPY(0, 15) ASTRORAY_COPY(1, 16) ASTRORAY_COPY(2, 17)                             \
      ".p2align 5\n1:\n"                                                                         \
      "vmovups (%[b]), %%zmm24\n vmovups 64(%[b]), %%zmm25\n vmovups 128(%[b]), %%zmm26\n"       \
      ASTRORAY_ROW3(OP, "(%[a])", 0, 1, 2)                                                       \
      ASTRORAY_ROW3(OP, "(%[a],%[s])", 3, 4, 5)                                                  \
      ASTRORAY_ROW3(OP, "(%[a],%[s],2)", 6, 7, 8)                                                \
      ASTRORAY_ROW3(OP, "(%[a3])", 9, 10, 11)                                                    \
      ASTRORAY_ROW3(OP, "(%[a3],%[s])", 12, 13, 14)                                              \
      ASTRORAY_ROW3(OP, "(%[a3],%[s],2)", 15, 16, 17)                                            \
      ASTRORAY_NEXT(192)                                                                         \
      ASTRORAY_STORE(0, 0) ASTRORAY_STORE(1, 64) ASTRORAY_STORE(2, 128) ASTRORAY_STORE(3, 192)   \
      ASTRORAY_STORE(4, 256) ASTRORAY_STORE(5, 320) ASTRORAY_STORE(6, 384)                       \
      ASTRORAY_STORE(7, 448) ASTRORAY_STORE(8, 512) ASTRORAY_STORE(9, 576)                       \
      ASTRORAY_STORE(10, 640) ASTRORAY_STORE(11, 704) ASTRORAY_STORE(12, 768)                    \
      ASTRORAY_STORE(13, 832) ASTRORAY_STORE(14, 896) ASTRORAY_STORE(15, 960)                    \
      ASTRORAY_STORE(16, 1024) ASTRORAY_STORE(17, 1088) ASTRORAY_OPERANDS)

#define ASTRORAY_TILE2(OP)                                                                       \
  asm volatile(                                                                                  \
      "vmovups (%[init]), %%zmm0\n vmovups 64(%[init]), %%zmm1\n"                                \
      ASTRORAY_COPY(0, 2) ASTRORAY_COPY(1, 3) ASTRORAY_COPY(0, 4) ASTRORAY_COPY(1, 5)            \
      ASTRORAY_COPY(0, 6) ASTRORAY_COPY(1, 7) ASTRORAY_COPY(0, 8) ASTRORAY_COPY(1, 9)            \
      ASTRORAY_COPY(0, 10) ASTRORAY_COPY(1, 11)                                                  \
      ".p2align 5\n1:\n"                                                                         \
      "vmovups (%[b]), %%zmm24\n vmovups 64(%[b]), %%zmm25\n"                                    \
      ASTRORAY_ROW2(OP, "(%[a])", 0, 1)                                                          \
      ASTRORAY_ROW2(OP, "(%[a],%[s])", 2, 3)                                                     \
      ASTRORAY_ROW2(OP, "(%[a],%[s],2)", 4, 5)                                                   \
      ASTRORAY_ROW2(OP, "(%[a3])", 6, 7)                                                         \
      ASTRORAY_ROW2(OP, "(%[a3],%[s])", 8, 9)                                                    \
      ASTRORAY_ROW2(OP, "(%[a3],%[s],2)", 10, 11)                                                \
      ASTRORAY_NEXT(128)                                                                         \
      ASTRORAY_STORE(0, 0) ASTRORAY_STORE(1, 64) ASTRORAY_STORE(2, 128) ASTRORAY_STORE(3, 192)   \
      ASTRORAY_STORE(4, 256) ASTRORAY_STORE(5, 320) ASTRORAY_STORE(6, 384)                       \
      ASTRORAY_STORE(7, 448) ASTRORAY_STORE(8, 512) ASTRORAY_STORE(9, 576)                       \
      ASTRORAY_STORE(10, 640) ASTRORAY_STORE(11, 704) ASTRORAY_OPERANDS)

#define ASTRORAY_INT8_PRODUCT "vpdpbusd"

// The widths of one product.
#define ASTRORAY_PRODUCT(NAME, OP)                                                            \
  struct NAME {                                                                               \
    template <int W>                                                                          \
    static inline void tile(const void* a_, int64_t stride, const void* b_, int64_t steps,    \
                            const void* init, void* c) {                                      \
      const char* a = static_cast<const char*>(a_);                                           \
      const char* a3 = a + 3 * stride;                                                        \
      const char* b = static_cast<const char*>(b_);                                           \
      if constexpr (W == 4) {                                                                 \
        ASTRORAY_TILE4(OP, ASTRORAY_BEGIN4);                                                  \
      } else if constexpr (W == 3) {                                                          \
        ASTRORAY_TILE3(OP);                                                                   \
      } else {                                                                                \
        ASTRORAY_TILE2(OP);                                                                   \
      }                                                                                       \
    }                                                                                         \
    /* C [6][4 vectors] += A B */                                                             \
    static inline void add4(const void* a_, int64_t stride, const void* b_, int64_t steps,    \
                            void* c) {                                                        \
      const char *a = static_cast<const char*>(a_), *b = static_cast<const char*>(b_);        \
      const char* a3 = a + 3 * stride;                                                        \
      const void* init = nullptr;                                                             \
      ASTRORAY_TILE4(OP, ASTRORAY_LOAD4);                                                     \
    }                                                                                         \
  };

ASTRORAY_PRODUCT(MulFloat32, "vfmadd231ps")
ASTRORAY_PRODUCT(MulInt16, "vpdpwssd")

}  // namespace
}  // namespace astroray
