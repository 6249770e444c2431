// One quantized linear layer on a block of tokens, by one thread: its tokens are quantized into the L2
// and multiplied with one block of 64 output channels after another.
#pragma once
#include <cstdlib>

#include "osc_gelu.h"
#include "osc_quantize.h"
#include "osc_tiles.h"
#include "osc_unpack.h"

namespace astroray {
namespace {

inline int64_t up(int64_t number, int64_t multiple) {
  return (number + multiple - 1) / multiple * multiple;
}


// Of a code of the tokens.
template <class Way>
constexpr int64_t code_bytes(int kind) {
  return Way::stored(kind) == kBytes ? 1 : 2;
}

// What a thread works in.
struct Space {
  uint8_t* codes;  // [block, stride], a block in whole tiles
  float* scale;    // [block, num_scales]
  char* outlier;   // [block, outlier stride]
  float* c;        // [rows of a tile][kColumns]
  float* row;      // [K64] a token after its norm
  uint16_t* pairs;  // [block / kTurned][stride / 2][kTurned] the codes again, tokens side by side
  int32_t* start;   // [block][kColumns] what the sums of a token start with
  int8_t* panel;    // weights of a block, unpacked
};

// Where the results of a block go: those of its first token.
struct Results {
  char* y;
  int64_t stride;
  int32_t dtype;

  int64_t width() const { return dtype == kFloat32 ? 4 : 2; }
};

template <class Way>
struct Layer {
  const Linear& call;
  int64_t block, num_scales, steps, stride, outlier_steps, outlier_stride, rows, room, num_columns;
  int64_t bytes;
  bool is_packed, has_excess;

  Layer(const Linear& c, int64_t most_tokens) : call(c), block(most_tokens) {
    const int64_t row_bytes = c.num_in * code_bytes<Way>(c.kind);
    is_packed = !is_eight_bits(c.kind);
    has_excess = Way::kHasExcess && c.excess != nullptr;
    num_scales = Way::stored(c.kind) == kNumbers && c.kind != kInt4 ? 1 : c.num_groups;
    rows = is_packed ? Way::kPackedRows : Way::kTileRows;
    if constexpr (Way::kHasExcess)
      if (c.kind == kInt8) rows = Way::kEightsRows;
    room = up(up(block, rows), has_excess ? kTurned : 1);
    steps = up((row_bytes + 3) / 4, Way::kWholeSteps);
    stride = up(row_bytes, 64);
    outlier_steps =
        up((c.num_outliers + Way::kPerStep - 1) / Way::kPerStep, Way::kWholeSteps);
    outlier_stride = 4 * outlier_steps;
    num_columns = (c.num_out + kColumns - 1) / kColumns;
    bytes = reinterpret_cast<int64_t>(space(nullptr).panel) + (is_packed ? steps * kStepBytes : 0);
  }

  Space space(char* begin) const {
    Space s{};
    int64_t at = reinterpret_cast<int64_t>(begin);
    const auto take = [&at](int64_t size) {
      char* taken = reinterpret_cast<char*>(at);
      at += up(size, 64);
      return taken;
    };
    s.codes = reinterpret_cast<uint8_t*>(take(room * stride));
    s.scale = reinterpret_cast<float*>(take(room * num_scales * 4));
    s.outlier = take(room * outlier_stride + 4);
    s.c = reinterpret_cast<float*>(take(Way::kTileRows * kColumns * 4));
    s.row = reinterpret_cast<float*>(take(call.norm == nullptr ? 0 : stride * 4));
    s.pairs = reinterpret_cast<uint16_t*>(take(has_excess ? room * stride : 0));
    s.start = reinterpret_cast<int32_t*>(take(has_excess ? room * kColumns * 4 : 0));
    s.panel = reinterpret_cast<int8_t*>(take(0));
    return s;
  }

  // Tokens of `from`, which is the call, or what another layer left.
  void quantize_block(const Space& s, const Linear& from, int64_t first, int64_t count) const {
    switch (call.kind) {
      case kInt8: return quantize_kind<kInt8>(s, from, first, count);
      case kInt4: return quantize_kind<kInt4>(s, from, first, count);
      case kWide: return quantize_kind<Way::kHasExcess ? kWide : kInt8>(s, from, first, count);
      case kNvE2m1: return quantize_kind<kNvE2m1>(s, from, first, count);
      default: return quantize_kind<kE2m1>(s, from, first, count);
    }
  }

  template <int kKind>
  void quantize_kind(const Space& s, const Linear& from, int64_t first, int64_t count) const {
    Linear normal = call;
    normal.x = s.row;
    normal.dtype = kFloat32;
    normal.stride = 0;
    // What a tile's step has beyond the outliers must be finite, for it is multiplied with zeros.
    if (Way::kWholeSteps > 1) memset(s.outlier, 0, count * outlier_stride);
    for (int64_t row = 0; row < count; ++row) {
      const bool has_norm = call.norm != nullptr;
      if (row + 1 < count) fetch_token(from, first + row + 1);
      if (has_norm) normalize_token(from, first + row, s.row);
      quantize_token<kKind, Way>(
          has_norm ? normal : from, has_norm ? 0 : first + row, s.codes + row * stride,
          s.scale + row * num_scales, s.outlier + row * outlier_stride);
    }
    for (int64_t row = count; row < up(count, rows); ++row) {  // of no token: numbers, unused
      memset(s.codes + row * stride, 0, stride);
      memset(s.scale + row * num_scales, 0, 4 * num_scales);
      memset(s.outlier + row * outlier_stride, 0, outlier_stride);
    }
    if constexpr (Way::kHasExcess)
      for (int64_t row = 0; has_excess && row < count; row += 16)
        Way::turn(s.codes + row * stride, stride, turned(s, row) + row % kTurned);
  }

  // Asks for a token, so that it comes while the one before is quantized.
  void fetch_token(const Linear& from, int64_t token) const {
    const int64_t width = from.dtype == kFloat32 ? 4 : 2;
    const char* x = static_cast<const char*>(from.x) + token * from.stride * width;
    for (int64_t i = 0; i < from.num_in * width; i += 64) __builtin_prefetch(x + i);
  }

  // The turned codes of kTurned tokens, of which `row` is one.
  uint16_t* turned(const Space& s, int64_t row) const {
    return s.pairs + row / kTurned * kTurned * (stride / 2);
  }

  // Sums of each token start with the excess of the weights. Whether there is any.
  bool start_sums(const Space& s, int64_t count, int64_t column) const {
    if constexpr (Way::kHasExcess) {
      if (!has_excess || call.excess_begin[column] == call.excess_begin[column + 1]) return false;
      for (int64_t row = 0; row < count; row += kTurned)
        Way::add_excess(call, column, turned(s, row), s.start + row * kColumns);
      return true;
    }
    return false;
  }

  void multiply_block(const Space& s, const Results& to, int64_t count, int64_t column) const {
    Tile tile{};
    tile.stride = stride;
    tile.b = is_packed ? s.panel : call.weight + column * steps * kStepBytes;
    tile.steps = steps / num_scales;
    tile.groups = num_scales;
    tile.start = call.start + column * call.num_groups * kColumns;
    tile.scale = call.scale + column * num_scales * kColumns;
    tile.token_scale_stride = 4 * num_scales;
    tile.bias = call.bias + column * kColumns;
    tile.outlier_stride = outlier_stride;
    tile.outlier_weight =
        static_cast<const char*>(call.outlier_weight) + column * outlier_steps * kStepBytes;
    tile.outlier_steps = outlier_steps;
    if (is_packed) Way::unpack(call, column, steps, s.panel);
    const bool has_starts = start_sums(s, count, column);
    tile.start_stride = has_starts ? 4 * kColumns : 0;
    const bool is_direct = to.dtype == kFloat32 && call.gelu == nullptr &&
                           (column + 1) * kColumns <= call.num_out;
    for (int64_t row = 0; row < count; row += rows) {
      tile.a = s.codes + row * stride;
      if (has_starts) tile.start = s.start + row * kColumns;
      tile.token_scale = s.scale + row * num_scales;
      tile.outlier = s.outlier + row * outlier_stride;
      const bool straight = is_direct && row + rows <= count;
      char* y = to.y + (row * to.stride + column * kColumns) * to.width();
      tile.c = straight ? reinterpret_cast<float*>(y) : s.c;
      tile.c_stride = straight ? 4 * to.stride : 4 * kColumns;
      tile.rows = count - row < rows ? count - row : rows;
      fetch(to, y, tile.rows);
      Way::multiply(tile, call.kind);
      if (!straight) finish(s, to, row, tile.rows, column);
    }
  }

  // Asks for the lines that the tile will write, so that they come while it is computed.
  void fetch(const Results& to, const char* y, int64_t count) const {
    for (int64_t row = 0; row < count; ++row, y += to.stride * to.width())
      for (int64_t i = 0; i < kColumns * to.width(); i += 64) __builtin_prefetch(y + i, 1, 3);
  }

  // Activation and type of the results of one tile.
  void finish(const Space& s, const Results& to, int64_t first, int64_t count,
              int64_t column) const {
    const int64_t left = call.num_out - column * kColumns;
    const int64_t width = left < kColumns ? left : kColumns;
    if (call.gelu != nullptr) {
      const Gelu gelu(call);
      for (int64_t i = 0; i < count * kColumns; i += 16) gelu(Floats::load(s.c + i)).store(s.c + i);
    }
    for (int64_t row = 0; row < count; ++row) {
      const int64_t at = (first + row) * to.stride + column * kColumns;
      for (int64_t i = 0; i < width; i += 16)
        store_results(to, at + i, Floats::load(s.c + row * kColumns + i), width - i);
    }
  }

  static void store_results(const Results& to, int64_t at, Floats y, int64_t count) {
    if (count >= 16) return store16(to.y, to.dtype, at, y);
    alignas(64) char all[64];
    store16(all, to.dtype, 0, y);
    memcpy(to.y + at * to.width(), all, count * to.width());
  }

  // Codes as a caller wants them: one a byte, or the nibbles of two.
  void give(const Space& s, int64_t first, int64_t count) const {
    const bool is_wide = Way::stored(call.kind) == kShorts;
    const int64_t num_in = call.num_in, offset = offset_of(call.kind, Way::stored(call.kind));
    for (int64_t row = 0; row < count; ++row) {
      const uint8_t* from = s.codes + row * stride;
      uint8_t* to = call.codes + (first + row) * (is_packed ? num_in / 2 : num_in);
      for (int64_t k = 0; k < num_in; ++k) {
        const int code = from[is_wide ? 2 * k : k] - offset;  // the lower byte
        if (!is_packed)
          to[k] = static_cast<uint8_t>(code);
        else if (k % 2)
          to[k / 2] |= nibble(code) << 4;
        else
          to[k / 2] = nibble(code);
      }
    }
    memcpy(call.token_scale + first * call.num_groups, s.scale, 4 * count * call.num_groups);
    for (int64_t row = 0; row < count; ++row)
      for (int64_t i = 0; i < call.num_outliers; ++i) {
        constexpr int64_t width = 4 / Way::kPerStep;  // of a float32 the upper half
        memcpy(call.token_outlier + (first + row) * call.num_outliers + i,
               s.outlier + row * outlier_stride + (i + 1) * width - 2, 2);
      }
  }

  uint8_t nibble(int code) const {
    if (call.kind == kInt4) return code & 15;
    constexpr uint8_t codes[13] = {0, 1, 2, 3, 4, 0, 5, 0, 6, 0, 0, 0, 7};
    return code < 0 ? codes[-code] | 8 : codes[code];
  }
};

}  // namespace
}  // namespace astroray
