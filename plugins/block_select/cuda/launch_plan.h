// Checks and sizes of BlockSelect; host code without CUDA.
#pragma once

#include "block_select/cuda/covis_select.h"
#include "cuda/checks.h"

namespace covis {

// Sizes that the kernels need: plain data of 32 bits, passed by value (see Geometry).
struct SelectGeometry {
  int32_t batch, heads, head_dim;
  int32_t frame_tokens, special_first, patches, total_patches;
  int32_t q_block, k_block, rows, cols;
  int32_t pair_frames;
};

struct SelectLaunchPlan {
  SelectGeometry geometry;
  int32_t rows_per_cta = 1;
  uint64_t pooled_q = 0, pooled_k = 0, bytes = 0;  // workspace
};

// Shared memory holds the scores of as many rows as fit; nothing of size rows x columns is stored
// elsewhere.
inline constexpr int kSelectMaxRows = 4;
inline constexpr int kSelectBins = 256;
constexpr uint64_t select_shared_bytes(int64_t rows, int64_t cols, int64_t head_dim) {
  return uint64_t(rows * cols + rows * head_dim) * 4 + kSelectBins * 12 + 512;
}

int make_launch_plan(const CovisSelectParams& params, bool pointers, const Message& message,
                     SelectLaunchPlan* plan);

}  // namespace covis
