// libcovis_kernels.so through its C ABI, loaded when it is first needed.
#pragma once

#include <string>

#include "block_select/cuda/covis_select.h"
#include "block_sparse_attention/cuda/covis_attention.h"
#include "farthest_first/cuda/covis_farthest.h"

namespace covis::trt {

struct Kernels {
  std::string error;  // the reason why they could not be loaded; the functions are then null
  decltype(&covis_attention_workspace) attention_workspace = nullptr;
  decltype(&covis_attention_launch) attention_launch = nullptr;
  decltype(&covis_select_workspace) select_workspace = nullptr;
  decltype(&covis_select_launch) select_launch = nullptr;
  decltype(&covis_farthest_workspace) farthest_workspace = nullptr;
  decltype(&covis_farthest_launch) farthest_launch = nullptr;
};

// Found beside the plugin, in the build tree's ../cuda, or on the loader's search path.
const Kernels& kernels();

}  // namespace covis::trt
