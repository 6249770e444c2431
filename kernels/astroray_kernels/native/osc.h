// What the callers of quantized linear layers and their kernels agree on.
#pragma once
#include <cstdint>

namespace astroray {

#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr int kColumns = 16;     // output channels of a packed block of weights
#else
constexpr int kColumns = 64;
#endif
constexpr int kGeluPieces = 32;  // of the cubic that GELU is made of

// How a call is computed, and its layers laid out: outliers as float32, as bfloat16, all by AMX's tiles,
// or by AVX2, where the 64 output channels of a block below are 16.
enum LinearPath : int32_t { kLinearFloat32 = 0, kLinearBfloat16 = 1, kLinearTiles = 2, kLinearAvx2 = 3 };

// kNvE2m1: its scales have two levels. kWide: kInt8 that AVX2 multiplies as integers of 16 bits.
enum CodeKind : int32_t { kInt8 = 0, kInt4 = 1, kE2m1 = 2, kNvE2m1 = 3, kWide = 4 };
constexpr bool is_eight_bits(int kind) { return kind == kInt8 || kind == kWide; }

// Pairs of neighboring weights of an output channel, whose products with codes of at most 255 are added in 16 bits.
struct Excess {
  int32_t column;      // of the block of output channels
  int32_t pair[4];     // input channels 2 pair and 2 pair + 1
  int32_t weights[4];  // the two bytes, twice; 0 where there are fewer pairs
};

// One layer, or the first of two: then `next` takes its results, which stay in the L2, and y is that of
// both. N64, K4 and so on: rounded up. Padded weights, scales and biases are zero.
struct Linear {
  const void* x;           // [M, K], `stride` numbers from token to token
  void* y;                 // [M, N] out; null: quantize only
  const int8_t* weight;    // kInt8: [N64/64][K4/4][64][4] codes, for tiles [N64/32][K64/4][32][4], by
                           // AVX2 [N64/16][K8/4][16][4]; kWide: int16 [N64/16][K4/2][16][2]; else
                           // [N64/64][K/8][64][4] bytes, low nibbles the first four channels of eight,
                           // high ones the others; for tiles [N64/32][K32/8][2][16][2] words, nibble j
                           // of pair i the channel 2 j + i of eight
  const Excess* excess;    // kInt8 by AVX2: what was taken off `weight`; null: nothing
  const int32_t* excess_begin;  // [N64/16+1] where those of a block begin
  const int32_t* start;    // [N64/64][G][64] minus the offset of the tokens' codes times their sum; of 4
                           // bits by AVX2 the lower 16 bits of it
  const float* scale;      // [N64/64][G][64] with the unit of both codes in it; E2M1 for tiles: [N64/64][64]
  const float* lower;      // E2M1 for tiles: [N64/64][K32/K G][64], bfloat16 times codes; null: none
  const float* bias;       // [N64]
  const uint16_t* kept;    // [K16/16] bit of each channel: 0 = outlier, or beyond K
  const int32_t* outlier;  // [O]
  const void* outlier_weight;  // [N64/64][O/2][64][2] bfloat16, for tiles [N64/32][O32/2][32][2], or
                               // [N64/64][O][64] float32
  const float* norm;       // [2][K64] weight and bias of the norm of a token; null: no norm
  const Linear* next;      // a layer of as many input channels as this one has output channels
  const float* gelu;       // [4][kGeluPieces], coefficients of falling degree, by AVX2 [kGeluPieces][4];
                           // null: no activation
  uint8_t* codes;          // out, where y is null: [M, K], packed two a byte but for kInt8
  float* token_scale;      // out, where y is null: [M, G]
  uint16_t* token_outlier;  // out, where y is null: [M, O] bfloat16
  int64_t num_tokens, num_in, num_out, num_groups, num_outliers, stride;
  float gelu_end;  // where the last piece ends
  float norm_epsilon;
  int32_t norm_centers;  // whether the mean is taken away before the norm
  int32_t dtype;         // Dtype of vfa.h, of x and y
  int32_t kind;          // CodeKind
  int32_t threads;
};

int linear_avx2(Linear& call);
int linear_avx512(Linear& call);      // outliers times float32. 0: done; 1: no memory
int linear_avx512bf16(Linear& call);  // outliers times bfloat16
int linear_amx(Linear& call);         // the same, and all else by tiles

}  // namespace astroray
