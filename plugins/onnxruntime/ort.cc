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

// Whether the node has the attribute in any type. A getter fails in the same way on an absent one
// and on one of another type, so all of them are tried.
bool has(const OrtKernelInfo* info, const char* name) {
  int64_t integer = 0;
  float real = 0.0f;
  size_t size = 0;
  if (found(api->KernelInfoGetAttribute_int64(info, name, &integer)) ||
      found(api->KernelInfoGetAttribute_float(info, name, &real)) ||
      found(api->KernelInfoGetAttribute_string(info, name, nullptr, &size)) ||
      found(api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &size)) ||
      found(api->KernelInfoGetAttributeArray_float(info, name, nullptr, &size))) {
    return true;
  }
  OrtAllocator* allocator = nullptr;
  OrtValue* tensor = nullptr;
  if (!found(api->GetAllocatorWithDefaultOptions(&allocator)) ||
      !found(api->KernelInfoGetAttribute_tensor(info, name, allocator, &tensor))) {
    return false;
  }
  api->ReleaseValue(tensor);
  return true;
}

std::string unless_absent(const OrtKernelInfo* info, const char* name, const char* type) {
  if (!has(info, name)) return {};
  return std::string("attribute ") + name + " is not " + type;
}

}  // namespace

std::string attribute(const OrtKernelInfo* info, const char* name, int64_t& value) {
  int64_t given = 0;
  if (!found(api->KernelInfoGetAttribute_int64(info, name, &given))) {
    return unless_absent(info, name, "an integer");
  }
  value = given;
  return {};
}

std::string attribute(const OrtKernelInfo* info, const char* name, float& value) {
  float given = 0.0f;
  if (!found(api->KernelInfoGetAttribute_float(info, name, &given))) {
    return unless_absent(info, name, "a float");
  }
  value = given;
  return {};
}

std::string attribute(const OrtKernelInfo* info, const char* name, std::string& value) {
  size_t size = 0;  // with the closing zero
  if (!found(api->KernelInfoGetAttribute_string(info, name, nullptr, &size)) || size == 0) {
    return unless_absent(info, name, "a string");
  }
  std::string given(size, '\0');
  if (!found(api->KernelInfoGetAttribute_string(info, name, given.data(), &size))) {
    return std::string("attribute ") + name + " cannot be read";
  }
  given.resize(size - 1);
  value = given;
  return {};
}

std::string layout_attributes(const OrtKernelInfo* info, TokenLayout& layout) {
  std::string error;
  TokenLayout::visit(layout, [&](const char* name, int64_t& value, int64_t) {
    if (error.empty()) error = attribute(info, name, value);
  });
  return error;
}

void layout_attributes(const OrtShapeInferContext* context, TokenLayout& layout) {
  TokenLayout::visit(layout, [&](const char* name, int64_t& value, int64_t) {
    const OrtOpAttr* given = nullptr;
    if (!found(api->ShapeInferContext_GetAttribute(context, name, &given)) || given == nullptr)
      return;
    int64_t number = 0;
    size_t size = 0;
    if (found(api->ReadOpAttr(given, ORT_OP_ATTR_INT, &number, sizeof number, &size)))
      value = number;
  });
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
