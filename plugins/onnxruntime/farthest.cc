#include "farthest_first/cpu/farthest.h"

#include "onnxruntime/custom_op.h"

namespace covis::ort {

namespace {

struct FarthestFirst {
  static constexpr const char* kName = "FarthestFirst";
  static constexpr ONNXTensorElementDataType kInputTypes[] = {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
                                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
                                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64};
  static constexpr ONNXTensorElementDataType kOutputType = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;

  static OrtStatus* create(DataType, const OrtKernelInfo*, FarthestFirst** made) {
    *made = new FarthestFirst;
    return nullptr;
  }

  OrtStatus* compute(OrtKernelContext* context) const {
    Tensor similarity, given, count;
    COVIS_RETURN_IF_FAILED(input(context, 0, similarity));
    COVIS_RETURN_IF_FAILED(input(context, 1, given));
    COVIS_RETURN_IF_FAILED(input(context, 2, count));
    std::string error = check_shapes(similarity.shape, given.shape, count.shape);
    if (!error.empty()) return failure(kName, error);
    FarthestParams p;
    p.views = similarity.shape[0];
    p.similarity = static_cast<const float*>(similarity.data);
    p.given = static_cast<const int64_t*>(given.data);
    p.count = *static_cast<const int64_t*>(count.data);
    error = check_farthest(p);
    if (!error.empty()) return failure(kName, error);
    void* rank = nullptr;
    COVIS_RETURN_IF_FAILED(output(context, 0, {p.views}, &rank));
    p.rank = static_cast<int32_t*>(rank);
    error = farthest_first(p);
    return error.empty() ? nullptr : failure(kName, error);
  }

  using Shape = std::vector<int64_t>;
  static std::string check_shapes(const Shape& similarity, const Shape& given, const Shape& count) {
    if (similarity.size() != 2 || similarity[0] != similarity[1]) {
      return "input similarity is " + text(similarity) + ", must be (M, M)";
    }
    if (given != Shape{similarity[0]}) {
      return "input given is " + text(given) + ", must be " + text({similarity[0]});
    }
    if (!count.empty() && count != Shape{1}) {
      return "input count is " + text(count) + ", must be a scalar";
    }
    return {};
  }

  // (M): the first size of the similarity, or its symbolic name.
  static OrtStatus* infer(OrtShapeInferContext* context, ONNXTensorElementDataType type) {
    OrtTensorTypeAndShapeInfo* similarity = nullptr;
    COVIS_RETURN_IF_FAILED(api->ShapeInferContext_GetInputTypeShape(context, 0, &similarity));
    size_t rank = 0;
    COVIS_RETURN_IF_FAILED(api->GetDimensionsCount(similarity, &rank));
    if (rank == 0) return nullptr;  // the shape is unknown
    if (rank != 2) {
      return failure(kName, "input similarity has rank " + std::to_string(rank) + ", not 2");
    }
    int64_t shape[2];
    const char* names[2];
    COVIS_RETURN_IF_FAILED(api->GetDimensions(similarity, shape, 2));
    COVIS_RETURN_IF_FAILED(api->GetSymbolicDimensions(similarity, names, 2));
    if (!is_named(shape[0], names[0])) return nullptr;
    OrtTensorTypeAndShapeInfo* views = nullptr;
    COVIS_RETURN_IF_FAILED(api->CreateTensorTypeAndShapeInfo(&views));
    OrtStatus* status = api->SetTensorElementType(views, type);
    if (status == nullptr) status = api->SetDimensions(views, shape, 1);
    if (status == nullptr) status = api->SetSymbolicDimensions(views, names, 1);
    if (status == nullptr) status = api->ShapeInferContext_SetOutputTypeShape(context, 0, views);
    api->ReleaseTensorTypeAndShapeInfo(views);
    return status;
  }
};

}  // namespace

const OrtCustomOp* farthest_op() { return typed_op<FarthestFirst>(0); }

}  // namespace covis::ort
