// Launches one instance of the portable kernel.
#pragma once

#include <type_traits>

#include "block_sparse_attention/cuda/covis_attention.h"
#include "block_sparse_attention/cuda/portable_kernel.cuh"

// A row of instances.def, compiled; see hopper_launch.cuh.
#define COVIS_PORTABLE(name, ...)                                                     \
  namespace covis {                                                                   \
  cudaError_t launch_portable_##name(const PortableArgs& args, cudaStream_t stream) { \
    return launch_portable<__VA_ARGS__>(args, stream);                                \
  }                                                                                   \
  }

namespace covis {

template <CovisDataType kType, int kHeadDim>
cudaError_t launch_portable(const PortableArgs& args, cudaStream_t stream) {
  using Element = std::conditional_t<kType == kCovisFloat16, __half, __nv_bfloat16>;
  const auto kernel = &portable_attention<Element, kHeadDim>;
  constexpr int kBytes = static_cast<int>(sizeof(typename Portable<Element, kHeadDim>::Shared));
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  kernel<<<args.kernel.tiles, 128, kBytes, stream>>>(args);
  return cudaPeekAtLastError();
}

}  // namespace covis
