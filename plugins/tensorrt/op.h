// The functions of an op that plugin.h calls: types, shapes, and calls of the kernels. No state, no
// TensorRT objects; every function returns "" or an error with names and values.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tensorrt/fields.h"

namespace covis::trt {

using nvinfer1::DataType;
using nvinfer1::Dims;

const char* type_name(DataType type);
std::string text(const Dims& dims);  // "(2, ?, 64)"; -1 is unknown

// The tensors of one call. Pointers are null while shapes are only being checked.
struct Call {
  std::vector<Dims> inputs;
  std::vector<DataType> types;  // of the inputs
  int32_t tactic = 0;
  const void* const* in = nullptr;
  void* const* out = nullptr;
  void* workspace = nullptr;
};

struct AttentionOp {
  using Fields = AttentionFields;
  static constexpr int kInputs = 4;
  static constexpr const char* kInputNames[kInputs] = {"Q", "K", "V", "level"};

  // Whether input or output `pos` may have its type, given those before it.
  static bool fits(int pos, const DataType* types);
  static std::string check_types(const DataType* inputs);
  static DataType output_type(const DataType* inputs) { return inputs[0]; }
  // Sizes of -1 are unknown yet and are not checked.
  static std::string check_shapes(const Fields& fields, const std::vector<Dims>& inputs);
  static void output_shape(const Fields& fields, const nvinfer1::DimsExprs* inputs,
                           nvinfer1::DimsExprs* output, nvinfer1::IExprBuilder& builder);
  // Every set of sizes within (least, most) whose workspace may be the largest.
  static std::vector<Call> extremes(const Fields& fields, const Call& least, const Call& most);
  static std::vector<int32_t> tactics(const Fields& fields, const Call& most);
  static std::string workspace(const Fields& fields, const Call& call, uint64_t* bytes);
  static std::string launch(const Fields& fields, const Call& call, uint64_t bytes, void* stream);
};

struct SelectOp {
  using Fields = SelectFields;
  static constexpr int kInputs = 5;
  static constexpr const char* kInputNames[kInputs] = {"Q", "K", "pair", "keep_ratio", "cdf"};

  static bool fits(int pos, const DataType* types);
  static std::string check_types(const DataType* inputs);
  static DataType output_type(const DataType*) { return DataType::kINT8; }
  static std::string check_shapes(const Fields& fields, const std::vector<Dims>& inputs);
  static void output_shape(const Fields& fields, const nvinfer1::DimsExprs* inputs,
                           nvinfer1::DimsExprs* output, nvinfer1::IExprBuilder& builder);
  static std::vector<Call> extremes(const Fields& fields, const Call& least, const Call& most);
  static std::vector<int32_t> tactics(const Fields&, const Call&) { return {}; }
  static std::string workspace(const Fields& fields, const Call& call, uint64_t* bytes);
  static std::string launch(const Fields& fields, const Call& call, uint64_t bytes, void* stream);
};

struct FarthestOp {
  using Fields = FarthestFields;
  static constexpr int kInputs = 3;
  static constexpr const char* kInputNames[kInputs] = {"similarity", "given", "count"};

  static bool fits(int pos, const DataType* types);
  static std::string check_types(const DataType* inputs);
  static DataType output_type(const DataType*) { return DataType::kINT32; }
  static std::string check_shapes(const Fields& fields, const std::vector<Dims>& inputs);
  static void output_shape(const Fields& fields, const nvinfer1::DimsExprs* inputs,
                           nvinfer1::DimsExprs* output, nvinfer1::IExprBuilder& builder);
  static std::vector<Call> extremes(const Fields& fields, const Call& least, const Call& most);
  static std::vector<int32_t> tactics(const Fields&, const Call&) { return {}; }
  static std::string workspace(const Fields& fields, const Call& call, uint64_t* bytes);
  static std::string launch(const Fields& fields, const Call& call, uint64_t bytes, void* stream);
};

// Shared by the attention and its selector: Q, K (and V) have one shape (B, H, S, D), and S fits
// the layout.
std::string check_tokens(const TokenLayout& layout, const std::vector<Dims>& inputs,
                         const char* const* names, int count);
// The numbers of whole frames from `least` to `most` tokens at which sizes are tried: all of them
// up to a thousand, else evenly spread ones with both ends.
std::vector<int64_t> frame_counts(const TokenLayout& layout, int64_t least, int64_t most);

}  // namespace covis::trt
