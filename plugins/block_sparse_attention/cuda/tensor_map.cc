#include "block_sparse_attention/cuda/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <algorithm>

#include "block_sparse_attention/cuda/geometry.h"

namespace covis {
namespace {

// Found through the CUDA runtime, so that the library does not link libcuda and loads without a
// driver.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const PFN_cuTensorMapEncodeTiled_v12000 function = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                                12000, cudaEnableDefault, &found);
    const bool usable = status == cudaSuccess && found == cudaDriverEntryPointSuccess;
    return usable ? reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(entry) : nullptr;
  }();
  return function;
}

}  // namespace

int encode_tensor_map(const BoxedTensor& t, const BoxKind& box, CUtensorMap* map) {
  const auto encode = encoder();
  if (encode == nullptr) return CUDA_ERROR_NOT_FOUND;
  const cuuint64_t sizes[5] = {static_cast<cuuint64_t>(t.columns), static_cast<cuuint64_t>(t.rows),
                               static_cast<cuuint64_t>(t.frames), static_cast<cuuint64_t>(t.heads),
                               static_cast<cuuint64_t>(t.batch)};
  const int64_t strides[4] = {t.row_stride, t.frame_stride, t.head_stride, t.batch_stride};
  cuuint64_t bytes[4];
  for (int i = 0; i < 4; ++i) {
    // The stride of a dimension of size 1 is never used, but must be valid.
    const int64_t stride = sizes[i + 1] == 1 ? t.columns : strides[i];
    bytes[i] = static_cast<cuuint64_t>(stride) * box.bytes;
  }
  const cuuint32_t sides[5] = {static_cast<cuuint32_t>(box.columns),
                               static_cast<cuuint32_t>(box.rows), 1, 1, 1};
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  const bool wide = box.columns * box.bytes == 128;
  return encode(map, box.type, 5, const_cast<void*>(t.data), sizes, bytes, sides, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE,
                wide ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

}  // namespace covis
