// Arguments and launch of the portable kernel.
#pragma once

#include <cuda_runtime_api.h>

#include "block_sparse_attention/cuda/kernel_args.h"

namespace covis {

struct PortableArgs {
  KernelArgs kernel;
  const void* q;
  const void* k;
  const void* v;
  int64_t q_stride[3], k_stride[3], v_stride[3];  // batch, head, token
};

using PortableLaunch = cudaError_t(const PortableArgs& args, cudaStream_t stream);

}  // namespace covis
