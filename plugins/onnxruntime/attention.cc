#include "block_sparse_attention/cpu/attention.h"

#include <cmath>

#include "onnxruntime/custom_op.h"

namespace covis::ort {

namespace {

constexpr auto kOwnType = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;

struct BlockSparseAttention {
  static constexpr const char* kName = "BlockSparseAttention";
  static constexpr ONNXTensorElementDataType kInputTypes[] = {kOwnType, kOwnType, kOwnType,
                                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8};
  static constexpr ONNXTensorElementDataType kOutputType = kOwnType;

  DataType type;
  TokenLayout layout;
  float scale = 0.0f;

  static OrtStatus* create(DataType type, const OrtKernelInfo* info, BlockSparseAttention** made) {
    BlockSparseAttention op{type, {}, 0.0f};
    std::string error = layout_attributes(info, op.layout);
    if (error.empty()) error = attribute(info, "scale", op.scale);
    if (error.empty()) error = check_layout(op.layout);
    if (error.empty()) error = check_scale(op.scale);
    if (!error.empty()) return failure(kName, error);
    *made = new BlockSparseAttention(op);
    return nullptr;
  }

  OrtStatus* compute(OrtKernelContext* context) const {
    Tensor q, k, v, level;
    COVIS_RETURN_IF_FAILED(input(context, 0, q));
    COVIS_RETURN_IF_FAILED(input(context, 1, k));
    COVIS_RETURN_IF_FAILED(input(context, 2, v));
    COVIS_RETURN_IF_FAILED(input(context, 3, level));
    std::string error = check_tokens({{"Q", &q}, {"K", &k}, {"V", &v}}, layout);
    if (!error.empty()) return failure(kName, error);
    if (level.shape.size() != 4) {
      return failure(kName, "input level is " + text(level.shape) + ", must be (b, h, Rq, Rk)");
    }
    AttentionParams p;
    p.type = type;
    p.batch = q.shape[0], p.heads = q.shape[1], p.tokens = q.shape[2], p.head_size = q.shape[3];
    p.query = q.data, p.key = k.data, p.value = v.data;
    p.level = static_cast<const int8_t*>(level.data);
    p.level_batch = level.shape[0], p.level_heads = level.shape[1];
    p.level_rows = level.shape[2], p.level_columns = level.shape[3];
    p.layout = layout;
    p.scale = scale;
    error = check_attention(p);
    if (!error.empty()) return failure(kName, error);
    COVIS_RETURN_IF_FAILED(output(context, 0, q.shape, &p.output));
    Threads threads{context};
    error = block_sparse_attention(p, threads.parallel_for());
    if (threads.failed != nullptr) return threads.failed;
    return error.empty() ? nullptr : failure(kName, error);
  }

  // O has the shape of Q, names of dimensions included.
  static OrtStatus* infer(OrtShapeInferContext* context, ONNXTensorElementDataType) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    COVIS_RETURN_IF_FAILED(api->ShapeInferContext_GetInputTypeShape(context, 0, &info));
    size_t rank = 0;
    COVIS_RETURN_IF_FAILED(api->GetDimensionsCount(info, &rank));
    std::vector<int64_t> shape(rank);
    std::vector<const char*> names(rank);
    COVIS_RETURN_IF_FAILED(api->GetDimensions(info, shape.data(), rank));
    COVIS_RETURN_IF_FAILED(api->GetSymbolicDimensions(info, names.data(), rank));
    for (size_t i = 0; i < rank; ++i) {
      if (!is_named(shape[i], names[i])) return nullptr;
    }
    if (rank == 0) return nullptr;  // the shape is unknown
    return api->ShapeInferContext_SetOutputTypeShape(context, 0, info);
  }
};

}  // namespace

const OrtCustomOp* attention_op(int type) { return typed_op<BlockSparseAttention>(type); }

}  // namespace covis::ort
