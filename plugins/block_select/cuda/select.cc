// The C ABI of BlockSelect. Host code only.
#include <cuda_runtime_api.h>

#include "block_select/cuda/kernels.h"

namespace covis {
namespace {

int launch_select(const CovisSelectParams& p, cudaStream_t stream, const Message& m) {
  SelectLaunchPlan plan;
  const int status = make_launch_plan(p, true, m, &plan);
  if (status != kCovisOk) return status;
  const SelectGeometry& g = plan.geometry;
  auto* workspace = static_cast<uint8_t*>(p.workspace);
  auto* pooled_q = reinterpret_cast<float*>(workspace + plan.pooled_q);
  auto* pooled_k = reinterpret_cast<float*>(workspace + plan.pooled_k);
  cudaError_t error = launch_pool(g, p.q, p.data_type, p.pool, p.q_stride, g.q_block, g.rows, false,
                                  pooled_q, stream);
  if (error == cudaSuccess) {
    error = launch_pool(g, p.k, p.data_type, p.pool, p.k_stride, g.k_block, g.cols, true, pooled_k,
                        stream);
  }
  if (error == cudaSuccess) {
    error = launch_choose(plan, pooled_q, pooled_k, p.pair, p.keep_ratio, p.cdf, p.level, stream);
  }
  if (error == cudaSuccess) return kCovisOk;
  cudaGetLastError();
  const bool absent = error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver;
  return m.fail(absent ? kCovisNoDevice : kCovisCudaError, "launch failed: %s",
                cudaGetErrorString(error));
}

}  // namespace
}  // namespace covis

extern "C" {

int covis_select_workspace(const CovisSelectParams* params, uint64_t* bytes, char* message,
                           size_t message_bytes) {
  const covis::Message m{message, message_bytes};
  if (params == nullptr || bytes == nullptr) {
    return m.fail(kCovisBadArgument, "params or bytes is a null pointer");
  }
  covis::SelectLaunchPlan plan;
  const int status = covis::make_launch_plan(*params, false, m, &plan);
  if (status == kCovisOk) *bytes = plan.bytes;
  return status;
}

int covis_select_launch(const CovisSelectParams* params, void* stream, char* message,
                        size_t message_bytes) {
  const covis::Message m{message, message_bytes};
  if (params == nullptr) return m.fail(kCovisBadArgument, "params is a null pointer");
  return covis::launch_select(*params, static_cast<cudaStream_t>(stream), m);
}

}  // extern "C"
