// An OrtCustomOp from a description. One instance for each op and type of Q.
#pragma once

#include <exception>
#include <new>

#include "onnxruntime/ort.h"

namespace covis::ort {

// Spec defines: kName, kInputs, kInputTypes, kOutputType (UNDEFINED: the op's own type),
//   static OrtStatus* create(DataType, const OrtKernelInfo*, Spec**)
//   OrtStatus* compute(OrtKernelContext*) const
//   static OrtStatus* infer(OrtShapeInferContext*, ONNXTensorElementDataType)
template <class Spec>
struct CustomOp : OrtCustomOp {
  ONNXTensorElementDataType type;
  DataType data_type;

  CustomOp(ONNXTensorElementDataType element, DataType data) : OrtCustomOp{} {
    type = element;
    data_type = data;
    version = kApiVersion;
    GetName = [](const OrtCustomOp*) { return Spec::kName; };
    GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
    GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return std::size(Spec::kInputTypes); };
    GetInputType = [](const OrtCustomOp* op, size_t i) { return own_or(op, Spec::kInputTypes[i]); };
    GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
    GetOutputType = [](const OrtCustomOp* op, size_t) { return own_or(op, Spec::kOutputType); };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetVariadicInputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 1; };
    GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info,
                        void** kernel) -> OrtStatus* {
      return guarded([&] {
        Spec* spec = nullptr;
        OrtStatus* status = Spec::create(self(op).data_type, info, &spec);
        *kernel = spec;
        return status;
      });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Spec*>(kernel); };
    KernelComputeV2 = [](void* kernel, OrtKernelContext* context) -> OrtStatus* {
      return guarded([&] { return static_cast<const Spec*>(kernel)->compute(context); });
    };
    InferOutputShapeFn = [](const OrtCustomOp* op, OrtShapeInferContext* context) -> OrtStatus* {
      return guarded([&] { return Spec::infer(context, own_or(op, Spec::kOutputType)); });
    };
  }

 private:
  static const CustomOp& self(const OrtCustomOp* op) { return *static_cast<const CustomOp*>(op); }

  static ONNXTensorElementDataType own_or(const OrtCustomOp* op, ONNXTensorElementDataType type) {
    return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED ? self(op).type : type;
  }

  // No exception may reach the runtime, which is another compiler's code.
  template <class F>
  static OrtStatus* guarded(const F& f) {
    try {
      return f();
    } catch (const std::exception& error) {
      return failure(Spec::kName, error.what());
    }
  }
};

template <class Spec>
const OrtCustomOp* typed_op(int type) {
  static const CustomOp<Spec> ops[kTypeCount] = {{kTypes[0], DataType::kFloat32},
                                                 {kTypes[1], DataType::kFloat16},
                                                 {kTypes[2], DataType::kBFloat16}};
  return &ops[type];
}

}  // namespace covis::ort
