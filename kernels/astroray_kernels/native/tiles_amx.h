// The register tiles of tiles.h on AMX: 16 rows by up to 4 vectors, 64 bytes of each row a step.
//
// A step is 16 of the 32-bit groups of tiles.h, so what is packed for one is packed for both: in memory
// a tile of B is 16 steps of one vector. Sums pass through memory, since no instruction moves a tile to
// vectors. A thread calls begin_tiles before it multiplies, and end_tiles once it is done: the state
// that it then has no more is not saved when it loses its core.
#pragma once
#include <cstdint>

namespace astroray {
namespace {

struct MulFloat32;  // products of other instruction sets, which formats name
struct MulInt16;

#define ASTRORAY_INT8_PRODUCT "tdpbusd"

// has_halves: tile 6 has rows of 32 bytes and tile 7 half the rows
inline void begin_tiles(bool has_halves = false) {
  struct {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  if (has_halves) {
    config.row_bytes[6] = 32;
    config.rows[7] = 8;
  }
  asm volatile("ldtilecfg %0" : : "m"(config));
}
inline void end_tiles() { asm volatile("tilerelease"); }

#define ASTRORAY_TILE_CLEAR(T) asm volatile("tilezero %%tmm" #T : :)
#define ASTRORAY_TILE_LOAD(T, FROM, STRIDE) \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #T : : "r"(FROM), "r"(STRIDE) : "memory")
#define ASTRORAY_TILE_STORE(T, TO, STRIDE) \
  asm volatile("tilestored %%tmm" #T ", (%0,%1,1)" : : "r"(TO), "r"(STRIDE) : "memory")
#define ASTRORAY_TILE_PRODUCT(OP, C, A, B) \
  asm volatile(OP " %%tmm" #B ", %%tmm" #A ", %%tmm" #C : :)

template <int kTile>
inline void tile_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
inline void tile_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
}

// Tiles 0 to 3 are sums, 4 is of A and 5 of B; 6 and 7 those of half a step, which rows of 32 bytes end
// with. All sums start from the same row, `init`, or from zero where it is null.
#define ASTRORAY_PRODUCT(NAME, OP)                                                              \
  struct NAME {                                                                                 \
    template <int kC, int kA, int kB>                                                           \
    static inline void product() {                                                              \
      asm volatile(OP " %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));            \
    }                                                                                           \
    template <int W>                                                                            \
    static inline void tile(const void* a_, int64_t stride, const void* b_, int64_t steps,      \
                            const void* init, void* c_) {                                       \
      const char *a = static_cast<const char*>(a_), *b = static_cast<const char*>(b_);          \
      const char* from = static_cast<const char*>(init);                                        \
      char* c = static_cast<char*>(c_);                                                         \
      constexpr int64_t kRow = 64 * W, kNone = 0;                                               \
      if (from == nullptr) {                                                                    \
        ASTRORAY_TILE_CLEAR(0);                                                                 \
        ASTRORAY_TILE_CLEAR(1);                                                                 \
        if constexpr (W > 2) ASTRORAY_TILE_CLEAR(2);                                            \
        if constexpr (W > 3) ASTRORAY_TILE_CLEAR(3);                                            \
      } else {                                                                                  \
        ASTRORAY_TILE_LOAD(0, from, kNone);                                                     \
        ASTRORAY_TILE_LOAD(1, from + 64, kNone);                                                \
        if constexpr (W > 2) ASTRORAY_TILE_LOAD(2, from + 128, kNone);                          \
        if constexpr (W > 3) ASTRORAY_TILE_LOAD(3, from + 192, kNone);                          \
      }                                                                                         \
      for (; steps >= 16; steps -= 16, a += 64, b += 16 * kRow) {                               \
        ASTRORAY_TILE_LOAD(4, a, stride);                                                       \
        ASTRORAY_TILE_STEP(OP, 4, 5)                                                            \
      }                                                                                         \
      if (steps > 0) {                                                                          \
        ASTRORAY_TILE_LOAD(6, a, stride);                                                       \
        ASTRORAY_TILE_STEP(OP, 6, 7)                                                            \
      }                                                                                         \
      ASTRORAY_TILE_STORE(0, c, kRow);                                                          \
      ASTRORAY_TILE_STORE(1, c + 64, kRow);                                                     \
      if constexpr (W > 2) ASTRORAY_TILE_STORE(2, c + 128, kRow);                               \
      if constexpr (W > 3) ASTRORAY_TILE_STORE(3, c + 192, kRow);                               \
    }                                                                                           \
  };
#define ASTRORAY_TILE_STEP(OP, A, B)         \
  ASTRORAY_TILE_LOAD(B, b, kRow);            \
  ASTRORAY_TILE_PRODUCT(OP, 0, A, B);        \
  ASTRORAY_TILE_LOAD(B, b + 64, kRow);       \
  ASTRORAY_TILE_PRODUCT(OP, 1, A, B);        \
  if constexpr (W > 2) {                     \
    ASTRORAY_TILE_LOAD(B, b + 128, kRow);    \
    ASTRORAY_TILE_PRODUCT(OP, 2, A, B);      \
  }                                          \
  if constexpr (W > 3) {                     \
    ASTRORAY_TILE_LOAD(B, b + 192, kRow);    \
    ASTRORAY_TILE_PRODUCT(OP, 3, A, B);      \
  }

}  // namespace
}  // namespace astroray
