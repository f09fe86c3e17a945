#include "onnxruntime/ort.h"

namespace covis::ort {

const OrtApi* api = nullptr;

OrtStatus* failure(const char* op, const std::string& what) {
  return api->CreateStatus(ORT_INVALID_ARGUMENT,
                           (std::string("covis ") + op + ": " + what).c_str());
}

OrtStatus* input(const OrtKernelContext* context, size_t index, Tensor& tensor) {
  const OrtValue* value = nullptr;
  COVIS_RETURN_IF_FAILED(api->KernelContext_GetInput(context, index, &value));
  OrtTensorTypeAndShapeInfo* info = nullptr;
  COVIS_RETURN_IF_FAILED(api->GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  OrtStatus* status = api->GetDimensionsCount(info, &rank);
  if (status == nullptr) {
    tensor.shape.resize(rank);
    status = api->GetDimensions(info, tensor.shape.data(), rank);
  }
  api->ReleaseTensorTypeAndShapeInfo(info);
  if (status != nullptr) return status;
  void* data = nullptr;
  // The C API has no const access; nothing is written through this.
  COVIS_RETURN_IF_FAILED(api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  tensor.data = data;
  return nullptr;
}

OrtStatus* output(OrtKernelContext* context, size_t index, const std::vector<int64_t>& shape,
                  void** data) {
  OrtValue* value = nullptr;
  COVIS_RETURN_IF_FAILED(
      api->KernelContext_GetOutput(context, index, shape.data(), shape.size(), &value));
  return api->GetTensorMutableData(value, data);
}

std::string text(const std::vector<int64_t>& shape) {
  std::string result = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    result += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  }
  return result + ")";
}

namespace {

// An absent attribute is reported as an error, which is of no interest.
bool found(OrtStatus* status) {
  if (status == nullptr) return true;
  api->ReleaseStatus(status);
  return false;
}

}  // namespace

void attribute(const OrtKernelInfo* info, const char* name, int64_t& value) {
  int64_t given = 0;
  if (found(api->KernelInfoGetAttribute_int64(info, name, &given))) value = given;
}

void attribute(const OrtKernelInfo* info, const char* name, float& value) {
  float given = 0.0f;
  if (found(api->KernelInfoGetAttribute_float(info, name, &given))) value = given;
}

void attribute(const OrtKernelInfo* info, const char* name, std::string& value) {
  size_t size = 0;  // with the closing zero
  if (!found(api->KernelInfoGetAttribute_string(info, name, nullptr, &size)) || size == 0) return;
  std::string given(size, '\0');
  if (!found(api->KernelInfoGetAttribute_string(info, name, given.data(), &size))) return;
  given.resize(size - 1);
  value = given;
}

void attribute(const OrtShapeInferContext* context, const char* name, int64_t& value) {
  const OrtOpAttr* given = nullptr;
  if (!found(api->ShapeInferContext_GetAttribute(context, name, &given)) || given == nullptr)
    return;
  int64_t number = 0;
  size_t size = 0;
  if (found(api->ReadOpAttr(given, ORT_OP_ATTR_INT, &number, sizeof number, &size))) value = number;
}

namespace {

template <class Source>
void read_layout(const Source* source, TokenLayout& layout) {
  TokenLayout::visit(
      layout, [&](const char* name, int64_t& value, int64_t) { attribute(source, name, value); });
}

}  // namespace

void layout_attributes(const OrtKernelInfo* info, TokenLayout& layout) {
  read_layout(info, layout);
}

void layout_attributes(const OrtShapeInferContext* context, TokenLayout& layout) {
  read_layout(context, layout);
}

std::string check_tokens(const std::vector<std::pair<const char*, const Tensor*>>& tensors,
                         const TokenLayout& layout) {
  const std::vector<int64_t>& first = tensors.front().second->shape;
  for (const auto& [name, tensor] : tensors) {
    const std::string given = std::string("input ") + name + " is " + text(tensor->shape);
    if (tensor->shape.size() != 4) return given + ", must be (B, H, S, D)";
    for (const int64_t dimension : tensor->shape) {
      if (dimension < 1) return given + ", no dimension may be empty";
    }
    if (tensor->shape != first) return given + ", must be the shape of Q, " + text(first);
  }
  return covis::check_tokens(layout, first[2]);
}

void Threads::run(void* host, int64_t count, ParallelFor::Body body, void* argument) {
  struct Call {
    ParallelFor::Body body;
    void* argument;
  } call{body, argument};
  Threads& threads = *static_cast<Threads*>(host);
  OrtStatus* status = api->KernelContext_ParallelFor(
      threads.context,
      [](void* data, size_t index) {
        const Call& c = *static_cast<Call*>(data);
        c.body(c.argument, static_cast<int64_t>(index));
      },
      static_cast<size_t>(count), 0, &call);
  if (status != nullptr && threads.failed == nullptr) {
    threads.failed = status;
  } else if (status != nullptr) {
    api->ReleaseStatus(status);
  }
}

}  // namespace covis::ort
