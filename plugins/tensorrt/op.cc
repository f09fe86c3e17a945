#include "tensorrt/op.h"

#include <algorithm>

namespace covis::trt {

const char* type_name(DataType type) {
  switch (type) {
    case DataType::kFLOAT: return "float32";
    case DataType::kHALF: return "float16";
    case DataType::kBF16: return "bfloat16";
    case DataType::kINT8: return "int8";
    case DataType::kINT32: return "int32";
    case DataType::kINT64: return "int64";
    case DataType::kBOOL: return "bool";
    case DataType::kUINT8: return "uint8";
    case DataType::kFP8: return "float8";
    default: return "another type";
  }
}

std::string text(const Dims& dims) {
  std::string line = "(";
  for (int i = 0; i < dims.nbDims && i < Dims::MAX_DIMS; ++i) {
    line += i == 0 ? "" : ", ";
    line += dims.d[i] < 0 ? "?" : std::to_string(dims.d[i]);
  }
  return line + ")";
}

std::string check_tokens(const TokenLayout& layout, const std::vector<Dims>& inputs,
                         const char* const* names, int count) {
  for (int i = 0; i < count; ++i) {
    if (inputs[i].nbDims != 4) {
      return std::string(names[i]) + " is " + text(inputs[i]) + ", must be (B, H, S, D)";
    }
    for (int axis = 0; axis < 4; ++axis) {
      const int64_t here = inputs[i].d[axis];
      const int64_t first = inputs[0].d[axis];
      if (here == 0 || (here > 0 && first > 0 && here != first)) {
        return std::string(names[i]) + " is " + text(inputs[i]) + ", " + names[0] + " is " +
               text(inputs[0]) + "; they must be equal and not empty";
      }
    }
  }
  const int64_t tokens = inputs[0].d[2];
  if (tokens > 0 && !layout.divides(tokens)) {
    return std::to_string(tokens) + " tokens are not frames of frame_tokens " +
           std::to_string(layout.frame_tokens) + " and trailing_tokens " +
           std::to_string(layout.trailing_tokens);
  }
  return "";
}

std::vector<int64_t> frame_counts(const TokenLayout& layout, int64_t least, int64_t most) {
  constexpr int64_t kTried = 1024;
  const auto frames = [&](int64_t tokens, int64_t up) {
    return std::max<int64_t>(tokens - layout.trailing_tokens + up, 0) / layout.frame_tokens;
  };
  // A bound that is not a whole number of frames is rounded outwards.
  const int64_t last = frames(most, layout.frame_tokens - 1);
  const int64_t first = std::min(frames(least, 0), last);
  const int64_t step = std::max<int64_t>((last - first) / kTried, 1);
  std::vector<int64_t> counts;
  for (int64_t n = first; n < last; n += step) counts.push_back(n);
  counts.push_back(last);
  return counts;
}

}  // namespace covis::trt
