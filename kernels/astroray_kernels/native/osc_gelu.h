// GELU of 16 numbers, as cubics by pieces.
#pragma once
#include "core.h"
#include "osc.h"

namespace astroray {
namespace {

// The cubic of a piece, of its place within it. AVX-512 looks up a coefficient of all lanes at once in
// two registers, AVX2 reads the four of each lane and transposes them.
#ifdef __AVX512F__
struct Cubics {
  __m512 low[4], high[4];

  explicit Cubics(const float* coefficients) {
    for (int i = 0; i < 4; ++i) {
      low[i] = _mm512_loadu_ps(coefficients + i * kGeluPieces);
      high[i] = _mm512_loadu_ps(coefficients + i * kGeluPieces + 16);
    }
  }

  Floats operator()(Ints piece, Floats u) const {
    Floats cubic = _mm512_permutex2var_ps(low[0], piece, high[0]);
    for (int i = 1; i < 4; ++i)
      cubic = multiply_add(cubic, u, _mm512_permutex2var_ps(low[i], piece, high[i]));
    return cubic;
  }
};
#else
struct Cubics {
  const float* coefficients;

  explicit Cubics(const float* c) : coefficients(c) {}

  Floats operator()(Ints piece, Floats u) const {
    alignas(32) int32_t pieces[16];
    piece.store(pieces);
    return {of8(pieces, u.low), of8(pieces + 8, u.high)};
  }

 private:
  __m256 of8(const int32_t* pieces, __m256 u) const {
    __m256 pair[4];  // of lanes i and i + 4
    for (int i = 0; i < 4; ++i)
      pair[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(row(pieces[i])), row(pieces[i + 4]), 1);
    const __m256 low01 = _mm256_unpacklo_ps(pair[0], pair[1]);
    const __m256 low23 = _mm256_unpacklo_ps(pair[2], pair[3]);
    const __m256 high01 = _mm256_unpackhi_ps(pair[0], pair[1]);
    const __m256 high23 = _mm256_unpackhi_ps(pair[2], pair[3]);
    __m256 cubic = _mm256_fmadd_ps(_mm256_shuffle_ps(low01, low23, 0x44), u,
                                   _mm256_shuffle_ps(low01, low23, 0xee));
    cubic = _mm256_fmadd_ps(cubic, u, _mm256_shuffle_ps(high01, high23, 0x44));
    return _mm256_fmadd_ps(cubic, u, _mm256_shuffle_ps(high01, high23, 0xee));
  }

  __m128 row(int64_t piece) const { return _mm_loadu_ps(coefficients + 4 * piece); }
};
#endif

// Half of x (1 + erf(x / sqrt 2)) as max(x, 0) less a cubic of |x|, by the piece that it lies in.
struct Gelu {
  Cubics cubics;
  Floats per_piece, end{kGeluPieces * 0.9999999f};

  explicit Gelu(const Linear& call) : cubics(call.gelu), per_piece(kGeluPieces / call.gelu_end) {}

  Floats operator()(Floats x) const {
    const Floats at = min(abs(x) * per_piece, end);
    const Ints piece = truncated(at);
    const Floats cubic = cubics(piece, at - to_floats(piece));
    return max(Floats(0.0f), x) - cubic;  // of NaN: NaN
  }
};

}  // namespace
}  // namespace astroray
