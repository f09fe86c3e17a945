// The kernels of BlockSelect.
#pragma once

#include <cuda_runtime_api.h>

#include "block_select/cuda/launch_plan.h"

namespace covis {

// Pools patch tokens of (B, H, S, D) into float32 vectors, (B, H, blocks, D) or, `transposed`,
// (B, H, D, blocks).
cudaError_t launch_pool(const SelectGeometry& g, const void* source, int data_type, int pool,
                        const int64_t (&stride)[3], int block, int blocks, bool transposed,
                        float* target, cudaStream_t stream);

// Scores, softmax and choice, `rows_per_cta` rows per CTA.
cudaError_t launch_choose(const SelectLaunchPlan& plan, const float* pooled_q,
                          const float* pooled_k, const int8_t* pair, const float* keep_ratio,
                          const float* cdf, int8_t* level, cudaStream_t stream);

}  // namespace covis
