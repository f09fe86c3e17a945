// The IPluginV3 implementation of the ops. It stores the fields and the tactic, calls the op for
// everything else, and catches every exception.
#pragma once

#include <NvInfer.h>

#include <exception>
#include <new>

#include "tensorrt/host.h"
#include "tensorrt/op.h"

namespace covis::trt {

using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;
using nvinfer1::TensorRTPhase;

inline constexpr const char* kVersion = "1";
inline constexpr const char* kNamespace = "";

// Runs `body`, which returns "" or an error; reports the error under the op's name.
template <typename Body>
int32_t guarded(const char* op, nvinfer1::IErrorRecorder* recorder, Body body) noexcept {
  try {
    const std::string error = body();
    if (error.empty()) return 0;
    report(ILogger::Severity::kERROR, std::string("covis ") + op + ": " + error, recorder);
  } catch (const std::exception& error) {
    report(ILogger::Severity::kINTERNAL_ERROR, error.what(), recorder);
  } catch (...) {
    report(ILogger::Severity::kINTERNAL_ERROR, "unknown exception", recorder);
  }
  return -1;
}

template <typename Op>
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuildV2,
                     public nvinfer1::IPluginV3OneRuntime {
 public:
  using Fields = typename Op::Fields;

  explicit Plugin(const Fields& fields) : fields_(fields) {
    FieldText line;
    fields_.visit(line);
    text_ = Fields::kName + (line.text.empty() ? "" : " " + line.text);
  }

  // IPluginV3
  nvinfer1::IPluginCapability* getCapabilityInterface(
      nvinfer1::PluginCapabilityType type) noexcept override {
    switch (type) {
      case nvinfer1::PluginCapabilityType::kCORE:
        return static_cast<nvinfer1::IPluginV3OneCore*>(this);
      case nvinfer1::PluginCapabilityType::kBUILD:
        return static_cast<nvinfer1::IPluginV3OneBuildV2*>(this);
      case nvinfer1::PluginCapabilityType::kRUNTIME:
        return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
  }
  Plugin* clone() noexcept override { return copy(recorder_); }

  // IPluginV3OneCore
  const char* getPluginName() const noexcept override { return Fields::kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }

  // IPluginV3OneBuildV2
  int32_t getNbOutputs() const noexcept override { return 1; }
  int32_t getOutputDataTypes(DataType* outputs, int32_t nb_outputs, const DataType* inputs,
                             int32_t nb_inputs) const noexcept override {
    return guarded(Fields::kName, recorder_, [&] {
      std::string error = check_counts(nb_inputs, nb_outputs);
      if (error.empty()) error = Op::check_types(inputs);
      if (error.empty()) outputs[0] = Op::output_type(inputs);
      return error;
    });
  }
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t nb_inputs,
                          const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* outputs,
                          int32_t nb_outputs, nvinfer1::IExprBuilder& builder) noexcept override {
    return guarded(Fields::kName, recorder_, [&] {
      std::string error = check_counts(nb_inputs, nb_outputs);
      if (error.empty()) error = Op::check_shapes(fields_, known_sizes(inputs));
      if (error.empty()) Op::output_shape(fields_, inputs, outputs, builder);
      return error;
    });
  }
  bool supportsFormatCombination(int32_t pos, const DynamicPluginTensorDesc* tensors,
                                 int32_t nb_inputs, int32_t nb_outputs) noexcept override {
    if (nb_inputs != Op::kInputs || nb_outputs != 1 || pos < 0 || pos > Op::kInputs) return false;
    DataType types[Op::kInputs + 1];
    for (int32_t i = 0; i <= pos; ++i) types[i] = tensors[i].desc.type;
    return tensors[pos].desc.format == TensorFormat::kLINEAR && Op::fits(pos, types);
  }
  int32_t configurePlugin(const DynamicPluginTensorDesc* inputs, int32_t nb_inputs,
                          const DynamicPluginTensorDesc*, int32_t nb_outputs) noexcept override {
    return guarded(Fields::kName, recorder_, [&]() -> std::string {
      std::string error = check_counts(nb_inputs, nb_outputs);
      if (!error.empty()) return error;
      const Call most = bound(inputs, &DynamicPluginTensorDesc::max);
      uint64_t bytes = 0;
      error = largest_workspace(bound(inputs, &DynamicPluginTensorDesc::min), most, &bytes);
      if (!error.empty()) return error;
      tactics_ = Op::tactics(fields_, most);
      report(ILogger::Severity::kVERBOSE, "covis " + text_ + ": configured, workspace " +
                                              std::to_string(bytes) + " bytes for " +
                                              text(most.inputs[0]));
      return "";
    });
  }
  size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t nb_inputs,
                          const DynamicPluginTensorDesc*,
                          int32_t nb_outputs) const noexcept override {
    uint64_t bytes = 0;
    guarded(Fields::kName, recorder_, [&] {
      const std::string error = check_counts(nb_inputs, nb_outputs);
      if (!error.empty()) return error;
      return largest_workspace(bound(inputs, &DynamicPluginTensorDesc::min),
                               bound(inputs, &DynamicPluginTensorDesc::max), &bytes);
    });
    return bytes;
  }
  int32_t getNbTactics() noexcept override { return static_cast<int32_t>(tactics_.size()); }
  int32_t getValidTactics(int32_t* tactics, int32_t nb_tactics) noexcept override {
    for (int32_t i = 0; i < nb_tactics && i < getNbTactics(); ++i) tactics[i] = tactics_[i];
    return 0;
  }
  const char* getTimingCacheID() noexcept override { return text_.c_str(); }
  const char* getMetadataString() noexcept override { return text_.c_str(); }

  // IPluginV3OneRuntime
  int32_t setTactic(int32_t tactic) noexcept override {
    tactic_ = tactic;  // the kernels reject unknown values with a message
    return 0;
  }
  int32_t onShapeChange(const PluginTensorDesc* inputs, int32_t nb_inputs, const PluginTensorDesc*,
                        int32_t nb_outputs) noexcept override {
    return guarded(Fields::kName, recorder_, [&] {
      std::string error = check_counts(nb_inputs, nb_outputs);
      if (error.empty()) error = needed(call_of(inputs), &bytes_);
      return error;
    });
  }
  int32_t enqueue(const PluginTensorDesc* inputs, const PluginTensorDesc*, const void* const* in,
                  void* const* out, void* workspace, cudaStream_t stream) noexcept override {
    return guarded(Fields::kName, recorder_, [&] {
      Call call = call_of(inputs);
      call.in = in;
      call.out = out;
      call.workspace = workspace;
      return Op::launch(fields_, call, bytes_, stream);
    });
  }
  Plugin* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override {
    return copy(context == nullptr ? nullptr : context->getErrorRecorder());
  }
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override {
    const nvinfer1::PluginFieldCollection* collection = nullptr;
    guarded(Fields::kName, recorder_, [&]() -> std::string {
      serialized_ = FieldList();
      serialized_.integer(kVersionField, kFieldsVersion, 1);
      fields_.visit(serialized_);
      collection = serialized_.collection();
      return "";
    });
    return collection;
  }

 private:
  Plugin* copy(nvinfer1::IErrorRecorder* recorder) noexcept {
    Plugin* made = nullptr;
    guarded(Fields::kName, recorder_, [&]() -> std::string {
      made = new Plugin(*this);
      made->serialized_ = FieldList();  // it would point into this object
      made->recorder_ = recorder;
      return "";
    });
    return made;
  }

  static std::string check_counts(int32_t inputs, int32_t outputs) {
    if (inputs == Op::kInputs && outputs == 1) return "";
    return std::to_string(inputs) + " inputs and " + std::to_string(outputs) +
           " outputs are connected, must be " + std::to_string(Op::kInputs) + " and 1";
  }

  static std::vector<Dims> known_sizes(const nvinfer1::DimsExprs* inputs) {
    std::vector<Dims> known(Op::kInputs);
    for (int i = 0; i < Op::kInputs; ++i) {
      known[i].nbDims = inputs[i].nbDims;
      for (int axis = 0; axis < inputs[i].nbDims && axis < Dims::MAX_DIMS; ++axis) {
        const nvinfer1::IDimensionExpr& size = *inputs[i].d[axis];
        known[i].d[axis] = size.isConstant() ? size.getConstantValue() : -1;
      }
    }
    return known;
  }

  Call bound(const DynamicPluginTensorDesc* inputs, Dims DynamicPluginTensorDesc::* end) const {
    Call call;
    for (int i = 0; i < Op::kInputs; ++i) {
      call.inputs.push_back(inputs[i].*end);
      call.types.push_back(inputs[i].desc.type);
    }
    call.tactic = tactic_;
    return call;
  }

  Call call_of(const PluginTensorDesc* inputs) const {
    Call call;
    for (int i = 0; i < Op::kInputs; ++i) {
      call.inputs.push_back(inputs[i].dims);
      call.types.push_back(inputs[i].type);
    }
    call.tactic = tactic_;
    return call;
  }

  std::string needed(const Call& call, uint64_t* bytes) const {
    const std::string error = Op::check_shapes(fields_, call.inputs);
    return error.empty() ? Op::workspace(fields_, call, bytes) : error;
  }

  // The largest workspace of any shape of the profile. Bounds of single sizes may contradict each
  // other, so the op lists consistent sets of sizes.
  std::string largest_workspace(const Call& least, const Call& most, uint64_t* bytes) const {
    for (const Call& call : Op::extremes(fields_, least, most)) {
      uint64_t here = 0;
      const std::string error = needed(call, &here);
      if (!error.empty()) return error;
      *bytes = here > *bytes ? here : *bytes;
    }
    return "";
  }

  Fields fields_;
  int32_t tactic_ = 0;
  uint64_t bytes_ = 0;  // of workspace that the current shapes need
  std::vector<int32_t> tactics_;
  std::string text_;
  FieldList serialized_;
  nvinfer1::IErrorRecorder* recorder_ = nullptr;
};

template <typename Op>
class Creator final : public nvinfer1::IPluginCreatorV3One {
 public:
  using Fields = typename Op::Fields;

  Creator() {
    fields_.visit(names_);
    names_.without_data();
  }
  const char* getPluginName() const noexcept override { return Fields::kName; }
  const char* getPluginVersion() const noexcept override { return kVersion; }
  const char* getPluginNamespace() const noexcept override { return kNamespace; }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override {
    return names_.collection();
  }
  nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* given,
                                    TensorRTPhase phase) noexcept override {
    nvinfer1::IPluginV3* made = nullptr;
    guarded(Fields::kName, nullptr, [&] {
      Fields fields;
      FieldReader reader(given, phase == TensorRTPhase::kRUNTIME);
      fields.visit(reader);
      std::string error = reader.finish();
      if (error.empty()) error = fields.check();
      if (error.empty()) made = new Plugin<Op>(fields);
      return error;
    });
    return made;
  }

 private:
  Fields fields_;
  FieldList names_;
};

}  // namespace covis::trt
