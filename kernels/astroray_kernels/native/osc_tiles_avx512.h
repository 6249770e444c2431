// The tiles of osc_tiles.h on AVX-512: 6 rows, or 3 of 4 bits, by 64 columns.
#pragma once
#include <cstdint>

namespace astroray {
namespace {

#define OSC_CLOBBERS                                                                            \
  ASTRORAY_CLOBBERS, "zmm29", "zmm30", "zmm31", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", \
      "r10", "r11"

#define OSC_LOAD4(FROM, A0, A1, A2, A3)                                          \
  "vmovups (" FROM "), %%zmm" #A0 "\n vmovups 64(" FROM "), %%zmm" #A1 "\n"      \
  "vmovups 128(" FROM "), %%zmm" #A2 "\n vmovups 192(" FROM "), %%zmm" #A3 "\n"
#define OSC_COPY4(A0, A1, A2, A3) \
  ASTRORAY_COPY(0, A0) ASTRORAY_COPY(1, A1) ASTRORAY_COPY(2, A2) ASTRORAY_COPY(3, A3)
#define OSC_FLOAT4(A0, A1, A2, A3)                                                      \
  "vcvtdq2ps %%zmm" #A0 ", %%zmm" #A0 "\n vcvtdq2ps %%zmm" #A1 ", %%zmm" #A1 "\n"       \
  "vcvtdq2ps %%zmm" #A2 ", %%zmm" #A2 "\n vcvtdq2ps %%zmm" #A3 ", %%zmm" #A3 "\n"
#define OSC_TIMES4(BY, A0, A1, A2, A3)                                                          \
  "vmulps %%zmm" #BY ", %%zmm" #A0 ", %%zmm" #A0 "\n vmulps %%zmm" #BY ", %%zmm" #A1            \
  ", %%zmm" #A1 "\n vmulps %%zmm" #BY ", %%zmm" #A2 ", %%zmm" #A2 "\n vmulps %%zmm" #BY         \
  ", %%zmm" #A3 ", %%zmm" #A3 "\n"
// A row of sums becomes numbers of the token's scale.
#define OSC_TOKEN4(PLACE, A0, A1, A2, A3)   \
  "vbroadcastss " PLACE "(%%rax), %%zmm28\n" \
  OSC_FLOAT4(A0, A1, A2, A3) OSC_TIMES4(28, A0, A1, A2, A3)
// zmm24 to 27 hold the weights' scales, 28 to 31 the bias.
#define OSC_BIAS4(A0, A1, A2, A3)                                              \
  "vfmadd132ps %%zmm24, %%zmm28, %%zmm" #A0 "\n"                               \
  "vfmadd132ps %%zmm25, %%zmm29, %%zmm" #A1 "\n"                               \
  "vfmadd132ps %%zmm26, %%zmm30, %%zmm" #A2 "\n"                               \
  "vfmadd132ps %%zmm27, %%zmm31, %%zmm" #A3 "\n"
#define OSC_STORE4(TO, A0, A1, A2, A3)                                            \
  "vmovups %%zmm" #A0 ", (" TO ")\n vmovups %%zmm" #A1 ", 64(" TO ")\n"           \
  "vmovups %%zmm" #A2 ", 128(" TO ")\n vmovups %%zmm" #A3 ", 192(" TO ")\n"

// One step of 6 rows: rows at rax, rcx apart, the fourth at rdx; 64 columns at rsi.
#define OSC_STEP6(OP)                               \
  OSC_LOAD4("%%rsi", 24, 25, 26, 27)                \
  ASTRORAY_ROW4(OP, "(%%rax)", 0, 1, 2, 3)          \
  ASTRORAY_ROW4(OP, "(%%rax,%%rcx)", 4, 5, 6, 7)    \
  ASTRORAY_ROW4(OP, "(%%rax,%%rcx,2)", 8, 9, 10, 11) \
  ASTRORAY_ROW4(OP, "(%%rdx)", 12, 13, 14, 15)      \
  ASTRORAY_ROW4(OP, "(%%rdx,%%rcx)", 16, 17, 18, 19) \
  ASTRORAY_ROW4(OP, "(%%rdx,%%rcx,2)", 20, 21, 22, 23) \
  "add $256, %%rsi\n add $4, %%rax\n add $4, %%rdx\n dec %%rdi\n"

// C[6][64] = token scale * (start + A B) * scale + bias + outliers. OP multiplies outliers.
#define OSC_TILE6(OP)                                                                          \
  asm volatile(                                                                                \
      "mov (%[t]), %%rax\n mov 8(%[t]), %%rcx\n lea (%%rcx,%%rcx,2), %%rdx\n add %%rax, %%rdx\n" \
      "mov 16(%[t]), %%rsi\n mov 24(%[t]), %%rdi\n mov 32(%[t]), %%r8\n"                       \
      OSC_LOAD4("%%r8", 0, 1, 2, 3) OSC_COPY4(4, 5, 6, 7) OSC_COPY4(8, 9, 10, 11)              \
      OSC_COPY4(12, 13, 14, 15) OSC_COPY4(16, 17, 18, 19) OSC_COPY4(20, 21, 22, 23)            \
      ".p2align 5\n1:\n" OSC_STEP6("vpdpbusd") "jnz 1b\n"                                      \
      "mov 40(%[t]), %%rax\n mov 48(%[t]), %%r8\n mov 56(%[t]), %%r9\n"                        \
      OSC_TOKEN4("", 0, 1, 2, 3) OSC_TOKEN4("4", 4, 5, 6, 7) OSC_TOKEN4("8", 8, 9, 10, 11)     \
      OSC_TOKEN4("12", 12, 13, 14, 15) OSC_TOKEN4("16", 16, 17, 18, 19)                        \
      OSC_TOKEN4("20", 20, 21, 22, 23)                                                         \
      OSC_LOAD4("%%r8", 24, 25, 26, 27) OSC_LOAD4("%%r9", 28, 29, 30, 31)                      \
      OSC_BIAS4(0, 1, 2, 3) OSC_BIAS4(4, 5, 6, 7) OSC_BIAS4(8, 9, 10, 11)                      \
      OSC_BIAS4(12, 13, 14, 15) OSC_BIAS4(16, 17, 18, 19) OSC_BIAS4(20, 21, 22, 23)            \
      "mov 88(%[t]), %%rdi\n test %%rdi, %%rdi\n jz 3f\n"                                      \
      "mov 64(%[t]), %%rax\n mov 72(%[t]), %%rcx\n lea (%%rcx,%%rcx,2), %%rdx\n"               \
      "add %%rax, %%rdx\n mov 80(%[t]), %%rsi\n"                                               \
      ".p2align 5\n2:\n" OSC_STEP6(OP) "jnz 2b\n"                                              \
      "3:\n mov 96(%[t]), %%rax\n mov 104(%[t]), %%rcx\n lea (%%rcx,%%rcx,2), %%rdx\n"         \
      "add %%rax, %%rdx\n lea (%%rax,%%rcx), %%rsi\n lea (%%rax,%%rcx,2), %%rdi\n"             \
      "lea (%%rdx,%%rcx), %%r8\n lea (%%rdx,%%rcx,2), %%r9\n"                                  \
      OSC_STORE4("%%rax", 0, 1, 2, 3) OSC_STORE4("%%rsi", 4, 5, 6, 7)                          \
      OSC_STORE4("%%rdi", 8, 9, 10, 11) OSC_STORE4("%%rdx", 12, 13, 14, 15)                    \
      OSC_STORE4("%%r8", 16, 17, 18, 19) OSC_STORE4("%%r9", 20, 21, 22, 23)                    \
      : : [t] "r"(&tile) : OSC_CLOBBERS)

// One step of 3 rows; the sums are those of registers A0 and on.
#define OSC_STEP3(OP, A0, A1, A2, A3, B0, B1, B2, B3, C0, C1, C2, C3) \
  OSC_LOAD4("%%rsi", 24, 25, 26, 27)                                  \
  ASTRORAY_ROW4(OP, "(%%rax)", A0, A1, A2, A3)                        \
  ASTRORAY_ROW4(OP, "(%%rax,%%rcx)", B0, B1, B2, B3)                  \
  ASTRORAY_ROW4(OP, "(%%rax,%%rcx,2)", C0, C1, C2, C3)                \
  "add $256, %%rsi\n add $4, %%rax\n dec %%rdi\n"

// Sums of a group, in A, times the scales of weights (zmm24 to 27) and token, onto numbers, in F.
#define OSC_GROUP4(ADDRESS, A0, A1, A2, A3, F0, F1, F2, F3)                    \
  "vbroadcastss " ADDRESS ", %%zmm28\n"                                        \
  OSC_FLOAT4(A0, A1, A2, A3)                                                   \
  "vmulps %%zmm24, %%zmm" #A0 ", %%zmm" #A0 "\n"                               \
  "vmulps %%zmm25, %%zmm" #A1 ", %%zmm" #A1 "\n"                               \
  "vmulps %%zmm26, %%zmm" #A2 ", %%zmm" #A2 "\n"                               \
  "vmulps %%zmm27, %%zmm" #A3 ", %%zmm" #A3 "\n"                               \
  "vfmadd231ps %%zmm28, %%zmm" #A0 ", %%zmm" #F0 "\n"                          \
  "vfmadd231ps %%zmm28, %%zmm" #A1 ", %%zmm" #F1 "\n"                          \
  "vfmadd231ps %%zmm28, %%zmm" #A2 ", %%zmm" #F2 "\n"                          \
  "vfmadd231ps %%zmm28, %%zmm" #A3 ", %%zmm" #F3 "\n"

// C[3][64] = bias + sum over groups of token scale * (start + A B) * scale + outliers.
#define OSC_TILE3(OP)                                                                          \
  asm volatile(                                                                                \
      "mov (%[t]), %%rax\n mov 8(%[t]), %%rcx\n mov 16(%[t]), %%rsi\n mov 32(%[t]), %%r9\n"    \
      "mov 40(%[t]), %%r11\n mov 48(%[t]), %%r10\n mov 112(%[t]), %%r8\n"                      \
      "mov 120(%[t]), %%rdx\n mov 56(%[t]), %%rdi\n"                                           \
      OSC_LOAD4("%%rdi", 12, 13, 14, 15)                                                       \
      ASTRORAY_COPY(12, 16) ASTRORAY_COPY(13, 17) ASTRORAY_COPY(14, 18) ASTRORAY_COPY(15, 19)  \
      ASTRORAY_COPY(12, 20) ASTRORAY_COPY(13, 21) ASTRORAY_COPY(14, 22) ASTRORAY_COPY(15, 23)  \
      "4:\n mov 24(%[t]), %%rdi\n"                                                             \
      OSC_LOAD4("%%r9", 0, 1, 2, 3) OSC_COPY4(4, 5, 6, 7) OSC_COPY4(8, 9, 10, 11)              \
      ".p2align 5\n1:\n" OSC_STEP3("vpdpbusd", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11) "jnz 1b\n" \
      OSC_LOAD4("%%r10", 24, 25, 26, 27)                                                       \
      OSC_GROUP4("(%%r11)", 0, 1, 2, 3, 12, 13, 14, 15)                                        \
      OSC_GROUP4("(%%r11,%%rdx)", 4, 5, 6, 7, 16, 17, 18, 19)                                  \
      OSC_GROUP4("(%%r11,%%rdx,2)", 8, 9, 10, 11, 20, 21, 22, 23)                              \
      "add $256, %%r9\n add $256, %%r10\n add $4, %%r11\n dec %%r8\n jnz 4b\n"                 \
      "mov 88(%[t]), %%rdi\n test %%rdi, %%rdi\n jz 3f\n"                                      \
      "mov 64(%[t]), %%rax\n mov 72(%[t]), %%rcx\n mov 80(%[t]), %%rsi\n"                      \
      ".p2align 5\n2:\n" OSC_STEP3(OP, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)         \
      "jnz 2b\n"                                                                               \
      "3:\n mov 96(%[t]), %%rax\n mov 104(%[t]), %%rcx\n lea (%%rax,%%rcx), %%rsi\n"           \
      "lea (%%rax,%%rcx,2), %%rdi\n"                                                           \
      OSC_STORE4("%%rax", 12, 13, 14, 15) OSC_STORE4("%%rsi", 16, 17, 18, 19)                  \
      OSC_STORE4("%%rdi", 20, 21, 22, 23)                                                      \
      : : [t] "r"(&tile) : OSC_CLOBBERS)

// Outliers are multiplied by OP, PER_STEP of them in a step.
#define OSC_OUTLIER(NAME, OP, PER_STEP)                            \
  struct NAME {                                                    \
    static constexpr int kPerStep = PER_STEP;                      \
    static constexpr int kTileRows = 6, kPackedRows = 3;           \
    static constexpr int kWholeSteps = 1;                          \
    static constexpr int64_t kCodeBytes = 192 * 1024;              \
    static constexpr Stored stored(int) { return kBytes; }         \
    static constexpr bool kHasExcess = false;                      \
    static constexpr auto unpack = unpack_bytes;                   \
    static void multiply(const Tile& tile, int kind) {             \
      if (kind == kInt8)                                           \
        OSC_TILE6(OP);                                             \
      else                                                         \
        OSC_TILE3(OP);                                             \
    }                                                              \
  };

}  // namespace
}  // namespace astroray
