#include "network.h"

namespace covis::test {

using namespace nvinfer1;

template <typename Interface, typename Implementation>
Layer<Interface, Implementation>& Network::add(LayerType kind, std::vector<ITensor*> given,
                                               int count) {
  auto layer = std::make_shared<Layer<Interface, Implementation>>(kind, std::move(given), count);
  Layer<Interface, Implementation>& made = *layer;
  layers_.push_back(std::move(layer));
  nodes.push_back(&made.node);
  return made;
}

ITensor* Network::addInput(const char* name, DataType type, const Dims& dims) noexcept {
  auto tensor = std::make_unique<Tensor>(nullptr);
  tensor->name = name;
  tensor->type = type;
  tensor->dims = dims;
  for (const auto& [wanted, given] : sizes) {
    if (wanted == name && given.nbDims == dims.nbDims) tensor->dims = given;
  }
  inputs.push_back(std::move(tensor));
  return inputs.back().get();
}

void Network::markOutput(ITensor& tensor) noexcept {
  auto& marked = static_cast<Tensor&>(tensor);
  marked.is_output = true;
  outputs.push_back(&marked);
}

NetworkDefinitionCreationFlags Network::getFlags() const noexcept {
  return 1U << static_cast<uint32_t>(NetworkDefinitionCreationFlag::kSTRONGLY_TYPED);
}

bool Network::getFlag(NetworkDefinitionCreationFlag flag) const noexcept {
  return flag == NetworkDefinitionCreationFlag::kSTRONGLY_TYPED;
}

// Shortens what follows: a layer whose rule takes its node and its parameters.
#define COVIS_INFER(layer, call)            \
  (layer).node.infer = [l = &(layer)] {     \
    Node& n = l->node;                      \
    [[maybe_unused]] auto& p = l->parameters; \
    call;                                   \
  }

IActivationLayer* Network::addActivation(ITensor& input, ActivationType type) noexcept {
  auto& layer = add<IActivationLayer, recorded::ActivationLayer>(LayerType::kACTIVATION, {&input});
  layer.setActivationType(type);
  COVIS_INFER(layer, same_as_input(n); n.out().values.reset());
  return &layer;
}

ISoftMaxLayer* Network::addSoftMax(ITensor& input) noexcept {
  auto& layer = add<ISoftMaxLayer, recorded::SoftMaxLayer>(LayerType::kSOFTMAX, {&input});
  COVIS_INFER(layer, same_as_input(n); n.out().values.reset());
  return &layer;
}

IConcatenationLayer* Network::addConcatenation(ITensor* const* given, int32_t count) noexcept {
  auto& layer = add<IConcatenationLayer, recorded::ConcatenationLayer>(
      LayerType::kCONCATENATION, std::vector<ITensor*>(given, given + count));
  COVIS_INFER(layer, infer_concatenation(n, p));
  return &layer;
}

IElementWiseLayer* Network::addElementWise(ITensor& a, ITensor& b,
                                           ElementWiseOperation op) noexcept {
  auto& layer =
      add<IElementWiseLayer, recorded::ElementWiseLayer>(LayerType::kELEMENTWISE, {&a, &b});
  layer.setOperation(op);
  COVIS_INFER(layer, infer_elementwise(n, p));
  return &layer;
}

IUnaryLayer* Network::addUnary(ITensor& input, UnaryOperation op) noexcept {
  auto& layer = add<IUnaryLayer, recorded::UnaryLayer>(LayerType::kUNARY, {&input});
  layer.setOperation(op);
  COVIS_INFER(layer, infer_unary(n, p));
  return &layer;
}

IShuffleLayer* Network::addShuffle(ITensor& input) noexcept {
  auto& layer = add<IShuffleLayer, recorded::ShuffleLayer>(LayerType::kSHUFFLE, {&input});
  COVIS_INFER(layer, infer_shuffle(n, p));
  return &layer;
}

IReduceLayer* Network::addReduce(ITensor& input, ReduceOperation op, uint32_t axes,
                                 bool keep) noexcept {
  auto& layer = add<IReduceLayer, recorded::ReduceLayer>(LayerType::kREDUCE, {&input});
  layer.setOperation(op);
  layer.setReduceAxes(axes);
  layer.setKeepDimensions(keep);
  COVIS_INFER(layer, infer_reduce(n, p));
  return &layer;
}

ITopKLayer* Network::addTopK(ITensor& input, TopKOperation op, int32_t k, uint32_t axes) noexcept {
  auto& layer = add<ITopKLayer, recorded::TopKLayer>(LayerType::kTOPK, {&input}, 2);
  layer.setOperation(op);
  layer.setK(k);
  layer.setReduceAxes(axes);
  COVIS_INFER(layer, infer_topk(n, p));
  return &layer;
}

IGatherLayer* Network::addGather(ITensor& data, ITensor& indices, int32_t axis) noexcept {
  IGatherLayer* layer = addGatherV2(data, indices, GatherMode::kDEFAULT);
  layer->setGatherAxis(axis);
  return layer;
}

IGatherLayer* Network::addGatherV2(ITensor& data, ITensor& indices, GatherMode mode) noexcept {
  auto& layer = add<IGatherLayer, recorded::GatherLayer>(LayerType::kGATHER, {&data, &indices});
  layer.setMode(mode);
  COVIS_INFER(layer, infer_gather(n, p));
  return &layer;
}

// Two parameters with an index each: the generated class cannot keep them.
class Products final : public recorded::MatrixMultiplyLayer {
 public:
  void setOperation(int32_t i, MatrixOperation op) noexcept override { operations[i] = op; }
  MatrixOperation getOperation(int32_t i) const noexcept override { return operations[i]; }
  MatrixOperation operations[2] = {MatrixOperation::kNONE, MatrixOperation::kNONE};
};

IMatrixMultiplyLayer* Network::addMatrixMultiply(ITensor& a, MatrixOperation op_a, ITensor& b,
                                                 MatrixOperation op_b) noexcept {
  auto& layer = add<IMatrixMultiplyLayer, Products>(LayerType::kMATRIX_MULTIPLY, {&a, &b});
  layer.setOperation(0, op_a);
  layer.setOperation(1, op_b);
  COVIS_INFER(layer, infer_matrix(n, p.operations));
  return &layer;
}

IConstantLayer* Network::addConstant(const Dims& dims, Weights weights) noexcept {
  auto& layer = add<IConstantLayer, recorded::ConstantLayer>(LayerType::kCONSTANT, {});
  layer.setDimensions(dims);
  layer.setWeights(weights);
  COVIS_INFER(layer, infer_constant(n, p));
  // At once: the parser may free the numbers of small constants.
  layer.node.settle();
  return &layer;
}

IIdentityLayer* Network::addIdentity(ITensor& input) noexcept {
  auto& layer = add<IIdentityLayer, recorded::IdentityLayer>(LayerType::kIDENTITY, {&input});
  COVIS_INFER(layer, same_as_input(n));
  return &layer;
}

ICastLayer* Network::addCast(ITensor& input, DataType type) noexcept {
  auto& layer = add<ICastLayer, recorded::CastLayer>(LayerType::kCAST, {&input});
  layer.setToType(type);
  COVIS_INFER(layer, infer_cast(n, p.x_ToType));
  return &layer;
}

IPluginV3Layer* Network::addPluginV3(ITensor* const* given, int32_t count, ITensor* const*, int32_t,
                                     IPluginV3& plugin) noexcept {
  owned_.emplace_back(plugin.clone());
  auto* const build = static_cast<IPluginV3OneBuild*>(
      owned_.back()->getCapabilityInterface(PluginCapabilityType::kBUILD));
  auto& layer = add<IPluginV3Layer, recorded::PluginV3Layer>(
      LayerType::kPLUGIN_V3, std::vector<ITensor*>(given, given + count), build->getNbOutputs());
  plugins.emplace_back(&layer.node, owned_.back().get());
  layer.node.infer = [this, build, &n = layer.node] {
    std::vector<DataType> in, out(n.outputs.size());
    std::vector<DimsExprs> shapes, made(n.outputs.size());
    for (size_t i = 0; i < n.inputs.size(); ++i) {
      in.push_back(n.in(i).type);
      shapes.push_back(expressions_.of(n.in(i).dims));
    }
    const auto inputs = static_cast<int32_t>(in.size());
    const auto outputs = static_cast<int32_t>(out.size());
    if (build->getOutputDataTypes(out.data(), outputs, in.data(), inputs) != 0 ||
        build->getOutputShapes(shapes.data(), inputs, nullptr, 0, made.data(), outputs,
                               expressions_) != 0) {
      n.issue("the plugin refuses its inputs");
      return;
    }
    for (size_t i = 0; i < out.size(); ++i) {
      n.out(i).type = out[i];
      n.out(i).dims = Sizes::values(made[i]);
    }
  };
  return &layer;
}

ISliceLayer* Network::addSlice(ITensor& input, const Dims& start, const Dims& size,
                               const Dims& stride) noexcept {
  auto& layer = add<ISliceLayer, recorded::SliceLayer>(LayerType::kSLICE, {&input});
  layer.setStart(start);
  layer.setSize(size);
  layer.setStride(stride);
  COVIS_INFER(layer, infer_slice(n, p));
  return &layer;
}

IShapeLayer* Network::addShape(ITensor& input) noexcept {
  auto& layer = add<IShapeLayer, recorded::ShapeLayer>(LayerType::kSHAPE, {&input});
  COVIS_INFER(layer, infer_shape(n));
  return &layer;
}

template <typename Kind>
Kind* convolution(Kind& layer, int64_t maps, const Dims& kernel, Weights weights, Weights bias) {
  layer.setNbOutputMaps(maps);
  layer.setKernelSizeNd(kernel);
  layer.setKernelWeights(weights);
  layer.setBiasWeights(bias);
  return &layer;
}

// Weights given as numbers have a type too.
template <typename Parameters>
void check_weights(const Node& node, const Parameters& p) {
  for (const Weights& weights : {p.x_KernelWeights, p.x_BiasWeights}) {
    if (weights.count > 0 && weights.type != node.in(0).type) {
      node.issue(std::string("weights of ") + type_name(weights.type) + " on " +
                 type_name(node.in(0).type));
    }
  }
}

IConvolutionLayer* Network::addConvolutionNd(ITensor& input, int64_t maps, const Dims& kernel,
                                             Weights weights, Weights bias) noexcept {
  auto& layer =
      add<IConvolutionLayer, recorded::ConvolutionLayer>(LayerType::kCONVOLUTION, {&input});
  COVIS_INFER(layer, infer_convolution(n, p, false); check_weights(n, p));
  return convolution(layer, maps, kernel, weights, bias);
}

IDeconvolutionLayer* Network::addDeconvolutionNd(ITensor& input, int64_t maps, const Dims& kernel,
                                                 Weights weights, Weights bias) noexcept {
  auto& layer =
      add<IDeconvolutionLayer, recorded::DeconvolutionLayer>(LayerType::kDECONVOLUTION, {&input});
  COVIS_INFER(layer, infer_convolution(n, p, true); check_weights(n, p));
  return convolution(layer, maps, kernel, weights, bias);
}

class Scales final : public recorded::ResizeLayer {
 public:
  void setScales(const float* given, int32_t count) noexcept override {
    scales.assign(given, given + count);
  }
  int32_t getScales(int32_t, float*) const noexcept override {
    return static_cast<int32_t>(scales.size());
  }
  std::vector<float> scales;
};

IResizeLayer* Network::addResize(ITensor& input) noexcept {
  auto& layer = add<IResizeLayer, Scales>(LayerType::kRESIZE, {&input});
  COVIS_INFER(layer, infer_resize(n, p, p.scales));
  return &layer;
}

ISelectLayer* Network::addSelect(ITensor& condition, ITensor& yes, ITensor& no) noexcept {
  auto& layer =
      add<ISelectLayer, recorded::SelectLayer>(LayerType::kSELECT, {&condition, &yes, &no});
  COVIS_INFER(layer, infer_select(n));
  return &layer;
}

IFillLayer* Network::addFillV2(const Dims& dims, FillOperation op, DataType type) noexcept {
  auto& layer = add<IFillLayer, recorded::FillLayer>(LayerType::kFILL, {});
  layer.setDimensions(dims);
  layer.setOperation(op);
  layer.setToType(type);
  COVIS_INFER(layer, infer_fill(n, p));
  return &layer;
}

IScatterLayer* Network::addScatter(ITensor& data, ITensor& indices, ITensor& updates,
                                   ScatterMode mode) noexcept {
  auto& layer =
      add<IScatterLayer, recorded::ScatterLayer>(LayerType::kSCATTER, {&data, &indices, &updates});
  layer.setMode(mode);
  COVIS_INFER(layer, same_as_input(n); n.out().values.reset());
  return &layer;
}

INormalizationLayer* Network::addNormalization(ITensor& input, ITensor& scale, ITensor& bias,
                                               uint32_t axes) noexcept {
  auto& layer = add<INormalizationLayer, recorded::NormalizationLayer>(LayerType::kNORMALIZATION,
                                                                       {&input, &scale, &bias});
  layer.setAxes(axes);
  COVIS_INFER(layer, same_as_input(n); for (size_t i : {1, 2}) {
    if (n.in(i).type != n.in(0).type) n.issue("scale or bias of another type");
  });
  return &layer;
}

IQuantizeLayer* Network::addQuantizeV2(ITensor& input, ITensor& scale, DataType type) noexcept {
  auto& layer =
      add<IQuantizeLayer, recorded::QuantizeLayer>(LayerType::kQUANTIZE, {&input, &scale});
  layer.setToType(type);
  COVIS_INFER(layer, same_as_input(n); n.out().type = p.x_ToType);
  return &layer;
}

IDequantizeLayer* Network::addDequantizeV2(ITensor& input, ITensor& scale, DataType type) noexcept {
  auto& layer =
      add<IDequantizeLayer, recorded::DequantizeLayer>(LayerType::kDEQUANTIZE, {&input, &scale});
  layer.setToType(type);
  COVIS_INFER(layer, same_as_input(n); n.out().type = p.x_ToType);
  return &layer;
}

#ifdef COVIS_HAS_addTopKV2
ISqueezeLayer* Network::addSqueeze(ITensor& input, ITensor& axes) noexcept {
  auto& layer = add<ISqueezeLayer, recorded::SqueezeLayer>(LayerType::kSQUEEZE, {&input, &axes});
  COVIS_INFER(layer, infer_squeeze(n, false));
  return &layer;
}

IUnsqueezeLayer* Network::addUnsqueeze(ITensor& input, ITensor& axes) noexcept {
  auto& layer =
      add<IUnsqueezeLayer, recorded::UnsqueezeLayer>(LayerType::kUNSQUEEZE, {&input, &axes});
  COVIS_INFER(layer, infer_squeeze(n, true));
  return &layer;
}
#endif

}  // namespace covis::test
