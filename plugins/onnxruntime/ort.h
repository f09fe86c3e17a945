// The parts of ONNX Runtime's C API that the ops use. The C API is used directly, because it is
// versioned and append-only: a library built for version 17 runs on every later runtime, and no
// exception has to cross a library boundary.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_c_api.h>

#include <string>
#include <utility>
#include <vector>

#include "common/half.h"
#include "common/parallel_for.h"
#include "common/token_layout.h"

namespace covis::ort {

// The API version that is requested from the runtime; not ORT_API_VERSION, so that newer headers
// give the same library.
inline constexpr uint32_t kApiVersion = 17;

// Set once by RegisterCustomOps.
extern const OrtApi* api;

// An error that names the op, for the user.
OrtStatus* failure(const char* op, const std::string& what);

#define COVIS_RETURN_IF_FAILED(call)                                     \
  do {                                                                   \
    if (OrtStatus* status_ = (call); status_ != nullptr) return status_; \
  } while (false)

// A tensor as the kernels see it.
struct Tensor {
  std::vector<int64_t> shape;
  const void* data = nullptr;
};

OrtStatus* input(const OrtKernelContext* context, size_t index, Tensor& tensor);
OrtStatus* output(OrtKernelContext* context, size_t index, const std::vector<int64_t>& shape,
                  void** data);

std::string text(const std::vector<int64_t>& shape);  // "(2, 16, 100, 64)"

// Reads an attribute; the value stays as it is where the attribute is absent. Returns an error if
// the node has it in another type.
std::string attribute(const OrtKernelInfo* info, const char* name, int64_t& value);
std::string attribute(const OrtKernelInfo* info, const char* name, float& value);
std::string attribute(const OrtKernelInfo* info, const char* name, std::string& value);
std::string layout_attributes(const OrtKernelInfo* info, TokenLayout& layout);

// The same for shape inference, which passes over faults: they are reported when kernels are
// created.
void layout_attributes(const OrtShapeInferContext* context, TokenLayout& layout);

// Whether shape inference may pass a dimension on: it has a value or a symbolic name.
inline bool is_named(int64_t value, const char* name) {
  return value >= 0 || (name != nullptr && *name != '\0');
}

// Checks that the named tensors are (B, H, S, D) without an empty dimension and of one shape, and S
// against the layout.
std::string check_tokens(const std::vector<std::pair<const char*, const Tensor*>>& tensors,
                         const TokenLayout& layout);

// The runtime's own threads. `failed` receives the runtime's error, if any.
struct Threads {
  const OrtKernelContext* context;
  OrtStatus* failed = nullptr;
  ParallelFor parallel_for() { return {run, this}; }

 private:
  static void run(void* host, int64_t count, ParallelFor::Body body, void* argument);
};

inline constexpr ONNXTensorElementDataType kTypes[] = {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                                       ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
                                                       ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16};
inline constexpr int kTypeCount = 3;

// The three typed ops of each name, to be added to the domain.
const OrtCustomOp* attention_op(int type);
const OrtCustomOp* select_op(int type);
const OrtCustomOp* farthest_op();  // has one type alone

}  // namespace covis::ort
