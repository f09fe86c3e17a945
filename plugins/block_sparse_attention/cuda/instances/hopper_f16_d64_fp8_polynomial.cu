#include "block_sparse_attention/cuda/hopper_launch.cuh"

namespace covis {

cudaError_t launch_hopper_f16_d64_fp8_polynomial(const HopperArgs& args, int ctas,
                                                 cudaStream_t stream) {
  return launch_hopper<cutlass::half_t, 64, true, true>(args, ctas, stream);
}

}  // namespace covis
