// The C ABI of the saliency pre-op. Host code only.
#include "saliency/cuda/kernels.h"

extern "C" {

int covis_saliency_workspace(const CovisSaliencyParams* params, uint64_t* bytes, char* message,
                             size_t message_bytes) {
  const covis::Message m{message, message_bytes};
  if (params == nullptr || bytes == nullptr) {
    return m.fail(kCovisBadArgument, "params or bytes is a null pointer");
  }
  covis::SaliencyLaunchPlan plan;
  const int status = covis::make_launch_plan(*params, false, m, &plan);
  if (status == kCovisOk) *bytes = plan.bytes;
  return status;
}

int covis_saliency_launch(const CovisSaliencyParams* params, void* stream, char* message,
                          size_t message_bytes) {
  const covis::Message m{message, message_bytes};
  if (params == nullptr) return m.fail(kCovisBadArgument, "params is a null pointer");
  covis::SaliencyLaunchPlan plan;
  const int status = covis::make_launch_plan(*params, true, m, &plan);
  if (status != kCovisOk) return status;
  const cudaError_t error =
      covis::launch_saliency(*params, plan, static_cast<cudaStream_t>(stream));
  if (error == cudaSuccess) return kCovisOk;
  cudaGetLastError();
  const bool absent = error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver;
  return m.fail(absent ? kCovisNoDevice : kCovisCudaError, "launch failed: %s",
                cudaGetErrorString(error));
}

}  // extern "C"
