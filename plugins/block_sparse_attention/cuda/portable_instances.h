// The portable kernel's arguments and its instances, one a file in instances/.
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

cudaError_t launch_portable_f16_d64(const PortableArgs& args, cudaStream_t stream);
cudaError_t launch_portable_f16_d128(const PortableArgs& args, cudaStream_t stream);
cudaError_t launch_portable_bf16_d64(const PortableArgs& args, cudaStream_t stream);
cudaError_t launch_portable_bf16_d128(const PortableArgs& args, cudaStream_t stream);

}  // namespace covis
