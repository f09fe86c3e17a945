// From the caller's params to the launch: checks, geometry, workspace, choice of kernel. Host code
// without CUDA, so that tests run every rule in it on machines without a GPU.
#pragma once

#include <cstdint>

#include "block_sparse_attention/cuda/covis_attention.h"
#include "block_sparse_attention/cuda/geometry.h"
#include "cuda/checks.h"

namespace covis {

// Offsets in the workspace, in bytes; every part is 256-byte aligned.
struct Workspace {
  uint64_t counter = 0;                                  // int32: next tile
  uint64_t order = 0;                                    // uint32 per row: rows, longest first
  uint64_t lengths = 0;                                  // uint32 per row of the level map's heads
  uint64_t special_q = 0, special_k = 0, special_v = 0;  // (B, H, specials, D)
  // With FP8 only; rows are patches by running number, 64 to a cell.
  uint64_t q8 = 0, k8 = 0;            // e4m3 (B, H, patches, D)
  uint64_t v8 = 0;                    // e4m3 (B, H, D, 64 * cells)
  uint64_t q_scale = 0, k_scale = 0;  // float (B, H, cells)
  uint64_t v_scale = 0, k_mean = 0;   // float (B, H, D)
  uint64_t q_dot_mean = 0;            // float (B, H, patches)
  uint64_t measured = 0;              // float (B, H, runs, 2, D): sums of K, peaks of V
  uint64_t bytes = 0;
};

struct LaunchPlan {
  Geometry geometry;
  Workspace workspace;
  float scale = 0.0f;
  bool hopper = false;
  bool polynomial = false;
  bool fp8 = false;          // level 1 is computed in FP8
  bool ordered = false;      // rows differ in length: sort them
  int32_t length_heads = 0;  // level_batch * level_heads: distinct sets of row lengths
  int64_t tiles = 0;
};

// The properties of the GPU that the choice depends on; tests invent them.
struct Device {
  int capability = 0;  // 10 * major + minor
  int multiprocessors = 0;
};

// Checks every field and fills the plan. Pointers are checked only if `pointers` is true.
int make_launch_plan(const CovisAttentionParams& params, const Device& device, bool pointers,
                     const Message& message, LaunchPlan* plan);

// The geometry for a tile width; also used by the tests.
Geometry make_geometry(const CovisAttentionParams& params, int width);

}  // namespace covis
