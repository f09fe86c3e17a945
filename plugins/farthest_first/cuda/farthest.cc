// The C ABI of FarthestFirst. Host code only.
#include <cuda_runtime_api.h>

#include "farthest_first/cuda/kernels.h"

extern "C" {

int covis_farthest_workspace(const CovisFarthestParams* params, uint64_t* bytes, char* message,
                             size_t message_bytes) {
  const covis::Message m{message, message_bytes};
  if (params == nullptr || bytes == nullptr) {
    return m.fail(kCovisBadArgument, "params or bytes is a null pointer");
  }
  const int status = covis::check_farthest(*params, false, m);
  if (status == kCovisOk) *bytes = 0;
  return status;
}

int covis_farthest_launch(const CovisFarthestParams* params, void* stream, char* message,
                          size_t message_bytes) {
  const covis::Message m{message, message_bytes};
  if (params == nullptr) return m.fail(kCovisBadArgument, "params is a null pointer");
  const int status = covis::check_farthest(*params, true, m);
  if (status != kCovisOk) return status;
  const cudaError_t error = covis::launch_farthest(*params, static_cast<cudaStream_t>(stream));
  if (error == cudaSuccess) return kCovisOk;
  cudaGetLastError();
  const bool absent = error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver;
  return m.fail(absent ? kCovisNoDevice : kCovisCudaError, "launch failed: %s",
                cudaGetErrorString(error));
}

}  // extern "C"
