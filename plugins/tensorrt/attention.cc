#include "cuda/layout_fields.h"
#include "tensorrt/kernels.h"
#include "tensorrt/op.h"

namespace covis::trt {
namespace {

constexpr size_t kMessage = 512;

// The level map's sizes for N patch tokens.
Dims full_level(const TokenLayout& layout, const Dims& q, int64_t patches) {
  return Dims{4,
              {q.d[0], q.d[1], TokenLayout::ceil_div(patches, layout.q_block),
               TokenLayout::ceil_div(patches, layout.k_block)}};
}

CovisAttentionParams params_of(const AttentionFields& fields, const Call& call) {
  const Dims& q = call.inputs[0];
  const Dims& level = call.inputs[3];
  CovisAttentionParams p{};
  p.struct_size = sizeof(p);
  p.data_type = call.types[0] == DataType::kHALF ? kCovisFloat16 : kCovisBfloat16;
  p.precision = fields.precision;
  p.kernel = call.tactic;
  p.batch = q.d[0], p.heads = q.d[1], p.tokens = q.d[2], p.head_dim = q.d[3];
  set_layout(fields.layout, &p);
  p.scale = fields.scale;
  const int64_t strides[3] = {p.heads * p.tokens * p.head_dim, p.tokens * p.head_dim, p.head_dim};
  for (int i = 0; i < 3; ++i) {
    p.q_stride[i] = p.k_stride[i] = p.v_stride[i] = p.o_stride[i] = strides[i];
  }
  p.level_batch = level.d[0], p.level_heads = level.d[1];
  p.level_rows = level.d[2], p.level_cols = level.d[3];
  return p;
}

// The kernels' status; `error` receives their message, or the reason why they are not loaded.
int query_workspace(const AttentionFields& fields, const Call& call, uint64_t* bytes,
                    std::string* error) {
  if (!kernels().error.empty()) {
    *error = kernels().error;
    return kCovisNoDevice;
  }
  char message[kMessage] = "";
  const CovisAttentionParams p = params_of(fields, call);
  const int status = kernels().attention_workspace(&p, bytes, message, sizeof(message));
  if (status != kCovisOk) *error = message;
  return status;
}

}  // namespace

bool AttentionOp::fits(int pos, const DataType* types) {
  if (pos == 0) return types[0] == DataType::kHALF || types[0] == DataType::kBF16;
  return types[pos] == (pos == 3 ? DataType::kINT8 : types[0]);
}

std::string AttentionOp::check_types(const DataType* inputs) {
  // float32 passes here, so that graphs can be parsed and examined; no format of it is offered.
  const DataType q = inputs[0];
  if (q != DataType::kHALF && q != DataType::kBF16 && q != DataType::kFLOAT) {
    return std::string("Q is ") + type_name(q) + ", must be float16 or bfloat16";
  }
  for (int i = 1; i < kInputs; ++i) {
    const DataType wanted = i == 3 ? DataType::kINT8 : q;
    if (inputs[i] != wanted) {
      return std::string(kInputNames[i]) + " is " + type_name(inputs[i]) + ", must be " +
             type_name(wanted) + (i == 3 ? "" : " as Q");
    }
  }
  return "";
}

std::string AttentionOp::check_shapes(const Fields& fields, const std::vector<Dims>& inputs) {
  std::string error = check_tokens(fields.layout, inputs, kInputNames, 3);
  if (!error.empty()) return error;
  const Dims& q = inputs[0];
  const Dims& level = inputs[3];
  if (level.nbDims != 4) return "level is " + text(level) + ", must be (b, h, Rq, Rk)";
  const bool known = q.d[2] > 0;
  const Dims full = full_level(fields.layout, q, known ? fields.layout.patches(q.d[2]) : 0);
  for (int axis = 0; axis < 4; ++axis) {
    const int64_t size = level.d[axis];
    const bool whole_known = axis < 2 ? full.d[axis] > 0 : known;
    if (size == 0 || (size > 1 && whole_known && size != full.d[axis])) {
      return "level is " + text(level) + "; each size must be 1 or that of " + text(full);
    }
  }
  return "";
}

void AttentionOp::output_shape(const Fields&, const nvinfer1::DimsExprs* inputs,
                               nvinfer1::DimsExprs* output, nvinfer1::IExprBuilder&) {
  *output = inputs[0];
}

std::vector<Call> AttentionOp::extremes(const Fields& fields, const Call& least, const Call& most) {
  const TokenLayout& layout = fields.layout;
  std::vector<Call> calls;
  for (int64_t frames : frame_counts(layout, least.inputs[0].d[2], most.inputs[0].d[2])) {
    Call call = most;
    Dims& q = call.inputs[0];
    q.d[2] = frames * layout.frame_tokens + layout.trailing_tokens;
    if (q.d[2] < 1) continue;
    call.inputs[1] = call.inputs[2] = q;
    const Dims full = full_level(layout, q, frames * layout.frame_patches());
    Dims& level = call.inputs[3];
    for (int axis = 0; axis < 4; ++axis) {
      level.d[axis] = most.inputs[3].d[axis] == 1 ? 1 : full.d[axis];
    }
    calls.push_back(call);
    // A size that may also be 1 at run time.
    for (int axis = 0; axis < 4; ++axis) {
      if (least.inputs[3].d[axis] <= 1) level.d[axis] = 1;
    }
    calls.push_back(call);
  }
  return calls;
}

std::vector<int32_t> AttentionOp::tactics(const Fields& fields, const Call& most) {
  // There is a choice to be timed only where the tile table has two entries for the GPU and head
  // size; the second computes part of the exponentials on the FMA pipe.
  const std::vector<Call> all = extremes(fields, most, most);
  if (all.empty()) return {};
  std::vector<int32_t> found;
  for (int32_t kernel : {kCovisKernelHopper, kCovisKernelHopperPolynomial}) {
    Call call = all.front();
    call.tactic = kernel;
    uint64_t bytes = 0;
    std::string error;
    if (query_workspace(fields, call, &bytes, &error) == kCovisOk) found.push_back(kernel);
  }
  return found.size() == 2 ? found : std::vector<int32_t>{};
}

std::string AttentionOp::workspace(const Fields& fields, const Call& call, uint64_t* bytes) {
  std::string error;
  query_workspace(fields, call, bytes, &error);
  return error;
}

std::string AttentionOp::launch(const Fields& fields, const Call& call, uint64_t bytes,
                                void* stream) {
  if (!kernels().error.empty()) return kernels().error;
  CovisAttentionParams p = params_of(fields, call);
  p.q = call.in[0], p.k = call.in[1], p.v = call.in[2];
  p.level = static_cast<const int8_t*>(call.in[3]);
  p.o = call.out[0];
  p.workspace = call.workspace;
  p.workspace_bytes = bytes;
  char message[kMessage] = "";
  const int status = kernels().attention_launch(&p, stream, message, sizeof(message));
  return status == kCovisOk ? "" : message;
}

}  // namespace covis::trt
