// The kernels of the saliency pre-op.
#pragma once

#include <cuda_runtime_api.h>

#include "saliency/cuda/launch_plan.h"

namespace covis {

cudaError_t launch_saliency(const CovisSaliencyParams& params, const SaliencyLaunchPlan& plan,
                            cudaStream_t stream);

}  // namespace covis
