// Checks and workspace of the saliency pre-op; host code without CUDA.
#pragma once

#include "covis_saliency.h"
#include "plan.h"

namespace covis {

inline constexpr int kSaliencyRuns = 16;  // CTAs a view: runs of its patches, summed in fixed order

struct SaliencyPlan {
  int32_t views = 0, patches = 0, channels = 0;
  uint64_t partial = 0, descriptors = 0, bytes = 0;  // workspace
};

int make_saliency_plan(const CovisSaliencyParams& params, bool pointers, const Message& message,
                       SaliencyPlan* plan);

}  // namespace covis
