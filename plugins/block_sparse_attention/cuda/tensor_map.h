// Tensor maps for the copy engine, encoded on the host.
#pragma once

#include <cuda.h>

#include <cstdint>

namespace covis {

// A (columns, rows, frames, heads, batch) view of a tensor; strides in elements.
struct BoxedTensor {
  const void* data;
  int64_t columns;
  int64_t rows, frames, heads, batch;
  int64_t row_stride, frame_stride, head_stride, batch_stride;
};

// The element type of a tensor and the box of one copy. The swizzle is the size of a box's row: 64
// or 128 bytes.
struct BoxKind {
  CUtensorMapDataType type;
  int bytes;  // of an element
  int columns, rows;
};

// Encodes a map. Returns 0, or the driver's error (CUDA_ERROR_NOT_FOUND where the driver has no
// tensor maps).
int encode_tensor_map(const BoxedTensor& tensor, const BoxKind& box, CUtensorMap* map);

}  // namespace covis
