// The kernels of the saliency pre-op.
#pragma once

#include <cuda_runtime_api.h>

#include "saliency_plan.h"

namespace covis {

cudaError_t launch_saliency(const CovisSaliencyParams& params, const SaliencyPlan& plan,
                            cudaStream_t stream);

}  // namespace covis
