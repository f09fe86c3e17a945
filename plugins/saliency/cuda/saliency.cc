// The C ABI of the saliency pre-op. Host code only.
#include "saliency/cuda/kernels.h"

namespace {

using covis::Message;

int finish(cudaError_t error, const Message& m) {
  if (error == cudaSuccess) return kCovisOk;
  cudaGetLastError();
  const bool absent = error == cudaErrorNoDevice || error == cudaErrorInsufficientDriver;
  return m.fail(absent ? kCovisNoDevice : kCovisCudaError, "launch failed: %s",
                cudaGetErrorString(error));
}

int check_given(const void* params, const void* bytes, const Message& m) {
  if (params != nullptr && bytes != nullptr) return kCovisOk;
  return m.fail(kCovisBadArgument, "params or bytes is a null pointer");
}

}  // namespace

extern "C" {

int covis_similarity_workspace(const CovisSimilarityParams* params, uint64_t* bytes, char* message,
                               size_t message_bytes) {
  const Message m{message, message_bytes};
  covis::SimilarityPlan plan;
  int status = check_given(params, bytes, m);
  if (status == kCovisOk) status = covis::make_launch_plan(*params, false, m, &plan);
  if (status == kCovisOk) *bytes = plan.bytes;
  return status;
}

int covis_similarity_launch(const CovisSimilarityParams* params, void* stream, char* message,
                            size_t message_bytes) {
  const Message m{message, message_bytes};
  if (params == nullptr) return m.fail(kCovisBadArgument, "params is a null pointer");
  covis::SimilarityPlan plan;
  const int status = covis::make_launch_plan(*params, true, m, &plan);
  if (status != kCovisOk) return status;
  return finish(covis::launch_similarity(*params, plan, static_cast<cudaStream_t>(stream)), m);
}

int covis_pair_levels_workspace(const CovisPairLevelsParams* params, uint64_t* bytes, char* message,
                                size_t message_bytes) {
  const Message m{message, message_bytes};
  int status = check_given(params, bytes, m);
  if (status == kCovisOk) status = covis::check_pair_levels(*params, false, m);
  if (status == kCovisOk) *bytes = 0;
  return status;
}

int covis_pair_levels_launch(const CovisPairLevelsParams* params, void* stream, char* message,
                             size_t message_bytes) {
  const Message m{message, message_bytes};
  if (params == nullptr) return m.fail(kCovisBadArgument, "params is a null pointer");
  const int status = covis::check_pair_levels(*params, true, m);
  if (status != kCovisOk) return status;
  return finish(covis::launch_pair_levels(*params, static_cast<cudaStream_t>(stream)), m);
}

}  // extern "C"
