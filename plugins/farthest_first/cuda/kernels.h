// The kernel of FarthestFirst.
#pragma once

#include <cuda_runtime_api.h>

#include "farthest_first/cuda/launch_plan.h"

namespace covis {

// The whole traversal by one CTA: `count` is read on the device.
cudaError_t launch_farthest(const CovisFarthestParams& params, cudaStream_t stream);

}  // namespace covis
