// What the fake CUDA runtime knows: kernels by name, host stubs, the last error.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <map>

#include "program.h"

namespace covis::emulator {

struct Runtime {
  std::vector<std::unique_ptr<Module>> modules;
  std::map<std::string, const Kernel*> kernels;  // by mangled name
  std::map<const void*, std::string> functions;  // host stub -> mangled name
  std::map<std::string, int> dynamic_limit;      // shared memory that a kernel may ask for
  std::string error;                             // of the last launch
  cudaError_t last = cudaSuccess;
  struct {
    dim3 grid, block;
    size_t shared;
    void* stream;
  } call{};
};
Runtime& runtime();

// cuTensorMapEncodeTiled, with its rules.
CUresult encode_tiled(CUtensorMap* out, CUtensorMapDataType type, cuuint32_t rank, void* address,
                      const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                      const cuuint32_t* steps, CUtensorMapInterleave interleave,
                      CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                      CUtensorMapFloatOOBfill fill);

}  // namespace covis::emulator
