// The instances of the Hopper kernel, one a file in instances/.
#pragma once

#include <cuda_runtime_api.h>

#include "block_sparse_attention/cuda/hopper_args.h"

namespace covis {

using HopperLaunch = cudaError_t(const HopperArgs& args, int ctas, cudaStream_t stream);

HopperLaunch launch_hopper_f16_d64;
HopperLaunch launch_hopper_f16_d64_polynomial;
HopperLaunch launch_hopper_f16_d128;
HopperLaunch launch_hopper_bf16_d64;
HopperLaunch launch_hopper_bf16_d64_polynomial;
HopperLaunch launch_hopper_bf16_d128;
HopperLaunch launch_hopper_f16_d64_fp8;
HopperLaunch launch_hopper_f16_d64_fp8_polynomial;
HopperLaunch launch_hopper_f16_d128_fp8;
HopperLaunch launch_hopper_bf16_d64_fp8;
HopperLaunch launch_hopper_bf16_d64_fp8_polynomial;
HopperLaunch launch_hopper_bf16_d128_fp8;

}  // namespace covis
