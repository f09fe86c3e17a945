// The kernels of the saliency pre-op.
#pragma once

#include <cuda_runtime_api.h>

#include "saliency/cuda/launch_plan.h"

namespace covis {

cudaError_t launch_similarity(const CovisSimilarityParams& params, const SimilarityPlan& plan,
                              cudaStream_t stream);
cudaError_t launch_pair_levels(const CovisPairLevelsParams& params, cudaStream_t stream);

}  // namespace covis
