// Arguments and launch of the Hopper kernel.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "block_sparse_attention/cuda/kernel_args.h"

namespace covis {

struct HopperMaps {
  CUtensorMap q, k, v, o;                       // (D, patches, frames, heads, batch)
  CUtensorMap special_q, special_k, special_v;  // (D, specials, 1, heads, batch)
  CUtensorMap low_q, low_k;                     // FP8: (D, patches of all frames, 1, heads, batch)
  CUtensorMap low_v;                            // FP8: (whole cells of patches, D, 1, heads, batch)
};

// Scales that convert FP8 products to the tensors' units; null without FP8.
struct LowScales {
  const float* q;           // (B, H, cells)
  const float* k;           // (B, H, cells)
  const float* v;           // (B, H, D)
  const float* q_dot_mean;  // (B, H, patches): Q times the mean that was subtracted from K
};

struct HopperArgs {
  HopperMaps maps;
  LowScales low;
  KernelArgs kernel;
};

using HopperLaunch = cudaError_t(const HopperArgs& args, int ctas, cudaStream_t stream);

}  // namespace covis
