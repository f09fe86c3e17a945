#include "cuda/layout_fields.h"
#include "tensorrt/kernels.h"
#include "tensorrt/op.h"

namespace covis::trt {
namespace {

constexpr size_t kMessage = 512;

CovisSelectParams params_of(const SelectFields& fields, const Call& call) {
  const Dims& q = call.inputs[0];
  CovisSelectParams p{};
  p.struct_size = sizeof(p);
  p.data_type = call.types[0] == DataType::kHALF   ? kCovisSelectFloat16
                : call.types[0] == DataType::kBF16 ? kCovisSelectBfloat16
                                                   : kCovisSelectFloat32;
  p.pool = fields.pool;
  p.batch = q.d[0], p.heads = q.d[1], p.tokens = q.d[2], p.head_dim = q.d[3];
  set_layout(fields.layout, &p);
  const int64_t strides[3] = {p.heads * p.tokens * p.head_dim, p.tokens * p.head_dim, p.head_dim};
  for (int i = 0; i < 3; ++i) p.q_stride[i] = p.k_stride[i] = strides[i];
  p.pair_frames = call.inputs[2].d[2];
  return p;
}

}  // namespace

bool SelectOp::fits(int pos, const DataType* types) {
  switch (pos) {
    case 0:
      return types[0] == DataType::kHALF || types[0] == DataType::kBF16 ||
             types[0] == DataType::kFLOAT;
    case 1: return types[1] == types[0];
    case 2: return types[2] == DataType::kINT8;
    case 3:
    case 4: return types[pos] == DataType::kFLOAT;
    default: return types[pos] == DataType::kINT8;
  }
}

std::string SelectOp::check_types(const DataType* inputs) {
  for (int i = 0; i < kInputs; ++i) {
    if (fits(i, inputs)) continue;
    const char* const wanted = i == 0   ? "float16, bfloat16 or float32"
                               : i == 1 ? "the type of Q"
                               : i == 2 ? "int8"
                                        : "float32";
    return std::string(kInputNames[i]) + " is " + type_name(inputs[i]) + ", must be " + wanted;
  }
  return "";
}

std::string SelectOp::check_shapes(const Fields& fields, const std::vector<Dims>& inputs) {
  std::string error = check_tokens(fields.layout, inputs, kInputNames, 2);
  if (!error.empty()) return error;
  const int64_t tokens = inputs[0].d[2];
  const int64_t frames = tokens > 0 ? fields.layout.frames(tokens) : -1;
  if (frames == 0) return std::to_string(tokens) + " tokens hold no frame";
  const Dims& pair = inputs[2];
  bool fits = pair.nbDims == 4;
  for (int axis = 0; fits && axis < 4; ++axis) {
    const int64_t size = pair.d[axis];
    const bool one = size == 1 || size < 0;
    fits = axis < 2 ? one : one || (size > 1 && (frames < 0 || size == frames));
  }
  if (fits && pair.d[2] > 0 && pair.d[3] > 0) fits = pair.d[2] == pair.d[3];
  if (!fits) {
    const std::string m = frames < 0 ? "M" : std::to_string(frames);
    return "pair is " + text(pair) + ", must be (1, 1, 1, 1) or (1, 1, " + m + ", " + m + ")";
  }
  for (int i = 3; i < kInputs; ++i) {
    if (inputs[i].nbDims != 0) {
      return std::string(kInputNames[i]) + " is " + text(inputs[i]) + ", must be a scalar";
    }
  }
  return "";
}

void SelectOp::output_shape(const Fields& fields, const nvinfer1::DimsExprs* inputs,
                            nvinfer1::DimsExprs* output, nvinfer1::IExprBuilder& builder) {
  using nvinfer1::DimensionOperation;
  const TokenLayout& layout = fields.layout;
  const auto number = [&](int64_t value) { return builder.constant(value); };
  const auto* body =
      builder.operation(DimensionOperation::kSUB, *inputs[0].d[2], *number(layout.trailing_tokens));
  const auto* frames =
      builder.operation(DimensionOperation::kFLOOR_DIV, *body, *number(layout.frame_tokens));
  const auto* patches =
      builder.operation(DimensionOperation::kPROD, *frames, *number(layout.frame_patches()));
  output->nbDims = 4;
  output->d[0] = inputs[0].d[0];
  output->d[1] = inputs[0].d[1];
  output->d[2] =
      builder.operation(DimensionOperation::kCEIL_DIV, *patches, *number(layout.q_block));
  output->d[3] =
      builder.operation(DimensionOperation::kCEIL_DIV, *patches, *number(layout.k_block));
}

std::vector<Call> SelectOp::extremes(const Fields& fields, const Call&, const Call& most) {
  // Pooled queries and keys: more frames never need less.
  Call call = most;
  const int64_t tokens = most.inputs[0].d[2];
  const int64_t frames = frame_counts(fields.layout, tokens, tokens).back();
  if (frames < 1) return {};
  call.inputs[0].d[2] = frames * fields.layout.frame_tokens + fields.layout.trailing_tokens;
  call.inputs[1] = call.inputs[0];
  const int64_t pairs = most.inputs[2].d[2] == 1 ? 1 : frames;
  call.inputs[2] = Dims{4, {1, 1, pairs, pairs}};
  return {call};
}

std::string SelectOp::workspace(const Fields& fields, const Call& call, uint64_t* bytes) {
  if (!kernels().error.empty()) return kernels().error;
  const CovisSelectParams p = params_of(fields, call);
  char message[kMessage] = "";
  const int status = kernels().select_workspace(&p, bytes, message, sizeof(message));
  return status == kCovisOk ? "" : message;
}

std::string SelectOp::launch(const Fields& fields, const Call& call, uint64_t bytes, void* stream) {
  if (!kernels().error.empty()) return kernels().error;
  CovisSelectParams p = params_of(fields, call);
  p.q = call.in[0], p.k = call.in[1];
  p.pair = static_cast<const int8_t*>(call.in[2]);
  p.keep_ratio = static_cast<const float*>(call.in[3]);
  p.cdf = static_cast<const float*>(call.in[4]);
  p.level = static_cast<int8_t*>(call.out[0]);
  p.workspace = call.workspace;
  p.workspace_bytes = bytes;
  char message[kMessage] = "";
  const int status = kernels().select_launch(&p, stream, message, sizeof(message));
  return status == kCovisOk ? "" : message;
}

}  // namespace covis::trt
