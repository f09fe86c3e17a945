#include "block_select/cpu/select.h"

#include "onnxruntime/custom_op.h"

namespace covis::ort {

namespace {

constexpr auto kOwnType = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;

struct BlockSelect {
  static constexpr const char* kName = "BlockSelect";
  static constexpr ONNXTensorElementDataType kInputTypes[] = {
      kOwnType, kOwnType, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8, kFloat, kFloat};
  static constexpr ONNXTensorElementDataType kOutputType = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;

  DataType type;
  TokenLayout layout;
  Pool pool;

  static OrtStatus* create(DataType type, const OrtKernelInfo* info, BlockSelect** made) {
    TokenLayout layout = kSelectDefaults;
    std::string error = layout_attributes(info, layout);
    std::string pool = "mean";
    if (error.empty()) error = attribute(info, "pool", pool);
    if (error.empty()) error = check_layout(layout);
    if (error.empty() && pool != "mean" && pool != "max") {
      error = "attribute pool is '" + pool + "', must be 'mean' or 'max'";
    }
    if (!error.empty()) return failure(kName, error);
    *made = new BlockSelect{type, layout, pool == "mean" ? Pool::kMean : Pool::kMax};
    return nullptr;
  }

  OrtStatus* compute(OrtKernelContext* context) const {
    Tensor q, k, pair, keep_ratio, cdf;
    COVIS_RETURN_IF_FAILED(input(context, 0, q));
    COVIS_RETURN_IF_FAILED(input(context, 1, k));
    COVIS_RETURN_IF_FAILED(input(context, 2, pair));
    COVIS_RETURN_IF_FAILED(input(context, 3, keep_ratio));
    COVIS_RETURN_IF_FAILED(input(context, 4, cdf));
    std::string error = check_tokens({{"Q", &q}, {"K", &k}}, layout);
    if (error.empty()) error = check_pair(pair);
    if (error.empty()) error = check_scalar("keep_ratio", keep_ratio);
    if (error.empty()) error = check_scalar("cdf", cdf);
    if (!error.empty()) return failure(kName, error);
    SelectParams p;
    p.type = type;
    p.batch = q.shape[0], p.heads = q.shape[1], p.tokens = q.shape[2], p.head_size = q.shape[3];
    p.query = q.data, p.key = k.data;
    p.pair = static_cast<const int8_t*>(pair.data);
    p.pair_rows = pair.shape[2], p.pair_columns = pair.shape[3];
    p.keep_ratio = *static_cast<const float*>(keep_ratio.data);
    p.cdf = *static_cast<const float*>(cdf.data);
    p.layout = layout;
    p.pool = pool;
    error = check_select(p);
    if (!error.empty()) return failure(kName, error);
    void* level = nullptr;
    COVIS_RETURN_IF_FAILED(
        output(context, 0,
               {p.batch, p.heads, layout.q_regions(p.tokens), layout.k_regions(p.tokens)}, &level));
    p.level = static_cast<int8_t*>(level);
    Threads threads{context};
    error = block_select(p, threads.parallel_for());
    if (threads.failed != nullptr) return threads.failed;
    return error.empty() ? nullptr : failure(kName, error);
  }

  static std::string check_pair(const Tensor& pair) {
    if (pair.shape.size() == 4 && pair.shape[0] == 1 && pair.shape[1] == 1) return {};
    return "input pair is " + text(pair.shape) + ", must be (1, 1, M, M) or (1, 1, 1, 1)";
  }

  static std::string check_scalar(const char* name, const Tensor& value) {
    if (value.shape.empty() || value.shape == std::vector<int64_t>{1}) return {};
    return std::string("input ") + name + " is " + text(value.shape) + ", must be a scalar";
  }

  // (batch, heads, q_regions, k_regions). Where the number of tokens is only a symbolic name, the
  // names of the regions consist of it and of the layout, so that equal names mean equal sizes.
  static OrtStatus* infer(OrtShapeInferContext* context, ONNXTensorElementDataType type) {
    OrtTensorTypeAndShapeInfo* q = nullptr;
    COVIS_RETURN_IF_FAILED(api->ShapeInferContext_GetInputTypeShape(context, 0, &q));
    size_t rank = 0;
    COVIS_RETURN_IF_FAILED(api->GetDimensionsCount(q, &rank));
    if (rank == 0) return nullptr;  // the shape is unknown
    if (rank != 4) return failure(kName, "input Q has rank " + std::to_string(rank) + ", not 4");
    std::vector<int64_t> shape(rank);
    std::vector<const char*> names(rank);
    COVIS_RETURN_IF_FAILED(api->GetDimensions(q, shape.data(), rank));
    COVIS_RETURN_IF_FAILED(api->GetSymbolicDimensions(q, names.data(), rank));
    for (size_t i = 0; i < 3; ++i) {
      if (shape[i] < 1 && names[i][0] == '\0') return nullptr;
    }
    TokenLayout layout = kSelectDefaults;
    layout_attributes(context, layout);
    if (!check_layout(layout).empty()) return nullptr;  // reported by create()
    const int64_t tokens = shape[2];
    std::string rows, columns;
    if (tokens > 0) {
      if (!covis::check_tokens(layout, tokens).empty()) return nullptr;  // reported by the run
      shape[2] = layout.q_regions(tokens);
      shape[3] = layout.k_regions(tokens);
    } else {
      const std::string sequence = std::string(names[2]) + "_" +
                                   std::to_string(layout.frame_tokens) + "_" +
                                   std::to_string(layout.frame_patches()) + "_" +
                                   std::to_string(layout.trailing_tokens) + "_";
      rows = "regions_" + sequence + std::to_string(layout.q_block);
      columns = "regions_" + sequence + std::to_string(layout.k_block);
      shape[2] = shape[3] = -1;
    }
    names[2] = rows.c_str();
    names[3] = columns.c_str();
    OrtTensorTypeAndShapeInfo* level = nullptr;
    COVIS_RETURN_IF_FAILED(api->CreateTensorTypeAndShapeInfo(&level));
    OrtStatus* status = api->SetTensorElementType(level, type);
    if (status == nullptr) status = api->SetDimensions(level, shape.data(), rank);
    if (status == nullptr) status = api->SetSymbolicDimensions(level, names.data(), rank);
    if (status == nullptr) {
      status = api->ShapeInferContext_SetOutputTypeShape(context, 0, level);
    }
    api->ReleaseTensorTypeAndShapeInfo(level);
    return status;
  }
};

}  // namespace

const OrtCustomOp* select_op(int type) { return typed_op<BlockSelect>(type); }

}  // namespace covis::ort
