// TensorRT's interfaces for sizes, as plain numbers: a size is known or -1.
#pragma once

#include <NvInferImpl.h>
#include <NvInferRuntime.h>

#include <algorithm>
#include <deque>

namespace covis::test {

class Size final : public nvinfer1::IDimensionExpr, public nvinfer1::apiv::VDimensionExpr {
 public:
  explicit Size(int64_t value) : value_(value) { nvinfer1::IDimensionExpr::mImpl = this; }
  bool isConstant() const override { return value_ >= 0; }
  int64_t getConstantValue() const override { return value_; }
  bool isSizeTensor() const override { return false; }

 private:
  int64_t value_;
};

class Sizes final : public nvinfer1::IExprBuilder, public nvinfer1::apiv::VExprBuilder {
 public:
  Sizes() { nvinfer1::IExprBuilder::mImpl = this; }
  const nvinfer1::IDimensionExpr* constant(int64_t value) override {
    return &made_.emplace_back(value);
  }
  const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation op,
                                            const nvinfer1::IDimensionExpr& first,
                                            const nvinfer1::IDimensionExpr& second) override {
    using Op = nvinfer1::DimensionOperation;
    if (!first.isConstant() || !second.isConstant()) return constant(-1);
    const int64_t a = first.getConstantValue();
    const int64_t b = second.getConstantValue();
    switch (op) {
      case Op::kSUM: return constant(a + b);
      case Op::kPROD: return constant(a * b);
      case Op::kMAX: return constant(std::max(a, b));
      case Op::kMIN: return constant(std::min(a, b));
      case Op::kSUB: return constant(a - b);
      case Op::kEQUAL: return constant(a == b);
      case Op::kLESS: return constant(a < b);
      case Op::kFLOOR_DIV: return constant(a / b);
      case Op::kCEIL_DIV: return constant((a + b - 1) / b);
    }
    return constant(-1);
  }
  const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                    const nvinfer1::IDimensionExpr&) override {
    return nullptr;
  }

  nvinfer1::DimsExprs of(const nvinfer1::Dims& dims) {
    nvinfer1::DimsExprs sizes;
    sizes.nbDims = dims.nbDims;
    for (int i = 0; i < dims.nbDims; ++i) sizes.d[i] = constant(dims.d[i]);
    return sizes;
  }
  static nvinfer1::Dims values(const nvinfer1::DimsExprs& sizes) {
    nvinfer1::Dims dims{sizes.nbDims, {}};
    for (int i = 0; i < sizes.nbDims; ++i) {
      dims.d[i] = sizes.d[i]->isConstant() ? sizes.d[i]->getConstantValue() : -1;
    }
    return dims;
  }

 private:
  std::deque<Size> made_;
};

}  // namespace covis::test
