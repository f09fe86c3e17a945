// The kernels that round Q, K and V to FP8 before an attention with precision 1.
#pragma once

#include <cuda_runtime_api.h>

#include "block_sparse_attention/cuda/geometry.h"

namespace covis {

// Inputs in the caller's tensors; outputs in the workspace (shapes: Workspace in launch_plan.h).
struct QuantizeArgs {
  Geometry geometry;
  const void *q, *k, *v;
  int64_t q_stride[3], k_stride[3], v_stride[3];  // batch, head, token, in elements
  uint8_t *q8, *k8, *v8;
  float *q_scale, *k_scale, *v_scale;
  float *k_mean, *q_dot_mean;
  float* partial;  // (B, H, runs, 2, D): sums of K, peaks of V
};

cudaError_t launch_quantize(const QuantizeArgs& args, int head_dim, bool bfloat16,
                            cudaStream_t stream);

}  // namespace covis
