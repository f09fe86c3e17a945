#include "graph.h"

namespace covis::test {

const Tensor& Tensor::settled() const {
  if (from_ != nullptr) from_->settle();
  return *this;
}

Node::Node(nvinfer1::LayerType kind, std::vector<nvinfer1::ITensor*> given, int count)
    : kind(kind), inputs(std::move(given)) {
  for (int i = 0; i < count; ++i) outputs.push_back(std::make_unique<Tensor>(this));
}

void Node::issue(const std::string& text) const { issues().push_back(name + ": " + text); }

std::vector<std::string>& issues() {
  static std::vector<std::string> all;
  return all;
}

std::string text(const Dims& dims) {
  std::string line = "(";
  for (int i = 0; i < dims.nbDims; ++i) line += (i ? ", " : "") + std::to_string(dims.d[i]);
  return line + ")";
}

const char* type_name(DataType type) {
  static const char* const names[] = {"float32", "float16", "int8", "int32",    "bool",
                                      "uint8",   "float8",  "bfloat16", "int64", "int4"};
  const auto index = static_cast<size_t>(type);
  return index < sizeof(names) / sizeof(*names) ? names[index] : "other";
}

int64_t volume(const Dims& dims) {
  int64_t product = 1;
  for (int i = 0; i < dims.nbDims; ++i) product = dims.d[i] < 0 || product < 0 ? -1 : product * dims.d[i];
  return product;
}

Dims dims_of(const std::vector<double>& values) {
  Dims dims{static_cast<int32_t>(values.size()), {}};
  for (size_t i = 0; i < values.size(); ++i) {
    dims.d[i] = std::isnan(values[i]) ? -1 : static_cast<int64_t>(values[i]);
  }
  return dims;
}

Dims broadcast(const Dims& a, const Dims& b) {
  Dims joined = a;
  for (int i = 0; i < a.nbDims && i < b.nbDims; ++i) {
    if (a.d[i] == 1 || (a.d[i] < 0 && b.d[i] > 1)) joined.d[i] = b.d[i];
  }
  return joined;
}

}  // namespace covis::test
