#include "tensorrt/kernels.h"
#include "tensorrt/op.h"

namespace covis::trt {
namespace {

constexpr size_t kMessage = 512;

CovisFarthestParams params_of(const Call& call) {
  CovisFarthestParams p{};
  p.struct_size = sizeof(p);
  p.views = call.inputs[0].d[0];
  return p;
}

}  // namespace

bool FarthestOp::fits(int pos, const DataType* types) {
  constexpr DataType kTypes[] = {DataType::kFLOAT, DataType::kINT64, DataType::kINT64,
                                 DataType::kINT32};
  return types[pos] == kTypes[pos];
}

std::string FarthestOp::check_types(const DataType* inputs) {
  for (int i = 0; i < kInputs; ++i) {
    if (fits(i, inputs)) continue;
    return std::string(kInputNames[i]) + " is " + type_name(inputs[i]) + ", must be " +
           (i == 0 ? "float32" : "int64");
  }
  return "";
}

std::string FarthestOp::check_shapes(const Fields&, const std::vector<Dims>& inputs) {
  const Dims& similarity = inputs[0];
  const Dims& given = inputs[1];
  const auto differ = [](int64_t a, int64_t b) { return a >= 0 && b >= 0 && a != b; };
  if (similarity.nbDims != 2 || similarity.d[0] == 0 || similarity.d[1] == 0 ||
      differ(similarity.d[0], similarity.d[1])) {
    return "similarity is " + text(similarity) + ", must be (M, M) and not empty";
  }
  if (given.nbDims != 1 || differ(given.d[0], similarity.d[0]) ||
      differ(given.d[0], similarity.d[1])) {
    return "given is " + text(given) + ", must be (M), similarity is " + text(similarity);
  }
  if (inputs[2].nbDims != 0) return "count is " + text(inputs[2]) + ", must be a scalar";
  return "";
}

void FarthestOp::output_shape(const Fields&, const nvinfer1::DimsExprs* inputs,
                              nvinfer1::DimsExprs* output, nvinfer1::IExprBuilder&) {
  *output = inputs[1];
}

std::vector<Call> FarthestOp::extremes(const Fields&, const Call&, const Call& most) {
  Call call = most;
  const int64_t views = most.inputs[0].d[0];
  call.inputs[0].d[1] = call.inputs[1].d[0] = views;
  return {call};
}

std::string FarthestOp::workspace(const Fields&, const Call& call, uint64_t* bytes) {
  if (!kernels().error.empty()) return kernels().error;
  const CovisFarthestParams p = params_of(call);
  char message[kMessage] = "";
  const int status = kernels().farthest_workspace(&p, bytes, message, sizeof(message));
  return status == kCovisOk ? "" : message;
}

std::string FarthestOp::launch(const Fields&, const Call& call, uint64_t bytes, void* stream) {
  if (!kernels().error.empty()) return kernels().error;
  CovisFarthestParams p = params_of(call);
  p.similarity = static_cast<const float*>(call.in[0]);
  p.given = static_cast<const int64_t*>(call.in[1]);
  p.count = static_cast<const int64_t*>(call.in[2]);
  p.rank = static_cast<int32_t*>(call.out[0]);
  p.workspace = call.workspace;
  p.workspace_bytes = bytes;
  char message[kMessage] = "";
  const int status = kernels().farthest_launch(&p, stream, message, sizeof(message));
  return status == kCovisOk ? "" : message;
}

}  // namespace covis::trt
