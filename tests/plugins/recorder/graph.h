// Tensors and layers as the parser made them. Sizes, types and the numbers of small integer tensors
// are found when they are first asked for, because parameters follow after a layer's creation.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "bases.h"

namespace covis::test {

using nvinfer1::DataType;
using nvinfer1::Dims;
namespace recorded = nvinfer1::recorded;

inline constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
inline constexpr int64_t kMostValues = 4096;  // of a tensor whose numbers are followed

class Node;

class Tensor final : public nvinfer1::ITensor, public recorded::Tensor {
 public:
  explicit Tensor(Node* from) : from_(from) { nvinfer1::ITensor::mImpl = this; }
  const char* getName() const noexcept override { return name.c_str(); }
  void setName(const char* given) noexcept override { name = given; }
  Dims getDimensions() const noexcept override { return settled().dims; }
  void setDimensions(const Dims& given) noexcept override { dims = given; }
  DataType getType() const noexcept override { return settled().type; }
  void setType(DataType given) noexcept { type = given; }
  bool isNetworkInput() const noexcept override { return from_ == nullptr; }
  bool isNetworkOutput() const noexcept override { return is_output; }
  bool isExecutionTensor() const noexcept override { return true; }
  const Tensor& settled() const;

  std::string name;
  int id = 0;
  bool is_output = false;
  Dims dims{};
  DataType type = DataType::kFLOAT;
  std::optional<std::vector<double>> values;  // kUnknown where only some are known

 private:
  Node* from_;
};

// What every layer has; `infer` fills its outputs.
class Node final : public recorded::Layer {
 public:
  Node(nvinfer1::LayerType kind, std::vector<nvinfer1::ITensor*> given, int outputs);
  nvinfer1::LayerType getType() const noexcept override { return kind; }
  const char* getName() const noexcept override { return name.c_str(); }
  void setName(const char* given) noexcept override { name = given; }
  int32_t getNbInputs() const noexcept override { return static_cast<int32_t>(inputs.size()); }
  nvinfer1::ITensor* getInput(int32_t i) const noexcept override { return inputs.at(i); }
  int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(outputs.size()); }
  nvinfer1::ITensor* getOutput(int32_t i) const noexcept override { return outputs.at(i).get(); }
  void setInput(int32_t index, nvinfer1::ITensor& tensor) noexcept override {
    if (index >= getNbInputs()) inputs.resize(index + 1, nullptr);
    inputs[index] = &tensor;
    dirty = true;
  }
  void settle() {
    if (!dirty) return;
    dirty = false;
    infer();
  }

  // For `infer`.
  bool has(size_t i) const { return i < inputs.size() && inputs[i] != nullptr; }
  const Tensor& in(size_t i) const { return static_cast<Tensor*>(inputs.at(i))->settled(); }
  Tensor& out(size_t i = 0) { return *outputs.at(i); }
  void issue(const std::string& text) const;

  nvinfer1::LayerType kind;
  std::string name;
  std::vector<nvinfer1::ITensor*> inputs;
  std::vector<std::unique_ptr<Tensor>> outputs;
  std::function<void()> infer;
  bool dirty = true;
};

// One of TensorRT's layer interfaces over a Node and a generated implementation.
template <typename Interface, typename Implementation>
class Layer final : public Interface {
 public:
  Layer(nvinfer1::LayerType kind, std::vector<nvinfer1::ITensor*> inputs, int outputs = 1)
      : node(kind, std::move(inputs), outputs) {
    this->mLayer = &node;
    this->mImpl = &parameters;
    parameters.edited = &node.dirty;
  }
  Node node;
  Implementation parameters;
};

// Things that a real builder would refuse in a strongly typed network.
std::vector<std::string>& issues();
std::string text(const Dims& dims);
const char* type_name(DataType type);
int64_t volume(const Dims& dims);  // -1 where a size is unknown
Dims dims_of(const std::vector<double>& values);
Dims broadcast(const Dims& a, const Dims& b);

}  // namespace covis::test
