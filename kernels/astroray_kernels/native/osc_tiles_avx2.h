// The tiles of osc_tiles.h on AVX2: 4 rows, 6 where they are wide, or 3 of 4 bits, by 16 columns.
//
// vpmaddubsw adds two products of bytes in 16 bits and saturates. Of 4 bits none can: codes with their
// offset are at most 23 (int4) or 28 (E2M1), weights 7 or 12, so that 16 bits hold a column's start
// and half of the sum of its whole group, of at most 128 or 32 channels: 16 * 7 * 128 and 23 * 7 * 64.
//
// Of 8 bits, where codes are at most 255, they hold four products where neither the positive weights nor the
// magnitudes of the negative ones add up to more than 128. The four are two neighbors and those four channels
// on. Where weights are larger, the largest were made smaller, and what was taken off, the excess, is
// multiplied apart, kTurned tokens at a time: sums start with it. Where it is much, the layer is wide: codes and
// weights have 16 bits and are multiplied by vpmaddwd.
#pragma once
#include <cstdint>

namespace astroray {
namespace {

#define OSC_CLOBBERS \
  ASTRORAY_CLOBBERS, "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"

// FROM begins with a number.
#define OSC_LOAD2(FROM, A0, A1) \
  "vmovups " FROM ", %%ymm" #A0 "\n vmovups 32+" FROM ", %%ymm" #A1 "\n"
#define OSC_START2(ADDRESS, A0, A1) OSC_LOAD2("0(%%r9)", A0, A1) "add %%r11, %%r9\n"
#define OSC_COPY2(F0, F1, A0, A1) \
  "vmovaps %%ymm" #F0 ", %%ymm" #A0 "\n vmovaps %%ymm" #F1 ", %%ymm" #A1 "\n"
#define OSC_STORE2(ADDRESS, A0, A1) \
  "vmovups %%ymm" #A0 ", " ADDRESS "\n vmovups %%ymm" #A1 ", 32" ADDRESS "\n"

// A row of sums becomes numbers: of the token's scale, then of the weights' (at r8), plus the bias
// (ymm12, 13).
#define OSC_FINISH2(ADDRESS, A0, A1)                                                     \
  "vbroadcastss " ADDRESS ", %%ymm14\n"                                                  \
  "vcvtdq2ps %%ymm" #A0 ", %%ymm" #A0 "\n vcvtdq2ps %%ymm" #A1 ", %%ymm" #A1 "\n"        \
  "vmulps %%ymm14, %%ymm" #A0 ", %%ymm" #A0 "\n vmulps %%ymm14, %%ymm" #A1 ", %%ymm" #A1 "\n" \
  "vfmadd132ps (%%r8), %%ymm12, %%ymm" #A0 "\n vfmadd132ps 32(%%r8), %%ymm13, %%ymm" #A1 "\n"

// A row of a step, 16 columns: of float32 or two integers of 16 bits, which are in ymm12 and 13, or of eight
// bytes, in ymm8 to 10 and at rsi, with words of 1 in ymm15. Sums that come after both products are 2 % faster
// on Zen 3.
#define OSC_FLOATS(ADDRESS, A0, A1) ASTRORAY_ROW1(ASTRORAY_SUM_FLOAT32, ADDRESS, A0, A1)
#define OSC_PAIRS(ADDRESS, A0, A1)                                                            \
  "vbroadcastss " ADDRESS ", %%ymm14\n"                                                       \
  "vpmaddwd %%ymm12, %%ymm14, %%ymm15\n vpmaddwd %%ymm13, %%ymm14, %%ymm14\n"                \
  "vpaddd %%ymm15, %%ymm" #A0 ", %%ymm" #A0 "\n vpaddd %%ymm14, %%ymm" #A1 ", %%ymm" #A1 "\n"
#define OSC_EIGHTS(ADDRESS, A0, A1)                                                           \
  "vbroadcastss " ADDRESS ", %%ymm11\n vbroadcastss 4" ADDRESS ", %%ymm13\n"                  \
  "vpmaddubsw %%ymm8, %%ymm11, %%ymm12\n vpmaddubsw %%ymm9, %%ymm11, %%ymm11\n"               \
  "vpmaddubsw %%ymm10, %%ymm13, %%ymm14\n vpmaddubsw 96(%%rsi), %%ymm13, %%ymm13\n"           \
  "vpaddw %%ymm14, %%ymm12, %%ymm12\n vpaddw %%ymm13, %%ymm11, %%ymm11\n"                     \
  "vpmaddwd %%ymm15, %%ymm12, %%ymm12\n vpmaddwd %%ymm15, %%ymm11, %%ymm11\n"                 \
  "vpaddd %%ymm12, %%ymm" #A0 ", %%ymm" #A0 "\n vpaddd %%ymm11, %%ymm" #A1 ", %%ymm" #A1 "\n"
#define OSC_WORDS_OF_1(A) \
  "vpcmpeqw %%ymm" #A ", %%ymm" #A ", %%ymm" #A "\n vpsrlw $15, %%ymm" #A ", %%ymm" #A "\n"

// Rows at rax plus A, rcx apart, the fourth at rdx plus A, where SIDES set these: ROW(ADDRESS, A0, A1) of each.
#define OSC_SIDES(BEGIN, STRIDE) \
  "mov " BEGIN ", %%rax\n mov " STRIDE ", %%rcx\n lea (%%rcx,%%rcx,2), %%rdx\n add %%rax, %%rdx\n"
#define OSC_ROWS4(ROW, A)                                                                      \
  ROW(A "(%%rax)", 0, 1) ROW(A "(%%rax,%%rcx)", 2, 3) ROW(A "(%%rax,%%rcx,2)", 4, 5)           \
  ROW(A "(%%rdx)", 6, 7)
#define OSC_ROWS6(ROW, A) \
  OSC_ROWS4(ROW, A) ROW(A "(%%rdx,%%rcx)", 8, 9) ROW(A "(%%rdx,%%rcx,2)", 10, 11)

// On by A bytes of rows and B bytes of columns.
#define OSC_NEXT(A, B) \
  "add $" B ", %%rsi\n add $" A ", %%rax\n add $" A ", %%rdx\n dec %%rdi\n"
#define OSC_STEP_OF_FLOATS(ROWS) OSC_LOAD2("0(%%rsi)", 12, 13) ROWS(OSC_FLOATS, "") OSC_NEXT("4", "64")
// Two steps of four bytes.
#define OSC_STEP_OF_PAIRS(ROWS)                                                                \
  OSC_LOAD2("0(%%rsi)", 12, 13) ROWS(OSC_PAIRS, "")                                            \
  OSC_LOAD2("64(%%rsi)", 12, 13) ROWS(OSC_PAIRS, "4") OSC_NEXT("8", "128")
#define OSC_STEP_OF_EIGHTS(ROWS)                                                               \
  OSC_LOAD2("0(%%rsi)", 8, 9) "vmovups 64(%%rsi), %%ymm10\n" ROWS(OSC_EIGHTS, "") OSC_NEXT("8", "128")

// C[rows][16] = token scale * (start + A B) * scale + bias + outliers. STEP takes two steps.
#define OSC_TILE(ROWS, BEFORE, STEP)                                                           \
  asm volatile(                                                                                \
      OSC_SIDES("(%[t])", "8(%[t])")                                                           \
      "mov 16(%[t]), %%rsi\n mov 24(%[t]), %%rdi\n shr %%rdi\n"                               \
      "mov 32(%[t]), %%r9\n mov 128(%[t]), %%r11\n"                                           \
      ROWS(OSC_START2, "") BEFORE                                                              \
      ".p2align 5\n1:\n" STEP(ROWS) "jnz 1b\n"                                                \
      OSC_SIDES("40(%[t])", "$4") "mov 48(%[t]), %%r8\n mov 56(%[t]), %%r9\n"                  \
      OSC_LOAD2("0(%%r9)", 12, 13) ROWS(OSC_FINISH2, "")                                       \
      "mov 88(%[t]), %%rdi\n test %%rdi, %%rdi\n jz 3f\n"                                      \
      OSC_SIDES("64(%[t])", "72(%[t])") "mov 80(%[t]), %%rsi\n"                                \
      ".p2align 5\n2:\n" OSC_STEP_OF_FLOATS(ROWS) "jnz 2b\n"                                  \
      "3:\n" OSC_SIDES("96(%[t])", "104(%[t])") ROWS(OSC_STORE2, "")                           \
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
      OSC_WORDS_OF_1(15)                                                                       \
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

// Codes as bytes, or integers of 16 bits where they are wide; outliers as float32.
struct Bytes {
  static constexpr int kPerStep = 1;
  static constexpr int kTileRows = 6, kEightsRows = 4, kPackedRows = 3;
  static constexpr int kWholeSteps = 2;
  static constexpr int64_t kCodeBytes = 128 * 1024;
  static constexpr Stored stored(int kind) { return kind == kWide ? kShorts : kBytes; }
  static constexpr bool kHasExcess = true;

  static void unpack(const Linear& call, int64_t column, int64_t steps, int8_t* panel) {
    unpack_bytes(call, column, steps, panel);
  }

  // Pairs of codes of 16 tokens side by side, `pairs` being [steps * 2][kTurned]: a token and the one eight on
  // are neighbors, so that a product's lower halves are those of eight tokens in a row.
  static void turn(const uint8_t* codes, int64_t stride, uint16_t* pairs) {
    alignas(64) uint32_t fours[16][16];
    for (int64_t k = 0; k < stride; k += 64) {
      transpose16(reinterpret_cast<const uint32_t*>(codes + k), stride / 4, fours[0], 16);
      for (int64_t i = 0; i < 16; ++i) {
        const Ints four = Ints::load(fours[i]);
        __m256i* to = reinterpret_cast<__m256i*>(pairs + (k / 2 + 2 * i) * kTurned);
        _mm256_store_si256(to, _mm256_blend_epi16(four.low, _mm256_slli_epi32(four.high, 16), 0xaa));
        to += kTurned / 16;
        _mm256_store_si256(to, _mm256_blend_epi16(_mm256_srli_epi32(four.low, 16), four.high, 0xaa));
      }
    }
  }

  // Starts of the sums [kTurned][kColumns] of tokens whose turned codes are `pairs`.
  static void add_excess(const Linear& call, int64_t column, const uint16_t* pairs, int32_t* start) {
    alignas(64) uint32_t sums[kColumns][kTurned];
    for (int64_t i = 0; i < kColumns; ++i)
      for (int64_t t = 0; t < kTurned; t += 16)
        Ints(call.start[column * kColumns + i]).store(sums[i] + t);
    for (int64_t e = call.excess_begin[column]; e < call.excess_begin[column + 1]; ++e) {
      const Excess& excess = call.excess[e];
      const __m256i* codes[4];
      __m256i weights[4];
      for (int i = 0; i < 4; ++i) {
        codes[i] = reinterpret_cast<const __m256i*>(pairs + int64_t{kTurned} * excess.pair[i]);
        weights[i] = _mm256_set1_epi32(excess.weights[i]);
      }
      uint32_t* to = sums[excess.column];
      for (int64_t t = 0; t < kTurned / 16; ++t) {
        const auto product = [&](int i) { return _mm256_maddubs_epi16(codes[i][t], weights[i]); };
        const __m256i sum = _mm256_add_epi16(_mm256_add_epi16(product(0), product(1)),
                                             _mm256_add_epi16(product(2), product(3)));
        const Ints wide{_mm256_madd_epi16(sum, _mm256_set1_epi32(1)), _mm256_srai_epi32(sum, 16)};
        (Ints::load(to + 16 * t) + wide).store(to + 16 * t);
      }
    }
    for (int64_t t = 0; t < kTurned; t += 16)
      transpose16(sums[0] + t, kTurned, reinterpret_cast<uint32_t*>(start) + t * kColumns, kColumns);
  }

  static void multiply(const Tile& tile, int kind) {
    if (kind == kInt8)
      OSC_TILE(OSC_ROWS4, OSC_WORDS_OF_1(15), OSC_STEP_OF_EIGHTS);
    else if (kind == kWide)
      OSC_TILE(OSC_ROWS6, "", OSC_STEP_OF_PAIRS);
    else
      OSC_TILE3;
  }
};

}  // namespace
}  // namespace astroray
