// Checks of FarthestFirst; host code without CUDA.
#pragma once

#include "cuda/checks.h"
#include "farthest_first/cuda/covis_farthest.h"

namespace covis {

// The scores of all views are in shared memory: 64 KiB, which every GPU from 8.0 has.
inline constexpr int64_t kFarthestMaxViews = 16384;

// No workspace is needed.
int check_farthest(const CovisFarthestParams& params, bool pointers, const Message& message);

}  // namespace covis
