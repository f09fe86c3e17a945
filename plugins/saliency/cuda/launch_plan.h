// Checks and workspace of the saliency pre-op; host code without CUDA.
#pragma once

#include "cuda/checks.h"
#include "saliency/cuda/covis_saliency.h"

namespace covis {

// CTAs per view, each for a run of its patches; their sums are added in fixed order.
inline constexpr int kSaliencyRuns = 16;

struct SimilarityPlan {
  int32_t views = 0, patches = 0, channels = 0;
  uint64_t partial = 0, descriptors = 0, bytes = 0;  // workspace
};

int make_launch_plan(const CovisSimilarityParams& params, bool pointers, const Message& message,
                     SimilarityPlan* plan);

// No workspace is needed.
int check_pair_levels(const CovisPairLevelsParams& params, bool pointers, const Message& message);

}  // namespace covis
