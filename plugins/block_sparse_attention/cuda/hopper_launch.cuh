// Launches one instance of the Hopper kernel; each instance is a file of its own (instances/), so
// that no compile needs more than 2 GiB.
#pragma once

#include "block_sparse_attention/cuda/hopper_instances.h"
#include "block_sparse_attention/cuda/hopper_kernel.cuh"

namespace covis {

template <class Element, int kHeadDim, bool kPolynomial, bool kFp8>
cudaError_t launch_hopper(const HopperArgs& args, int ctas, cudaStream_t stream) {
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
