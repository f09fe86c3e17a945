#include "block_sparse_attention/cuda/portable_kernel.cuh"

namespace covis {

cudaError_t launch_portable_bf16_d64(const PortableArgs& args, cudaStream_t stream) {
  return launch_portable<__nv_bfloat16, 64>(args, stream);
}

}  // namespace covis
