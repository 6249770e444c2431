// The fastest that an instruction of the kernels can run: sums that do not wait for one another,
// nothing loaded, nothing stored. What the share of the peak is a share of.
#pragma once
#include <cstdint>

namespace astroray {

enum PeakKind : int32_t {
  kPeakFloat32 = 0,   // vfmadd231ps
  kPeakInt16 = 1,     // vpdpwssd
  kPeakInt8 = 2,      // vpdpbusd
  kPeakBfloat16 = 3,  // vdpbf16ps
  kPeakFloat16 = 4,   // vfmadd231ph
  kPeakTileInt8 = 5,      // tdpbusd
  kPeakTileBfloat16 = 6,  // tdpbf16ps
  kPeakPairs = 7,         // vpmaddwd and its vpaddd
  kPeakBytes = 8,         // vpmaddubsw and its vpaddw
  kPeakEights = 9,        // two vpmaddubsw, their vpaddw, then vpmaddwd, and its vpaddd
};

// Runs an instruction 24 times `rounds`, on the 24 sums of a register tile; those of AMX, which do more, a
// quarter of `rounds` times, on 4 sums. Returns the flops of
// that (a product and a sum are two); 0: the set has no such instruction.
int64_t peak_avx2(int kind, int64_t rounds);
int64_t peak_avx512(int kind, int64_t rounds);
int64_t peak_avx512bf16(int kind, int64_t rounds);
int64_t peak_avx512fp16(int kind, int64_t rounds);
int64_t peak_amx(int kind, int64_t rounds);

#define ASTRORAY_PEAK_CLEAR(R) "vpxord %%zmm" #R ", %%zmm" #R ", %%zmm" #R "\n"
#define ASTRORAY_PEAK_STEP(OP, R) OP " %%zmm24, %%zmm25, %%zmm" #R "\n"
#define ASTRORAY_PEAK_SIX(DO, A, B, C, D, E, F) DO(A) DO(B) DO(C) DO(D) DO(E) DO(F)
#define ASTRORAY_PEAK_ALL(DO)                                                              \
  ASTRORAY_PEAK_SIX(DO, 0, 1, 2, 3, 4, 5) ASTRORAY_PEAK_SIX(DO, 6, 7, 8, 9, 10, 11)        \
  ASTRORAY_PEAK_SIX(DO, 12, 13, 14, 15, 16, 17) ASTRORAY_PEAK_SIX(DO, 18, 19, 20, 21, 22, 23)

// Operands of 0x3f80 are 1 in bfloat16 and harmless in the other formats. STEP(R) is a statement
// of ASTRORAY_PEAK_STEP.
#define ASTRORAY_PEAK(STEP, ROUNDS)                                                        \
  asm volatile("vpbroadcastd %k[ones], %%zmm24\n vpbroadcastd %k[ones], %%zmm25\n"         \
               ASTRORAY_PEAK_ALL(ASTRORAY_PEAK_CLEAR)                                      \
               ".p2align 6\n1:\n"                                                          \
               ASTRORAY_PEAK_ALL(STEP)                                                     \
               "dec %[rounds]\n jnz 1b\n"                                                  \
               : [rounds] "+r"(ROUNDS)                                                     \
               : [ones] "r"(0x3f803f80)                                                    \
               : ASTRORAY_CLOBBERS)

}  // namespace astroray
