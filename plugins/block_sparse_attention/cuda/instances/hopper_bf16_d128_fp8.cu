#include "block_sparse_attention/cuda/hopper_launch.cuh"

namespace covis {

cudaError_t launch_hopper_bf16_d128_fp8(const HopperArgs& args, int ctas, cudaStream_t stream) {
  return launch_hopper<cutlass::bfloat16_t, 128, false, true>(args, ctas, stream);
}

}  // namespace covis
