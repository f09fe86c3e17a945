// Sizes, types and small numbers of each kind of layer, by TensorRT's documentation of it.
#pragma once

#include "graph.h"

namespace covis::test {

void same_as_input(Node& node);
void infer_constant(Node& node, const recorded::ConstantLayer& p);
void infer_shape(Node& node);
void infer_cast(Node& node, DataType type);
void infer_elementwise(Node& node, const recorded::ElementWiseLayer& p);
void infer_unary(Node& node, const recorded::UnaryLayer& p);
void infer_select(Node& node);
void infer_shuffle(Node& node, const recorded::ShuffleLayer& p);
void infer_slice(Node& node, const recorded::SliceLayer& p);
void infer_concatenation(Node& node, const recorded::ConcatenationLayer& p);
void infer_gather(Node& node, const recorded::GatherLayer& p);
void infer_reduce(Node& node, const recorded::ReduceLayer& p);
void infer_matrix(Node& node, const nvinfer1::MatrixOperation (&op)[2]);
void infer_fill(Node& node, const recorded::FillLayer& p);
void infer_topk(Node& node, const recorded::TopKLayer& p);
void infer_resize(Node& node, const recorded::ResizeLayer& p, const std::vector<float>& scales);
void infer_squeeze(Node& node, bool insert);

// Convolution (`up` false) and deconvolution of (N, C, spatial...).
template <typename Parameters>
void infer_convolution(Node& node, const Parameters& p, bool up) {
  const Tensor& in = node.in(0);
  node.out().type = in.type;
  node.out().dims = in.dims;
  node.out().dims.d[1] = p.x_NbOutputMaps;
  for (int i = 0; i + 2 < in.dims.nbDims; ++i) {
    const int64_t size = in.dims.d[i + 2];
    const int64_t stride = p.has_StrideNd ? p.x_StrideNd.d[i] : 1;
    const int64_t dilation = p.has_DilationNd ? p.x_DilationNd.d[i] : 1;
    int64_t pad = p.has_PaddingNd ? 2 * p.x_PaddingNd.d[i] : 0;
    if (p.has_PrePadding || p.has_PostPadding) {
      pad = (p.has_PrePadding ? p.x_PrePadding.d[i] : 0) +
            (p.has_PostPadding ? p.x_PostPadding.d[i] : 0);
    }
    const int64_t reach = dilation * (p.x_KernelSizeNd.d[i] - 1) + 1;
    node.out().dims.d[i + 2] = size < 0 ? -1
                               : up     ? stride * (size - 1) + reach - pad
                                        : (size + pad - reach) / stride + 1;
  }
}

}  // namespace covis::test
