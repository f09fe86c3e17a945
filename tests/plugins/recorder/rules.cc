#include "rules.h"

#include <algorithm>
#include <cstring>

namespace covis::test {
namespace {

using nvinfer1::ElementWiseOperation;
using nvinfer1::UnaryOperation;
using Values = std::vector<double>;

bool is_integer(DataType type) {
  return type == DataType::kINT32 || type == DataType::kINT64 || type == DataType::kBOOL ||
         type == DataType::kINT8 || type == DataType::kUINT8;
}

void same_types(const Node& node, size_t first, size_t second) {
  const DataType a = node.in(first).type;
  const DataType b = node.in(second).type;
  if (a != b) node.issue(std::string("types ") + type_name(a) + " and " + type_name(b));
}

void same_ranks(const Node& node, size_t first, size_t second) {
  const Dims& a = node.in(first).dims;
  const Dims& b = node.in(second).dims;
  if (a.nbDims != b.nbDims) node.issue("ranks of " + text(a) + " and " + text(b));
}

double at(const Values& values, size_t i) { return values.size() == 1 ? values[0] : values[i]; }

// Sizes that a tensor holds or, where it is absent, `otherwise`.
Dims sizes(const Node& node, size_t input, const Dims& otherwise) {
  if (!node.has(input)) return otherwise;
  const Tensor& tensor = node.in(input);
  if (tensor.values) return dims_of(*tensor.values);
  Dims unknown{static_cast<int32_t>(std::max<int64_t>(volume(tensor.dims), 0)), {}};
  std::fill(unknown.d, unknown.d + unknown.nbDims, -1);
  return unknown;
}

template <typename T>
Values read(const nvinfer1::Weights& weights) {
  const auto* data = static_cast<const T*>(weights.values);
  return Values(data, data + weights.count);
}

}  // namespace

void same_as_input(Node& node) {
  node.out().dims = node.in(0).dims;
  node.out().type = node.in(0).type;
  node.out().values = node.in(0).values;
}

void infer_constant(Node& node, const recorded::ConstantLayer& p) {
  const nvinfer1::Weights& weights = p.x_Weights;
  node.out().dims = p.x_Dimensions;
  node.out().type = weights.type;
  if (weights.count > kMostValues || weights.values == nullptr) return;
  switch (weights.type) {
    case DataType::kINT32: node.out().values = read<int32_t>(weights); break;
    case DataType::kINT64: node.out().values = read<int64_t>(weights); break;
    case DataType::kBOOL: node.out().values = read<bool>(weights); break;
    case DataType::kFLOAT: node.out().values = read<float>(weights); break;
    default: break;
  }
}

void infer_shape(Node& node) {
  const Dims& dims = node.in(0).dims;
  node.out().dims = Dims{1, {dims.nbDims}};
  node.out().type = DataType::kINT64;
  Values values;
  for (int i = 0; i < dims.nbDims; ++i) values.push_back(dims.d[i] < 0 ? kUnknown : dims.d[i]);
  node.out().values = values;
}

void infer_cast(Node& node, DataType type) {
  same_as_input(node);
  node.out().type = type;
  if (!node.out().values) return;
  for (double& value : *node.out().values) {
    if (is_integer(type)) value = type == DataType::kBOOL ? value != 0 : std::trunc(value);
  }
}

void infer_elementwise(Node& node, const recorded::ElementWiseLayer& p) {
  same_types(node, 0, 1);
  same_ranks(node, 0, 1);
  const Tensor& a = node.in(0);
  const Tensor& b = node.in(1);
  const auto op = p.x_Operation;
  const bool logical = op == ElementWiseOperation::kEQUAL || op == ElementWiseOperation::kGREATER ||
                       op == ElementWiseOperation::kLESS || op == ElementWiseOperation::kAND ||
                       op == ElementWiseOperation::kOR || op == ElementWiseOperation::kXOR;
  node.out().dims = broadcast(a.dims, b.dims);
  node.out().type = logical ? DataType::kBOOL : a.type;
  node.out().values.reset();
  const int64_t count = volume(node.out().dims);
  const auto fits = [&](const Tensor& t) {
    return t.values && (t.values->size() == 1 || int64_t(t.values->size()) == count);
  };
  if (!fits(a) || !fits(b)) return;
  Values made;
  for (size_t i = 0; i < size_t(count); ++i) {
    const double x = at(*a.values, i);
    const double y = at(*b.values, i);
    double z = kUnknown;
    switch (op) {
      case ElementWiseOperation::kSUM: z = x + y; break;
      case ElementWiseOperation::kPROD: z = x * y; break;
      case ElementWiseOperation::kMAX: z = x >= y ? x : y > x ? y : kUnknown; break;
      case ElementWiseOperation::kMIN: z = x <= y ? x : y < x ? y : kUnknown; break;
      case ElementWiseOperation::kSUB: z = x - y; break;
      case ElementWiseOperation::kDIV: z = is_integer(a.type) ? std::trunc(x / y) : x / y; break;
      case ElementWiseOperation::kPOW: z = std::pow(x, y); break;
      case ElementWiseOperation::kFLOOR_DIV: z = std::floor(x / y); break;
      case ElementWiseOperation::kAND: z = x != 0 && y != 0; break;
      case ElementWiseOperation::kOR: z = x != 0 || y != 0; break;
      case ElementWiseOperation::kXOR: z = (x != 0) != (y != 0); break;
      case ElementWiseOperation::kEQUAL: z = x == y; break;
      case ElementWiseOperation::kGREATER: z = x > y; break;
      case ElementWiseOperation::kLESS: z = x < y; break;
    }
    made.push_back(std::isnan(x) || std::isnan(y) ? kUnknown : z);
  }
  node.out().values = made;
}

void infer_unary(Node& node, const recorded::UnaryLayer& p) {
  same_as_input(node);
  const auto op = p.x_Operation;
  if (op == UnaryOperation::kISINF || op == UnaryOperation::kISNAN) {
    node.out().type = DataType::kBOOL;
  }
  if (!node.out().values) return;
  for (double& x : *node.out().values) {
    x = op == UnaryOperation::kNEG     ? -x
        : op == UnaryOperation::kABS   ? std::fabs(x)
        : op == UnaryOperation::kCEIL  ? std::ceil(x)
        : op == UnaryOperation::kFLOOR ? std::floor(x)
        : op == UnaryOperation::kSQRT  ? std::sqrt(x)
        : op == UnaryOperation::kNOT && !std::isnan(x) ? x == 0
                                                       : kUnknown;
  }
}

void infer_select(Node& node) {
  same_types(node, 1, 2);
  same_ranks(node, 0, 1);
  same_ranks(node, 1, 2);
  const Tensor& condition = node.in(0);
  if (condition.type != DataType::kBOOL) node.issue("a condition that is no bool");
  node.out().dims = broadcast(broadcast(node.in(1).dims, node.in(2).dims), condition.dims);
  node.out().type = node.in(1).type;
  node.out().values.reset();
  const Values* const parts[3] = {condition.values ? &*condition.values : nullptr,
                                  node.in(1).values ? &*node.in(1).values : nullptr,
                                  node.in(2).values ? &*node.in(2).values : nullptr};
  const int64_t count = volume(node.out().dims);
  for (const Values* part : parts) {
    if (part == nullptr || (part->size() != 1 && int64_t(part->size()) != count)) return;
  }
  Values made;
  for (size_t i = 0; i < size_t(count); ++i) {
    const double choice = at(*parts[0], i);
    made.push_back(std::isnan(choice) ? kUnknown : at(*parts[choice != 0 ? 1 : 2], i));
  }
  node.out().values = made;
}

void infer_shuffle(Node& node, const recorded::ShuffleLayer& p) {
  const Tensor& in = node.in(0);
  const auto transpose = [](const Dims& dims, const nvinfer1::Permutation& order) {
    Dims turned = dims;
    for (int i = 0; i < dims.nbDims; ++i) turned.d[i] = dims.d[order.order[i]];
    return turned;
  };
  const Dims first = p.has_FirstTranspose ? transpose(in.dims, p.x_FirstTranspose) : in.dims;
  Dims made = first;
  if (p.has_ReshapeDimensions || node.has(1)) {
    made = sizes(node, 1, p.x_ReshapeDimensions);
    const bool zeros = !p.has_ZeroIsPlaceholder || p.x_ZeroIsPlaceholder;
    for (int i = 0; i < made.nbDims; ++i) {
      if (made.d[i] == 0 && zeros && i < first.nbDims) made.d[i] = first.d[i];
    }
    // One size may be left to the rest. (In a tensor of sizes -1 is also what is not known; both
    // are found the same way where it is the only one.)
    const auto open = std::count(made.d, made.d + made.nbDims, -1);
    Dims rest = made;
    std::replace(rest.d, rest.d + rest.nbDims, int64_t{-1}, int64_t{1});
    if (open == 1 && volume(first) >= 0 && volume(rest) > 0) {
      *std::find(made.d, made.d + made.nbDims, -1) = volume(first) / volume(rest);
    }
    if (volume(made) >= 0 && volume(first) >= 0 && volume(made) != volume(first)) {
      node.issue("reshapes " + text(first) + " to " + text(made));
    }
  }
  node.out().dims = p.has_SecondTranspose ? transpose(made, p.x_SecondTranspose) : made;
  node.out().type = in.type;
  const bool ordered = (!p.has_FirstTranspose || in.dims.nbDims < 2) &&
                       (!p.has_SecondTranspose || made.nbDims < 2);
  node.out().values = ordered ? in.values : std::nullopt;
}

void infer_slice(Node& node, const recorded::SliceLayer& p) {
  const Tensor& in = node.in(0);
  const Dims start = sizes(node, 1, p.x_Start);
  const Dims size = sizes(node, 2, p.x_Size);
  const Dims stride = sizes(node, 3, p.x_Stride);
  const Dims axes = sizes(node, 5, p.x_Axes);
  node.out().type = in.type;
  node.out().dims = size;
  if (axes.nbDims > 0) {
    node.out().dims = in.dims;
    for (int i = 0; i < axes.nbDims; ++i) node.out().dims.d[axes.d[i]] = size.d[i];
  }
  node.out().values.reset();
  if (!in.values || in.dims.nbDims != 1 || size.nbDims != 1 || size.d[0] < 0) return;
  Values made;
  for (int64_t i = 0; i < size.d[0]; ++i) {
    const int64_t index = start.d[0] + i * stride.d[0];
    const bool inside = index >= 0 && index < int64_t(in.values->size());
    made.push_back(inside ? (*in.values)[index] : kUnknown);
  }
  node.out().values = made;
}

void infer_concatenation(Node& node, const recorded::ConcatenationLayer& p) {
  node.out().dims = node.in(0).dims;
  node.out().type = node.in(0).type;
  Dims& dims = node.out().dims;
  Values made;
  bool known = dims.nbDims == 1;
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    same_types(node, 0, i);
    same_ranks(node, 0, i);
    const Tensor& part = node.in(i);
    known = known && part.values;
    if (known) made.insert(made.end(), part.values->begin(), part.values->end());
    if (i == 0) continue;
    int64_t& joined = dims.d[p.x_Axis];
    const int64_t more = part.dims.d[p.x_Axis];
    joined = joined < 0 || more < 0 ? -1 : joined + more;
    for (int axis = 0; axis < dims.nbDims; ++axis) {
      if (axis != p.x_Axis && dims.d[axis] < 0) dims.d[axis] = part.dims.d[axis];
    }
  }
  node.out().values = known ? std::optional<Values>(made) : std::nullopt;
}

void infer_gather(Node& node, const recorded::GatherLayer& p) {
  const Dims& data = node.in(0).dims;
  const Dims& indices = node.in(1).dims;
  Dims& out = node.out().dims;
  node.out().type = node.in(0).type;
  node.out().values.reset();
  out = Dims{0, {}};
  const auto push = [&](int64_t size) { out.d[out.nbDims++] = size; };
  if (p.x_Mode == nvinfer1::GatherMode::kELEMENT) {
    out = indices;
  } else if (p.x_Mode == nvinfer1::GatherMode::kND) {
    for (int i = 0; i + 1 < indices.nbDims; ++i) push(indices.d[i]);
    const int64_t depth = indices.d[indices.nbDims - 1];
    for (int i = int(p.x_NbElementWiseDims + depth); i < data.nbDims; ++i) push(data.d[i]);
  } else {
    for (int i = 0; i < p.x_GatherAxis; ++i) push(data.d[i]);
    for (int i = p.x_NbElementWiseDims; i < indices.nbDims; ++i) push(indices.d[i]);
    for (int i = p.x_GatherAxis + 1; i < data.nbDims; ++i) push(data.d[i]);
    if (data.nbDims != 1 || !node.in(0).values || !node.in(1).values) return;
    Values made;
    for (double index : *node.in(1).values) {
      const double place = index < 0 ? index + double(node.in(0).values->size()) : index;
      const bool inside = place >= 0 && place < double(node.in(0).values->size());
      made.push_back(inside ? (*node.in(0).values)[size_t(place)] : kUnknown);
    }
    node.out().values = made;
  }
}

void infer_reduce(Node& node, const recorded::ReduceLayer& p) {
  const Tensor& in = node.in(0);
  Dims out{0, {}};
  for (int i = 0; i < in.dims.nbDims; ++i) {
    const bool reduced = p.x_ReduceAxes >> i & 1;
    if (!reduced || p.x_KeepDimensions) out.d[out.nbDims++] = reduced ? 1 : in.dims.d[i];
  }
  node.out().dims = out;
  node.out().type = in.type;
  node.out().values.reset();
  if (!in.values || volume(out) != 1) return;
  double made = p.x_Operation == nvinfer1::ReduceOperation::kPROD ? 1.0 : 0.0;
  for (double value : *in.values) {
    made = p.x_Operation == nvinfer1::ReduceOperation::kPROD  ? made * value
           : p.x_Operation == nvinfer1::ReduceOperation::kSUM ? made + value
                                                              : kUnknown;
  }
  node.out().values = Values{made};
}

void infer_matrix(Node& node, const nvinfer1::MatrixOperation (&op)[2]) {
  same_types(node, 0, 1);
  Dims a = node.in(0).dims;
  Dims b = node.in(1).dims;
  using Op = nvinfer1::MatrixOperation;
  if (op[0] == Op::kVECTOR || op[1] == Op::kVECTOR) {
    node.issue("a product of vectors, which the recorder does not follow");
  }
  same_ranks(node, 0, 1);
  if (a.nbDims < 2 || b.nbDims != a.nbDims) return;
  const int rows = a.nbDims - 2;
  if (op[0] == Op::kTRANSPOSE) std::swap(a.d[rows], a.d[rows + 1]);
  if (op[1] == Op::kTRANSPOSE) std::swap(b.d[rows], b.d[rows + 1]);
  if (a.d[rows + 1] >= 0 && b.d[rows] >= 0 && a.d[rows + 1] != b.d[rows]) {
    node.issue("multiplies " + text(a) + " by " + text(b));
  }
  node.out().dims = broadcast(a, b);
  node.out().dims.d[rows] = a.d[rows];
  node.out().dims.d[rows + 1] = b.d[rows + 1];
  node.out().type = node.in(0).type;
}

void infer_fill(Node& node, const recorded::FillLayer& p) {
  node.out().dims = sizes(node, 0, p.x_Dimensions);
  node.out().type = p.x_ToType;
}

void infer_topk(Node& node, const recorded::TopKLayer& p) {
  const Tensor& in = node.in(0);
  int64_t k = p.x_K;
  if (node.has(1)) {
    const Tensor& given = node.in(1);
    const bool known = given.values && !std::isnan((*given.values)[0]);
    k = known ? static_cast<int64_t>((*given.values)[0]) : -1;
  }
  for (int i = 0; i < 2; ++i) {
    node.out(i).dims = in.dims;
    for (int axis = 0; axis < in.dims.nbDims; ++axis) {
      if (p.x_ReduceAxes >> axis & 1) node.out(i).dims.d[axis] = k;
    }
  }
  node.out(0).type = in.type;
  node.out(1).type = DataType::kINT32;
#ifdef COVIS_HAS_addTopKV2
  if (p.has_IndicesType) node.out(1).type = p.x_IndicesType;
#endif
}

void infer_resize(Node& node, const recorded::ResizeLayer& p, const std::vector<float>& scales) {
  same_as_input(node);
  Dims& dims = node.out().dims;
  for (size_t i = 0; i < scales.size(); ++i) {
    if (dims.d[i] >= 0) dims.d[i] = static_cast<int64_t>(double(dims.d[i]) * double(scales[i]));
  }
  if (p.has_OutputDimensions || node.has(1)) dims = sizes(node, 1, p.x_OutputDimensions);
}

void infer_squeeze(Node& node, bool insert) {
  const Tensor& in = node.in(0);
  const Dims axes = sizes(node, 1, Dims{});
  const int rank = in.dims.nbDims + (insert ? axes.nbDims : 0);
  std::vector<bool> named(rank, false);
  for (int i = 0; i < axes.nbDims; ++i) named[axes.d[i] < 0 ? axes.d[i] + rank : axes.d[i]] = true;
  Dims out{0, {}};
  int from = 0;
  for (int i = 0; i < rank; ++i) {
    if (insert) {
      out.d[out.nbDims++] = named[i] ? 1 : in.dims.d[from++];
    } else if (!named[i]) {
      out.d[out.nbDims++] = in.dims.d[i];
    }
  }
  node.out().dims = out;
  node.out().type = in.type;
  node.out().values = in.values;
}

}  // namespace covis::test
