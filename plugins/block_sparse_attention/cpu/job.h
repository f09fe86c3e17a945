// What all threads of one call share: the parameters, the tiles of queries and the order of work.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "block_sparse_attention/cpu/attention.h"
#include "block_sparse_attention/cpu/query_tiles.h"
#include "block_sparse_attention/cpu/tile.h"

namespace covis::attention {

struct Job {
  Job(const AttentionParams& params, const Kernels& kernels)
      : p(params),
        isa(kernels),
        dense(params.layout.patches(params.tokens) == 0 || all_nonzero(params)),
        max_queries(queries_that_fit(params.head_size)),
        q_block(params.level_rows == 1 ? params.tokens : params.layout.q_block),
        k_block(params.level_columns == 1 ? params.tokens : params.layout.k_block),
        layout(merged(params.layout, params.tokens)),
        tiles(layout, params.tokens, q_block, dense, max_queries, kernels.panel),
        items(params.batch * params.heads * tiles.count()) {
    constexpr float kLog2E = 1.44269504088896340736f;
    const float scale =
        p.scale != 0.0f ? p.scale : 1.0f / std::sqrt(static_cast<float>(p.head_size));
    query_scale = scale * kLog2E;
  }

  // Large heads get smaller tiles, so that a thread's memory stays small. A multiple of every
  // panel.
  static int queries_that_fit(int64_t head_size) {
    int queries = kTileQueries;
    while (queries > 32 && queries * head_size > (1 << 16)) queries /= 2;
    return queries;
  }

  // Whether every patch attends to every patch: then the map is of no use.
  static bool all_nonzero(const AttentionParams& p) {
    const int64_t count = p.level_batch * p.level_heads * p.level_rows * p.level_columns;
    return std::memchr(p.level, 0, static_cast<size_t>(count)) == nullptr;
  }

  // Without special tokens, frames do not matter: all of them are one.
  static TokenLayout merged(TokenLayout layout, int64_t tokens) {
    if (layout.special_first == 0 && layout.special_last == 0 && layout.frames(tokens) > 0) {
      layout.frame_tokens = tokens - layout.trailing_tokens;
    }
    return layout;
  }

  const int8_t* level_row(int64_t batch, int64_t head, int64_t region) const {
    const int64_t b = p.level_batch == 1 ? 0 : batch, h = p.level_heads == 1 ? 0 : head;
    return p.level + ((b * p.level_heads + h) * p.level_rows + region) * p.level_columns;
  }

  int64_t q_region(int64_t patch) const { return p.level_rows == 1 ? 0 : patch / q_block; }

  const AttentionParams& p;
  const Kernels& isa;
  bool dense;
  int max_queries;
  int64_t q_block, k_block;  // a dimension of 1 is one region of all tokens
  TokenLayout layout;
  QueryTiles tiles;
  int64_t items;  // (batch, head, tile), the last fastest
  float query_scale;
  std::vector<uint64_t> order;  // empty: in numeric order
  std::atomic<int64_t> next{0};
  std::atomic<bool> out_of_memory{false};
};

}  // namespace covis::attention
