// The few functions of the CUDA runtime that the project's host code and nvcc's stubs call, so that
// its C ABI runs end to end on host memory; launches go to the emulator.
#include "fake_cuda.h"

#include <cstring>

#include "cta.h"

namespace covis::emulator {

Runtime& runtime() {
  static Runtime the;
  return the;
}

namespace {

constexpr int kMostShared = 227 * 1024;  // bytes that a CTA may ask for on sm_90

cudaError_t launch(const std::string& name, dim3 grid, dim3 block, void** args, size_t shared) {
  Runtime& s = runtime();
  try {
    const auto found = s.kernels.find(name);
    if (found == s.kernels.end()) throw Error("no PTX of " + name);
    const Kernel& kernel = *found->second;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) throw Error(name + ": an empty grid");
    const unsigned threads = block.x * block.y * block.z;
    if (threads == 0 || threads > 1024 ||
        (kernel.max_threads > 0 && threads > static_cast<unsigned>(kernel.max_threads)))
      throw Error(name + ": " + std::to_string(threads) + " threads");
    const size_t limit =
        s.dynamic_limit.count(name) ? s.dynamic_limit[name] : 48 * 1024 - kernel.static_shared;
    if (shared > limit) throw Error(name + ": dynamic shared memory above the limit");
    std::vector<uint8_t> block_memory(kernel.param_bytes + 128);
    uint8_t* params =
        block_memory.data() + (128 - reinterpret_cast<uintptr_t>(block_memory.data()) % 128);
    for (size_t i = 0; i < kernel.params.size(); ++i)
      std::memcpy(params + kernel.params[i].offset, args[i], kernel.params[i].size);
    Launch what{};
    what.kernel = &kernel;
    const uint32_t grids[3] = {grid.x, grid.y, grid.z};
    const uint32_t blocks[3] = {block.x, block.y, block.z};
    std::copy(grids, grids + 3, what.grid);
    std::copy(blocks, blocks + 3, what.block);
    what.dynamic_shared = static_cast<uint32_t>(shared);
    what.params = params;
    run_grid(what);
    return cudaSuccess;
  } catch (const std::exception& error) {
    s.error = error.what();
    s.last = cudaErrorLaunchFailure;
    return s.last;
  }
}

}  // namespace
}  // namespace covis::emulator

using covis::emulator::allocated;
using covis::emulator::encode_tiled;
using covis::emulator::kMostShared;
using covis::emulator::launch;
using covis::emulator::options;
using covis::emulator::runtime;

extern "C" {

// What nvcc's stubs call.
void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*,
                            dim3*, dim3*, int*) {
  runtime().functions[host] = name;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  runtime().call = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = runtime().call.grid;
  *block = runtime().call.block;
  *shared = runtime().call.shared;
  *static_cast<void**>(stream) = runtime().call.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args,
                               size_t shared, cudaStream_t) {
  return launch(runtime().functions[kernel], grid, block, args, shared);
}
cudaError_t cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void** args, size_t shared,
                             cudaStream_t) {
  return launch(runtime().functions[host], grid, block, args, shared);
}

// The runtime.
cudaError_t cudaGetDevice(int* id) {
  *id = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMultiProcessorCount: *value = options().multiprocessors; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = kMostShared; break;
    default: return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* host, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaErrorInvalidValue;
  if (value > kMostShared) return cudaErrorInvalidValue;
  runtime().dynamic_limit[runtime().functions[host]] = value;
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  if (!allocated(reinterpret_cast<uint64_t>(to), bytes, true)) {
    runtime().error = "cudaMemsetAsync outside all allocations";
    return cudaErrorInvalidValue;
  }
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaPeekAtLastError() { return runtime().last; }
cudaError_t cudaGetLastError() {
  const cudaError_t last = runtime().last;
  runtime().last = cudaSuccess;
  return last;
}
const char* cudaGetErrorString(cudaError_t) { return runtime().error.c_str(); }
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** entry, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  if (std::string(symbol) != "cuTensorMapEncodeTiled") return cudaErrorInvalidValue;
  *entry = reinterpret_cast<void*>(&encode_tiled);
  *found = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

}  // extern "C"
