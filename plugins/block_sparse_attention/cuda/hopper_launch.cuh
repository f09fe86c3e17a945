// Launches one instance of the Hopper kernel.
#pragma once

#include <type_traits>

#include "block_sparse_attention/cuda/covis_attention.h"
#include "block_sparse_attention/cuda/hopper_kernel.cuh"

// A row of instances.def, compiled. A function of its own name and not an explicit instantiation:
// where a file has no such function, nvcc puts the number of its process into the names of internal
// symbols, and no two builds are equal.
#define COVIS_HOPPER(name, ...)                                                             \
  namespace covis {                                                                         \
  cudaError_t launch_hopper_##name(const HopperArgs& args, int ctas, cudaStream_t stream) { \
    return launch_hopper<__VA_ARGS__>(args, ctas, stream);                                  \
  }                                                                                         \
  }

namespace covis {

template <CovisDataType kType, int kHeadDim, bool kPolynomial, bool kFp8>
cudaError_t launch_hopper(const HopperArgs& args, int ctas, cudaStream_t stream) {
  using Element = std::conditional_t<kType == kCovisFloat16, cutlass::half_t, cutlass::bfloat16_t>;
  using Traits = HopperTraits<Element, kHeadDim, kPolynomial, kFp8>;
  const auto kernel = &hopper_attention<Element, kHeadDim, kPolynomial, kFp8>;
  constexpr int kBytes = static_cast<int>(sizeof(typename Traits::Shared));
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  kernel<<<ctas, Traits::kThreads, kBytes, stream>>>(args);
  return cudaPeekAtLastError();
}

}  // namespace covis
