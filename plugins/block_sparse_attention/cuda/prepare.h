// Small kernels that run before the attention: the order of the rows, the gathered specials.
#pragma once

#include <cuda_runtime_api.h>

#include "block_sparse_attention/cuda/geometry.h"

namespace covis {

// Rows of all heads, longest key list first (in classes of a quarter octave, each in ascending
// order, because neighbours share their keys in L2). `lengths` is scratch memory: one number per
// row and map head.
cudaError_t launch_order(const Geometry& g, const int8_t* level, int level_batch, int level_heads,
                         uint32_t* lengths, uint32_t* order, cudaStream_t stream);

// Copies the special tokens of one tensor (strides in elements of two bytes) to (B, H, specials,
// D).
cudaError_t launch_gather(const Geometry& g, const void* source, const int64_t (&stride)[3],
                          int head_dim, void* target, cudaStream_t stream);

}  // namespace covis
