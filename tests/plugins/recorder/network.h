// A network that keeps what the parser adds, in place of a builder's.
#pragma once

#include <NvInferRuntime.h>

#include "rules.h"
#include "tensorrt_expressions.h"

namespace covis::test {

using nvinfer1::ITensor;
using nvinfer1::Weights;

class Builder final : public nvinfer1::IBuilder, public recorded::Builder {
 public:
  explicit Builder(nvinfer1::ILogger& logger) : logger_(logger) { mImpl = this; }
  nvinfer1::ILogger* getLogger() const noexcept override { return &logger_; }
  nvinfer1::IPluginRegistry& getPluginRegistry() noexcept override { return *::getPluginRegistry(); }

 private:
  nvinfer1::ILogger& logger_;
};

class Network final : public nvinfer1::INetworkDefinition, public recorded::NetworkDefinition {
 public:
  explicit Network(nvinfer1::ILogger& logger) : builder_(logger) { mImpl = this; }

  // Sizes to give an input's open axes, by the input's name; empty: they stay open.
  std::vector<std::pair<std::string, Dims>> sizes;
  std::vector<const void*> weights_named;  // where each named initializer's numbers lie

  ITensor* addInput(const char* name, DataType type, const Dims& dims) noexcept override;
  void markOutput(ITensor& tensor) noexcept override;
  int32_t getNbLayers() const noexcept override { return static_cast<int32_t>(nodes.size()); }
  nvinfer1::ILayer* getLayer(int32_t i) const noexcept override { return layers_.at(i).get(); }
  int32_t getNbInputs() const noexcept override { return static_cast<int32_t>(inputs.size()); }
  ITensor* getInput(int32_t i) const noexcept override { return inputs.at(i).get(); }
  int32_t getNbOutputs() const noexcept override { return static_cast<int32_t>(outputs.size()); }
  ITensor* getOutput(int32_t i) const noexcept override { return outputs.at(i); }
  nvinfer1::IBuilder& getBuilder() const noexcept override { return builder_; }
  nvinfer1::NetworkDefinitionCreationFlags getFlags() const noexcept override;
  bool getFlag(nvinfer1::NetworkDefinitionCreationFlag flag) const noexcept override;
  bool setWeightsName(Weights weights, const char*) noexcept override {
    weights_named.push_back(weights.values);
    return true;
  }
  void setName(const char*) noexcept override {}
  const char* getName() const noexcept override { return "recorded"; }

  nvinfer1::IActivationLayer* addActivation(ITensor& input,
                                            nvinfer1::ActivationType type) noexcept override;
  nvinfer1::ISoftMaxLayer* addSoftMax(ITensor& input) noexcept override;
  nvinfer1::IConcatenationLayer* addConcatenation(ITensor* const* inputs,
                                                  int32_t count) noexcept override;
  nvinfer1::IElementWiseLayer* addElementWise(ITensor& a, ITensor& b,
                                              nvinfer1::ElementWiseOperation op) noexcept override;
  nvinfer1::IUnaryLayer* addUnary(ITensor& input, nvinfer1::UnaryOperation op) noexcept override;
  nvinfer1::IShuffleLayer* addShuffle(ITensor& input) noexcept override;
  nvinfer1::IReduceLayer* addReduce(ITensor& input, nvinfer1::ReduceOperation op, uint32_t axes,
                                    bool keep) noexcept override;
  nvinfer1::ITopKLayer* addTopK(ITensor& input, nvinfer1::TopKOperation op, int32_t k,
                                uint32_t axes) noexcept override;
  nvinfer1::IGatherLayer* addGather(ITensor& data, ITensor& indices, int32_t axis) noexcept override;
  nvinfer1::IGatherLayer* addGatherV2(ITensor& data, ITensor& indices,
                                      nvinfer1::GatherMode mode) noexcept override;
  nvinfer1::IMatrixMultiplyLayer* addMatrixMultiply(ITensor& a, nvinfer1::MatrixOperation op_a,
                                                    ITensor& b,
                                                    nvinfer1::MatrixOperation op_b) noexcept override;
  nvinfer1::IConstantLayer* addConstant(const Dims& dims, Weights weights) noexcept override;
  nvinfer1::IIdentityLayer* addIdentity(ITensor& input) noexcept override;
  nvinfer1::ICastLayer* addCast(ITensor& input, DataType type) noexcept override;
  nvinfer1::IPluginV3Layer* addPluginV3(ITensor* const* inputs, int32_t count, ITensor* const*,
                                        int32_t, nvinfer1::IPluginV3& plugin) noexcept override;
  nvinfer1::ISliceLayer* addSlice(ITensor& input, const Dims& start, const Dims& size,
                                  const Dims& stride) noexcept override;
  nvinfer1::IShapeLayer* addShape(ITensor& input) noexcept override;
  nvinfer1::IConvolutionLayer* addConvolutionNd(ITensor& input, int64_t maps, const Dims& kernel,
                                                Weights weights, Weights bias) noexcept override;
  nvinfer1::IDeconvolutionLayer* addDeconvolutionNd(ITensor& input, int64_t maps,
                                                    const Dims& kernel, Weights weights,
                                                    Weights bias) noexcept override;
  nvinfer1::IResizeLayer* addResize(ITensor& input) noexcept override;
  nvinfer1::ISelectLayer* addSelect(ITensor& condition, ITensor& yes, ITensor& no) noexcept override;
  nvinfer1::IFillLayer* addFillV2(const Dims& dims, nvinfer1::FillOperation op,
                                  DataType type) noexcept override;
  nvinfer1::IScatterLayer* addScatter(ITensor& data, ITensor& indices, ITensor& updates,
                                      nvinfer1::ScatterMode mode) noexcept override;
  nvinfer1::INormalizationLayer* addNormalization(ITensor& input, ITensor& scale, ITensor& bias,
                                                  uint32_t axes) noexcept override;
  nvinfer1::IQuantizeLayer* addQuantizeV2(ITensor& input, ITensor& scale,
                                          DataType type) noexcept override;
  nvinfer1::IDequantizeLayer* addDequantizeV2(ITensor& input, ITensor& scale,
                                              DataType type) noexcept override;
#ifdef COVIS_HAS_addNormalizationV2
  nvinfer1::INormalizationLayer* addNormalizationV2(ITensor& input, ITensor& scale, ITensor& bias,
                                                    uint32_t axes) noexcept override {
    return addNormalization(input, scale, bias, axes);
  }
#endif
#ifdef COVIS_HAS_addTopKV2
  nvinfer1::ITopKLayer* addTopKV2(ITensor& input, nvinfer1::TopKOperation op, int32_t k,
                                  uint32_t axes, DataType type) noexcept override {
    nvinfer1::ITopKLayer* layer = addTopK(input, op, k, axes);
    layer->setIndicesType(type);
    return layer;
  }
  nvinfer1::ISqueezeLayer* addSqueeze(ITensor& input, ITensor& axes) noexcept override;
  nvinfer1::IUnsqueezeLayer* addUnsqueeze(ITensor& input, ITensor& axes) noexcept override;
#endif

  std::vector<std::unique_ptr<Tensor>> inputs;
  std::vector<Tensor*> outputs;
  std::vector<Node*> nodes;
  std::vector<std::pair<Node*, nvinfer1::IPluginV3*>> plugins;

 private:
  template <typename Interface, typename Implementation>
  Layer<Interface, Implementation>& add(nvinfer1::LayerType kind, std::vector<ITensor*> inputs,
                                        int outputs = 1);

  mutable Builder builder_;
  Sizes expressions_;
  std::vector<std::shared_ptr<nvinfer1::ILayer>> layers_;
  std::vector<std::unique_ptr<nvinfer1::IPluginV3>> owned_;
};

}  // namespace covis::test
