#include "block_sparse_attention/cuda/hopper_launch.cuh"

namespace covis {

cudaError_t launch_hopper_f16_d128(const HopperArgs& args, int ctas, cudaStream_t stream) {
  return launch_hopper<cutlass::half_t, 128, false, false>(args, ctas, stream);
}

}  // namespace covis
