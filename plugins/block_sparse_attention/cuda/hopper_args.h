// What the Hopper kernel is launched with.
#pragma once

#include <cuda.h>

#include "kernel_args.h"

namespace covis {

struct HopperMaps {
  CUtensorMap q, k, v, o;                       // (D, patches, frames, heads, batch)
  CUtensorMap special_q, special_k, special_v;  // (D, specials, 1, heads, batch)
};

struct HopperArgs {
  HopperMaps maps;
  KernelArgs kernel;
};

}  // namespace covis
