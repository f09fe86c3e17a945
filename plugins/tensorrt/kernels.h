// libcovis_kernels.so through its C ABI, loaded when it is first needed.
#pragma once

#include <string>

#include "block_select/cuda/covis_select.h"
#include "block_sparse_attention/cuda/covis_attention.h"

namespace covis::trt {

struct Kernels {
  std::string error;  // why there are none; the functions are then null
  decltype(&covis_attention_workspace) attention_workspace = nullptr;
  decltype(&covis_attention_launch) attention_launch = nullptr;
  decltype(&covis_select_workspace) select_workspace = nullptr;
  decltype(&covis_select_launch) select_launch = nullptr;
};

// Found beside the plugin, in the build tree's place (../cuda), or where the loader looks.
const Kernels& kernels();

}  // namespace covis::trt
