// FP8 copies of Q, K and V on the host, by the rule of quantize.h and in the layout of the kernels'
// workspace. For tests.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "block_sparse_attention/cuda/covis_attention.h"
#include "block_sparse_attention/cuda/quantize.h"

namespace covis::host {

struct Rows {  // strided float32 tensor (B, H, S, D) with D contiguous
  const float* data;
  const int64_t* stride;
  const float* at(int batch, int head, int64_t token) const {
    return data + batch * stride[0] + head * stride[1] + token * stride[2];
  }
};

inline float decode_e4m3(int code) {
  const int exponent = code >> 3 & 15;
  const int mantissa = code & 7;
  if (exponent == 15 && mantissa == 7) return NAN;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return code & 0x80 ? -magnitude : magnitude;
}

inline float from_e4m3(uint8_t code) {
  static const std::vector<float> table = [] {
    std::vector<float> values;
    for (int i = 0; i < 256; ++i) values.push_back(decode_e4m3(i));
    return values;
  }();
  return table[code];
}

struct Low {
  std::vector<uint8_t> q8, k8, v8;
  std::vector<float> q_scale, k_scale, v_scale, k_mean, q_dot_mean;

  Low(const Geometry& g, const CovisAttentionParams& p) {
    const int dim = static_cast<int>(p.head_dim);
    const int64_t heads = int64_t{g.batch} * g.heads;
    const int64_t patches = g.total_patches;
    const int64_t cells = cells_of(g);
    const int64_t width = cells * kPiece;
    q8.resize(heads * patches * dim);
    k8.resize(heads * patches * dim);
    v8.resize(heads * dim * width);
    q_scale.resize(heads * cells);
    k_scale.resize(heads * cells);
    v_scale.resize(heads * dim);
    k_mean.resize(heads * dim);
    q_dot_mean.resize(heads * patches);
    if (patches == 0) return;
    const Rows q{static_cast<const float*>(p.q), p.q_stride};
    const Rows k{static_cast<const float*>(p.k), p.k_stride};
    const Rows v{static_cast<const float*>(p.v), p.v_stride};
    for (int64_t head = 0; head < heads; ++head) {
      const int b = static_cast<int>(head / g.heads);
      const int h = static_cast<int>(head % g.heads);
      const auto row = [&](const Rows& x, int64_t patch) {
        return x.at(b, h, patch_token(g, static_cast<int32_t>(patch)));
      };
      float* mean = &k_mean[head * dim];
      for (int d = 0; d < dim; ++d) {
        double sum = 0.0;
        float peak = 0.0f;
        for (int64_t i = 0; i < patches; ++i) {
          sum += row(k, i)[d];
          peak = peak_with(peak, row(v, i)[d]);
        }
        mean[d] = static_cast<float>(sum / static_cast<double>(patches));
        v_scale[head * dim + d] = scale_of_peak(peak);
      }
      for (int64_t cell = 0; cell < cells; ++cell) {
        const int64_t end = std::min((cell + 1) * kPiece, patches);
        float q_peak = 0.0f;
        float k_peak = 0.0f;
        for (int64_t i = cell * kPiece; i < end; ++i) {
          for (int d = 0; d < dim; ++d) {
            q_peak = peak_with(q_peak, row(q, i)[d]);
            k_peak = peak_with(k_peak, row(k, i)[d] - mean[d]);
          }
        }
        q_scale[head * cells + cell] = scale_of_peak(q_peak);
        k_scale[head * cells + cell] = scale_of_peak(k_peak);
        for (int64_t i = cell * kPiece; i < end; ++i) {
          const int64_t column = i / 16 * 16 + value_slot(static_cast<int>(i % 16));
          float dot = 0.0f;
          for (int d = 0; d < dim; ++d) {
            const int64_t at = (head * patches + i) * dim + d;
            q8[at] = quantized(row(q, i)[d], q_scale[head * cells + cell]);
            k8[at] = quantized(row(k, i)[d] - mean[d], k_scale[head * cells + cell]);
            v8[(head * dim + d) * width + column] =
                quantized(row(v, i)[d], v_scale[head * dim + d]);
            dot += row(q, i)[d] * mean[d];
          }
          q_dot_mean[head * patches + i] = dot;
        }
      }
    }
  }
};

}  // namespace covis::host
