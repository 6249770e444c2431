// A whole call: workspaces, threads, and which of them takes which head or group of rows.
#pragma once
#include <omp.h>

#include "attend.h"
#ifdef __AMX_TILE__
#include "attend_tiles.h"
#endif

namespace astroray {
namespace {

// Bytes of a head's workspace, and its pointers into one.
template <class Score, class Value>
struct Workspace {
  int64_t blocks, groups, init, bias, values, scale, bytes;
  explicit Workspace(const Shape& s) {
    const int64_t all = s.num_blocks + s.num_reprs;
    blocks = 0;
    groups = blocks + pad(all * static_cast<int64_t>(sizeof(KeyBlock)));
    init = groups + pad(all * kBlock * s.dim * 4 / Score::kPerGroup);
    bias = init + pad(all * kBlock * 4);
    values = bias + pad(all * kBlock * 4);
    scale = values + pad(s.num_blocks * kBlock * s.dim * 4 / Value::kPerGroup);
    bytes = scale + pad(2 * kMaxDim * 4);
  }
  static int64_t pad(int64_t bytes) { return (bytes + 127) / 64 * 64; }

  Head pack(const Attention& call, const Shape& shape, int64_t head_at, char* at) const {
    Head head{};
    head.blocks = reinterpret_cast<KeyBlock*>(at + blocks);
    head.reprs = head.blocks + shape.num_blocks;
    head.values = at + values;
    head.value_scale = reinterpret_cast<float*>(at + scale);
    head.mean = head.value_scale + kMaxDim;
    const int64_t batch = head_at / call.heads, index = head_at % call.heads;
    with_row(shape.dim, [&](auto row) {
      const auto rows_of = [&](const void* x, const int64_t* strides) {
        return HeadRows<decltype(row)>(call, x, strides, batch, index);
      };
      pack_keys<Score>(rows_of(call.k, call.k_strides), shape, at + groups,
                       reinterpret_cast<int32_t*>(at + init), reinterpret_cast<float*>(at + bias),
                       &head);
      const bool is_exact = Score::kPerGroup < 4 && (!Score::kIsRounded || head.has_mean);
      head.coarse = !is_exact && is_coarse<Score>(rows_of(call.q, call.q_strides), head);
      if (!head.coarse) pack_values<Value>(rows_of(call.v, call.v_strides), shape, &head);
    });
    return head;
  }
};

// The whole call. Heads are packed by the thread that attends them, or all first where they are
// few.
template <class Score, class Value>
int attend(Attention& call) {
  const Shape shape(call);
  const Workspace<Score, Value> space(shape);
  const int64_t num_heads = call.batch * call.heads;
  const int64_t num_groups = (call.length + kGroup - 1) / kGroup;
  const bool few = num_heads < 4 * call.threads && call.threads > 1;
  const int64_t num_spaces = few ? num_heads : call.threads;
  char* memory = static_cast<char*>(aligned_alloc(64, num_spaces * space.bytes));
  Head* heads = static_cast<Head*>(malloc(sizeof(Head) * num_heads));
  Scratch* scratches = static_cast<Scratch*>(aligned_alloc(64, sizeof(Scratch) * call.threads));
  int64_t tiles = 0, redone = 0, blocks = 0, skipped = 0;
  const bool ready = memory != nullptr && heads != nullptr && scratches != nullptr;
  if (ready) {
    const int64_t input_bytes = 3 * call.length * call.dim * (call.dtype == kFloat32 ? 4 : 2);
    const auto attend_group = [&](int64_t head_at, const Head& head, int64_t group, Scratch& s,
                                  int64_t* facts) {
      const bool wanted = !few && head_at + 1 < num_heads && input_bytes <= kFetchBytes;
      const int64_t first = group * kGroup;
      const int64_t rows = call.length - first < kGroup ? call.length - first : kGroup;
      const int64_t num_tiles = (rows + kRows - 1) / kRows;
      const Ahead ahead =
          wanted ? Ahead(call, head_at + 1, first, rows, num_tiles * shape.num_blocks) : Ahead();
      Rows<Score, Value>{call,  shape, head,  s,    shape.dim * 4 / Score::kPerGroup,
                         first, rows,  facts, ahead}
          .run(head_at);
    };
#pragma omp parallel num_threads(call.threads) reduction(+ : tiles, redone, blocks, skipped)
    {
      const int thread = omp_get_thread_num();
      int64_t facts[4] = {0, 0, 0, 0};
      begin_tiles(shape.dim / Score::kPerGroup % 16 != 0);
      if (few) {
#pragma omp for schedule(static)
        for (int64_t h = 0; h < num_heads; ++h)
          if (call.todo[h]) heads[h] = space.pack(call, shape, h, memory + h * space.bytes);
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < num_heads * num_groups; ++i)
          if (call.todo[i / num_groups] && !heads[i / num_groups].coarse)
            attend_group(i / num_groups, heads[i / num_groups], i % num_groups, scratches[thread],
                         facts);
#pragma omp for schedule(static)
        for (int64_t h = 0; h < num_heads; ++h)
          if (call.todo[h]) call.todo[h] = heads[h].coarse;
      } else {
        // Many of them in a row, since a thread fetches the next one while it attends one, then fewer,
        // so that no thread waits long for the last one.
#pragma omp for schedule(guided)
        for (int64_t h = 0; h < num_heads; ++h) {
          if (!call.todo[h]) continue;
          const Head head = space.pack(call, shape, h, memory + thread * space.bytes);
          call.todo[h] = head.coarse;
          if (head.coarse) continue;
          for (int64_t g = 0; g < num_groups; ++g)
            attend_group(h, head, g, scratches[thread], facts);
        }
      }
      end_tiles();
      tiles += facts[0];
      redone += facts[1];
      blocks += facts[2];
      skipped += facts[3];
    }
  }
  free(memory);
  free(heads);
  free(scratches);
  const int64_t facts[4] = {tiles, redone, blocks, skipped};
  memcpy(call.facts, facts, sizeof(facts));
  return ready ? 0 : 1;
}

}  // namespace
}  // namespace astroray
