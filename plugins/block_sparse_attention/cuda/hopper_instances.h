// The instances of the Hopper kernel, one a file in instances/.
#pragma once

#include <cuda_runtime_api.h>

#include "hopper_args.h"

namespace covis {

cudaError_t launch_hopper_f16_d64(const HopperArgs& args, int ctas, cudaStream_t stream);
cudaError_t launch_hopper_f16_d64_polynomial(const HopperArgs& args, int ctas, cudaStream_t stream);
cudaError_t launch_hopper_f16_d128(const HopperArgs& args, int ctas, cudaStream_t stream);
cudaError_t launch_hopper_bf16_d64(const HopperArgs& args, int ctas, cudaStream_t stream);
cudaError_t launch_hopper_bf16_d64_polynomial(const HopperArgs& args, int ctas,
                                              cudaStream_t stream);
cudaError_t launch_hopper_bf16_d128(const HopperArgs& args, int ctas, cudaStream_t stream);

}  // namespace covis
