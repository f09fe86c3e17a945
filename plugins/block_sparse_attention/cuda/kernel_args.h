// The arguments of every attention kernel: plain data, passed by value.
#pragma once

#include <cstdint>

#include "block_sparse_attention/cuda/geometry.h"

namespace covis {

struct KernelArgs {
  Geometry geometry;
  const int8_t* level;
  void* o;
  int64_t o_stride[3];    // batch, head, token, in elements
  const uint32_t* order;  // rows, longest first; null = in numeric order
  int32_t* counter;       // next tile, starts at 0
  int32_t tiles;
  float scale_log2;  // scale * log2(e): the softmax runs on powers of two
};

// Token of row `row` of a query piece.
COVIS_HD int32_t query_token(const Geometry& g, bool special, const Piece& piece, int32_t row) {
  if (special) return special_token(g, piece.patch + row);
  return piece.frame * g.frame_tokens + g.special_first + piece.row + row;
}

}  // namespace covis
