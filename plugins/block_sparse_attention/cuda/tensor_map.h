// Tensor maps for the copy engine, made on the host.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace covis {

// A (D, rows, frames, heads, batch) view of a two-byte tensor; strides in elements.
struct BoxedTensor {
  const void* data;
  int head_dim;
  int64_t rows, frames, heads, batch;
  int64_t row_stride, frame_stride, head_stride, batch_stride;
};

// Encodes a map with boxes of 64 columns x kPiece rows, 128-byte swizzle. Returns 0, or the
// driver's error (CUDA_ERROR_NOT_FOUND where the driver has no tensor maps).
int encode_tensor_map(const BoxedTensor& tensor, bool bfloat16, CUtensorMap* map);

}  // namespace covis
