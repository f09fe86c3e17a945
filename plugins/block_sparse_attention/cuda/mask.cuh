// Masking of score tiles, shared by all kernels. Layout of a thread's scores: softmax.cuh.
#pragma once

#include "block_sparse_attention/cuda/geometry.h"

namespace covis {

// Row of the 64-row tile that a thread's score i belongs to (128 threads).
__device__ __forceinline__ int score_row(int thread, int i) {
  return 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2);
}

// Column of score i inside the tile.
__device__ __forceinline__ int score_column(int thread, int i) {
  return 8 * (i / 4) + i % 2 + 2 * (thread % 4);
}

// Bit i: the element rule skips score i of a 64-key chunk that starts at `patch`. Not unrolled,
// because it is rare and 32 divisions at once would cost the whole kernel registers.
__device__ __forceinline__ uint32_t skipped_by_rule(const Geometry& g, const int8_t* level,
                                                    const Piece& queries, int patch, int count,
                                                    int thread) {
  uint32_t skipped = 0;
#pragma unroll 1
  for (int i = 0; i < 32; ++i) {
    const int key = score_column(thread, i);
    const int row = score_row(thread, i);
    const bool inside = key < count && row < queries.count;
    if (inside && !pair_computed(g, level, queries.patch + row, patch + key)) skipped |= 1u << i;
  }
  return skipped;
}

}  // namespace covis
