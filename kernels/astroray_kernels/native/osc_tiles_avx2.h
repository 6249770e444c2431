// The tiles of osc_tiles.h on AVX2: 6 rows, or 3 of 4 bits, by 16 columns.
//
// vpmaddubsw adds two products of bytes in 16 bits and saturates. Of 4 bits none can: codes with their
// offset are at most 23 (int4) or 28 (E2M1), weights 7 or 12, so that 16 bits hold a column's start
// and half of the sum of its whole group, of at most 128 or 32 channels: 16 * 7 * 128 and 23 * 7 * 64.
// Of 8 bits they could, so these are widened to 16 bits and multiplied by vpmaddwd.
#pragma once
#include <cstdint>

namespace astroray {
namespace {

#define OSC_CLOBBERS \
  ASTRORAY_CLOBBERS, "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"

// FROM begins with a number.
#define OSC_LOAD2(FROM, A0, A1) \
  "vmovups " FROM ", %%ymm" #A0 "\n vmovups 32+" FROM ", %%ymm" #A1 "\n"
#define OSC_ZERO2(A0, A1) \
  "vxorps %%ymm" #A0 ", %%ymm" #A0 ", %%ymm" #A0 "\n vxorps %%ymm" #A1 ", %%ymm" #A1 ", %%ymm" #A1 "\n"
#define OSC_COPY2(F0, F1, A0, A1) \
  "vmovaps %%ymm" #F0 ", %%ymm" #A0 "\n vmovaps %%ymm" #F1 ", %%ymm" #A1 "\n"
#define OSC_STORE2(TO, A0, A1) "vmovups %%ymm" #A0 ", " TO "\n vmovups %%ymm" #A1 ", 32" TO "\n"

// A row of sums becomes numbers: of the token's scale, then of the weights' (at r8), plus the bias
// (ymm12, 13).
#define OSC_FINISH2(PLACE, A0, A1)                                                       \
  "vbroadcastss " PLACE "(%%rax), %%ymm14\n"                                             \
  "vcvtdq2ps %%ymm" #A0 ", %%ymm" #A0 "\n vcvtdq2ps %%ymm" #A1 ", %%ymm" #A1 "\n"        \
  "vmulps %%ymm14, %%ymm" #A0 ", %%ymm" #A0 "\n vmulps %%ymm14, %%ymm" #A1 ", %%ymm" #A1 "\n" \
  "vfmadd132ps (%%r8), %%ymm12, %%ymm" #A0 "\n vfmadd132ps 32(%%r8), %%ymm13, %%ymm" #A1 "\n"

// One step of 6 rows: rows at rax, rcx apart, the fourth at rdx; 16 columns at rsi.
#define OSC_STEP6(SUM)                         \
  OSC_LOAD2("0(%%rsi)", 12, 13)                 \
  ASTRORAY_ROW1(SUM, "(%%rax)", 0, 1)          \
  ASTRORAY_ROW1(SUM, "(%%rax,%%rcx)", 2, 3)    \
  ASTRORAY_ROW1(SUM, "(%%rax,%%rcx,2)", 4, 5)  \
  ASTRORAY_ROW1(SUM, "(%%rdx)", 6, 7)          \
  ASTRORAY_ROW1(SUM, "(%%rdx,%%rcx)", 8, 9)    \
  ASTRORAY_ROW1(SUM, "(%%rdx,%%rcx,2)", 10, 11) \
  "add $64, %%rsi\n add $4, %%rax\n add $4, %%rdx\n dec %%rdi\n"

// C[6][16] = token scale * A B * scale + bias + outliers.
#define OSC_TILE6                                                                              \
  asm volatile(                                                                                \
      "mov (%[t]), %%rax\n mov 8(%[t]), %%rcx\n lea (%%rcx,%%rcx,2), %%rdx\n add %%rax, %%rdx\n" \
      "mov 16(%[t]), %%rsi\n mov 24(%[t]), %%rdi\n"                                            \
      OSC_ZERO2(0, 1) OSC_ZERO2(2, 3) OSC_ZERO2(4, 5) OSC_ZERO2(6, 7) OSC_ZERO2(8, 9)          \
      OSC_ZERO2(10, 11)                                                                        \
      ".p2align 5\n1:\n" OSC_STEP6(ASTRORAY_SUM_INT16) "jnz 1b\n"                              \
      "mov 40(%[t]), %%rax\n mov 48(%[t]), %%r8\n mov 56(%[t]), %%r9\n"                        \
      OSC_LOAD2("0(%%r9)", 12, 13)                                                              \
      OSC_FINISH2("", 0, 1) OSC_FINISH2("4", 2, 3) OSC_FINISH2("8", 4, 5)                      \
      OSC_FINISH2("12", 6, 7) OSC_FINISH2("16", 8, 9) OSC_FINISH2("20", 10, 11)                \
      "mov 88(%[t]), %%rdi\n test %%rdi, %%rdi\n jz 3f\n"                                      \
      "mov 64(%[t]), %%rax\n mov 72(%[t]), %%rcx\n lea (%%rcx,%%rcx,2), %%rdx\n"               \
      "add %%rax, %%rdx\n mov 80(%[t]), %%rsi\n"                                               \
      ".p2align 5\n2:\n" OSC_STEP6(ASTRORAY_SUM_FLOAT32) "jnz 2b\n"                            \
      "3:\n mov 96(%[t]), %%rax\n mov 104(%[t]), %%rcx\n lea (%%rcx,%%rcx,2), %%rdx\n"         \
      "add %%rax, %%rdx\n"                                                                     \
      OSC_STORE2("(%%rax)", 0, 1) OSC_STORE2("(%%rax,%%rcx)", 2, 3)                            \
      OSC_STORE2("(%%rax,%%rcx,2)", 4, 5) OSC_STORE2("(%%rdx)", 6, 7)                          \
      OSC_STORE2("(%%rdx,%%rcx)", 8, 9) OSC_STORE2("(%%rdx,%%rcx,2)", 10, 11)                  \
      : : [t] "r"(&tile) : OSC_CLOBBERS)

// One step of 3 rows: columns at rsi plus B, rows at rax plus A.
#define OSC_STEP3(SUM, B, A, R0, R1, R2, R3, R4, R5)      \
  OSC_LOAD2(B "(%%rsi)", 12, 13)                          \
  ASTRORAY_ROW1(SUM, A "(%%rax)", R0, R1)                 \
  ASTRORAY_ROW1(SUM, A "(%%rax,%%rcx)", R2, R3)           \
  ASTRORAY_ROW1(SUM, A "(%%rax,%%rcx,2)", R4, R5)

// Sums of a group, in A, times the scales of weights (ymm12, 13) and token, onto numbers, in F. Words
// of 1 in ymm15 add the two sums of a column.
#define OSC_GROUP2(ADDRESS, A0, A1, F0, F1)                                                 \
  "vbroadcastss " ADDRESS ", %%ymm14\n"                                                     \
  "vpmaddwd %%ymm15, %%ymm" #A0 ", %%ymm" #A0 "\n vpmaddwd %%ymm15, %%ymm" #A1 ", %%ymm" #A1 "\n" \
  "vcvtdq2ps %%ymm" #A0 ", %%ymm" #A0 "\n vcvtdq2ps %%ymm" #A1 ", %%ymm" #A1 "\n"           \
  "vmulps %%ymm12, %%ymm" #A0 ", %%ymm" #A0 "\n vmulps %%ymm13, %%ymm" #A1 ", %%ymm" #A1 "\n" \
  "vfmadd231ps %%ymm14, %%ymm" #A0 ", %%ymm" #F0 "\n"                                       \
  "vfmadd231ps %%ymm14, %%ymm" #A1 ", %%ymm" #F1 "\n"

// C[3][16] = bias + sum over groups of token scale * (start + A B) * scale + outliers. Steps of a
// group are a multiple of 4.
#define OSC_TILE3                                                                              \
  asm volatile(                                                                                \
      "mov (%[t]), %%rax\n mov 8(%[t]), %%rcx\n mov 16(%[t]), %%rsi\n mov 32(%[t]), %%r9\n"    \
      "mov 40(%[t]), %%r11\n mov 48(%[t]), %%r10\n mov 112(%[t]), %%r8\n"                      \
      "mov 120(%[t]), %%rdx\n mov 56(%[t]), %%rdi\n"                                           \
      OSC_LOAD2("0(%%rdi)", 6, 7) OSC_COPY2(6, 7, 8, 9) OSC_COPY2(6, 7, 10, 11)                 \
      "4:\n mov 24(%[t]), %%rdi\n"                                                             \
      OSC_LOAD2("0(%%r9)", 0, 1) OSC_COPY2(0, 1, 2, 3) OSC_COPY2(0, 1, 4, 5)                    \
      ".p2align 5\n1:\n"                                                                       \
      OSC_STEP3(ASTRORAY_SUM_BYTES, "0", "", 0, 1, 2, 3, 4, 5)                                       \
      OSC_STEP3(ASTRORAY_SUM_BYTES, "64", "4", 0, 1, 2, 3, 4, 5)                                   \
      OSC_STEP3(ASTRORAY_SUM_BYTES, "128", "8", 0, 1, 2, 3, 4, 5)                                  \
      OSC_STEP3(ASTRORAY_SUM_BYTES, "192", "12", 0, 1, 2, 3, 4, 5)                                 \
      "add $256, %%rsi\n add $16, %%rax\n sub $4, %%rdi\n jnz 1b\n"                            \
      OSC_LOAD2("0(%%r10)", 12, 13)                                                             \
      "vpcmpeqw %%ymm15, %%ymm15, %%ymm15\n vpsrlw $15, %%ymm15, %%ymm15\n"                    \
      OSC_GROUP2("(%%r11)", 0, 1, 6, 7) OSC_GROUP2("(%%r11,%%rdx)", 2, 3, 8, 9)                \
      OSC_GROUP2("(%%r11,%%rdx,2)", 4, 5, 10, 11)                                              \
      "add $64, %%r9\n add $64, %%r10\n add $4, %%r11\n dec %%r8\n jnz 4b\n"                   \
      "mov 88(%[t]), %%rdi\n test %%rdi, %%rdi\n jz 3f\n"                                      \
      "mov 64(%[t]), %%rax\n mov 72(%[t]), %%rcx\n mov 80(%[t]), %%rsi\n"                      \
      ".p2align 5\n2:\n"                                                                       \
      OSC_STEP3(ASTRORAY_SUM_FLOAT32, "0", "", 6, 7, 8, 9, 10, 11)                              \
      "add $64, %%rsi\n add $4, %%rax\n dec %%rdi\n jnz 2b\n"                                  \
      "3:\n mov 96(%[t]), %%rax\n mov 104(%[t]), %%rcx\n"                                      \
      OSC_STORE2("(%%rax)", 6, 7) OSC_STORE2("(%%rax,%%rcx)", 8, 9)                            \
      OSC_STORE2("(%%rax,%%rcx,2)", 10, 11)                                                    \
      : : [t] "r"(&tile) : OSC_CLOBBERS)

// 8 bits as integers of 16, 4 bits as bytes; outliers as float32.
struct Pairs {
  static constexpr int kPerStep = 1;
  static constexpr int kTileRows = 6, kPackedRows = 3;
  static constexpr int kWholeSteps = 1;
  static constexpr int64_t kCodeBytes = 128 * 1024;
  static constexpr Stored stored(int kind) { return kind == kInt8 ? kShorts : kBytes; }
  static constexpr bool unpacks(int) { return true; }

  static void unpack(const Linear& call, int64_t column, int64_t steps, int8_t* panel) {
    if (call.kind != kInt8) return unpack_bytes(call, column, steps, panel);
    const int8_t* from = call.weight + column * steps * (kStepBytes / 2);
    for (int64_t i = 0; i < steps * kStepBytes; i += 64)
      widen_bytes(from + i / 2).store(panel + i);
  }

  static void multiply(const Tile& tile, int kind) {
    if (kind == kInt8)
      OSC_TILE6;
    else
      OSC_TILE3;
  }
};

}  // namespace
}  // namespace astroray
