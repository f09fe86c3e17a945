// Q, K and V to FP8: K's mean and V's peaks over all patches, then one block per cell of 64
// patches.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "block_sparse_attention/cuda/quantize.h"
#include "block_sparse_attention/cuda/quantize_kernels.h"

namespace covis {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 8;  // elements of a 16-byte load

__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

template <class Element>
__device__ __forceinline__ void load_vector(const Element* source, float (&out)[kVector]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(source);
  const Element* elements = reinterpret_cast<const Element*>(&raw);
#pragma unroll
  for (int i = 0; i < kVector; ++i) out[i] = widen(elements[i]);
}

template <class Element>
__device__ __forceinline__ const Element* token_row(const void* data, const int64_t (&stride)[3],
                                                    const Geometry& g, int head_row, int patch) {
  const int batch = head_row / g.heads;
  return static_cast<const Element*>(data) + batch * stride[0] +
         (head_row - batch * g.heads) * stride[1] + patch_token(g, patch) * stride[2];
}

// Sums of K and peaks of V over kMeasuredPatches patches, always added in the same order.
template <class Element, int kHeadDim>
__global__ void __launch_bounds__(kThreads) measure_patches(const QuantizeArgs args) {
  constexpr int kColumns = kHeadDim / kVector;
  constexpr int kRows = kThreads / kColumns;
  __shared__ float sums[kRows][kHeadDim + 1];
  __shared__ float peaks[kRows][kHeadDim + 1];
  const Geometry& g = args.geometry;
  const int runs = measured_runs(g);
  const int head_row = static_cast<int>(blockIdx.x) / runs;
  const int run = static_cast<int>(blockIdx.x) - head_row * runs;
  const int column = static_cast<int>(threadIdx.x) % kColumns * kVector;
  const int row = static_cast<int>(threadIdx.x) / kColumns;
  const int end = min_int((run + 1) * kMeasuredPatches, g.total_patches);
  float sum[kVector] = {};
  float peak[kVector] = {};
  for (int patch = run * kMeasuredPatches + row; patch < end; patch += kRows) {
    float x[kVector];
    load_vector(token_row<Element>(args.k, args.k_stride, g, head_row, patch) + column, x);
#pragma unroll
    for (int i = 0; i < kVector; ++i) sum[i] += x[i];
    load_vector(token_row<Element>(args.v, args.v_stride, g, head_row, patch) + column, x);
#pragma unroll
    for (int i = 0; i < kVector; ++i) peak[i] = peak_with(peak[i], x[i]);
  }
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    sums[row][column + i] = sum[i];
    peaks[row][column + i] = peak[i];
  }
  __syncthreads();
  const int channel = static_cast<int>(threadIdx.x);
  if (channel >= kHeadDim) return;
  float total = 0.0f;
  float high = 0.0f;
  for (int i = 0; i < kRows; ++i) {
    total += sums[i][channel];
    high = peak_with(high, peaks[i][channel]);
  }
  float* out = args.partial + static_cast<int64_t>(blockIdx.x) * 2 * kHeadDim + channel;
  out[0] = total;
  out[kHeadDim] = high;
}

// One block per head: K's mean and V's scales from the partial results.
template <int kHeadDim>
__global__ void __launch_bounds__(1024) finish_scales(const QuantizeArgs args) {
  constexpr int kGroups = 1024 / kHeadDim;
  __shared__ float sums[kGroups][kHeadDim];
  __shared__ float peaks[kGroups][kHeadDim];
  const Geometry& g = args.geometry;
  const int runs = measured_runs(g);
  const int channel = static_cast<int>(threadIdx.x) % kHeadDim;
  const int group = static_cast<int>(threadIdx.x) / kHeadDim;
  const float* parts = args.partial + static_cast<int64_t>(blockIdx.x) * runs * 2 * kHeadDim;
  float sum = 0.0f;
  float peak = 0.0f;
#pragma unroll 4
  for (int run = group; run < runs; run += kGroups) {
    const float* part = parts + static_cast<int64_t>(run) * 2 * kHeadDim + channel;
    sum += part[0];
    peak = peak_with(peak, part[kHeadDim]);
  }
  sums[group][channel] = sum;
  peaks[group][channel] = peak;
  __syncthreads();
  if (group != 0) return;
  for (int i = 1; i < kGroups; ++i) {
    sum += sums[i][channel];
    peak = peak_with(peak, peaks[i][channel]);
  }
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kHeadDim + channel;
  args.k_mean[index] = sum / static_cast<float>(g.total_patches);
  args.v_scale[index] = scale_of_peak(peak);
}

// Eight numbers divided by their scale, as eight e4m3.
__device__ __forceinline__ uint2 pack_vector(const float (&x)[kVector], float scale) {
  uint32_t words[2] = {};
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    words[i / 4] |= static_cast<uint32_t>(quantized(x[i], scale)) << 8 * (i % 4);
  }
  return make_uint2(words[0], words[1]);
}

// The largest `peak` of the block. All threads call it and get it.
__device__ __forceinline__ float block_peak(float peak, float* warps) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) {
    peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, lane));
  }
  __syncthreads();  // until all threads have read the last call's result
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = peak;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) peak = fmaxf(peak, warps[i]);
  return peak;
}

template <class Element, int kHeadDim>
__global__ void __launch_bounds__(kThreads) quantize_cell(const QuantizeArgs args) {
  constexpr int kColumns = kHeadDim / kVector;
  constexpr int kRows = kThreads / kColumns;
  constexpr int kSteps = kPiece / kRows;
  constexpr int kPitch = kPiece + 16;  // aligned 16-byte vectors, rows in different banks
  __shared__ __align__(16) uint8_t values[kHeadDim * kPitch];
  __shared__ float warps[kThreads / 32];
  const Geometry& g = args.geometry;
  const int cells = cells_of(g);
  const int head_row = static_cast<int>(blockIdx.x) / cells;
  const int cell = static_cast<int>(blockIdx.x) - head_row * cells;
  const int column = static_cast<int>(threadIdx.x) % kColumns * kVector;
  const int row = static_cast<int>(threadIdx.x) / kColumns;
  const int count = min_int(kPiece, g.total_patches - cell * kPiece);
  const int64_t first = static_cast<int64_t>(head_row) * g.total_patches + cell * kPiece;
  float mean[kVector];
  float v_scale[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    const int64_t channel = static_cast<int64_t>(head_row) * kHeadDim + column + i;
    mean[i] = args.k_mean[channel];
    v_scale[i] = args.v_scale[channel];
  }

  float q[kSteps][kVector] = {};
  float k[kSteps][kVector] = {};
  float q_peak = 0.0f;
  float k_peak = 0.0f;
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int at = step * kRows + row;
    float dot = 0.0f;
    if (at < count) {
      const int patch = cell * kPiece + at;
      load_vector(token_row<Element>(args.q, args.q_stride, g, head_row, patch) + column, q[step]);
      load_vector(token_row<Element>(args.k, args.k_stride, g, head_row, patch) + column, k[step]);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        k[step][i] -= mean[i];
        q_peak = peak_with(q_peak, q[step][i]);
        k_peak = peak_with(k_peak, k[step][i]);
        dot = fmaf(q[step][i], mean[i], dot);
      }
    }
    // Q times K's mean, which the scores lack; the threads of a row are neighbouring lanes.
#pragma unroll
    for (int lane = kColumns / 2; lane > 0; lane /= 2) {
      dot += __shfl_xor_sync(0xffffffffu, dot, lane);
    }
    if (column == 0 && at < count) args.q_dot_mean[first + at] = dot;
    // V, transposed and permuted through shared memory; missing patches are zeros.
    float v[kVector] = {};
    if (at < count) {
      load_vector(
          token_row<Element>(args.v, args.v_stride, g, head_row, cell * kPiece + at) + column, v);
    }
    const int slot = at / 16 * 16 + value_slot(at % 16);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      values[(column + i) * kPitch + slot] = quantized(v[i], v_scale[i]);
    }
  }
  const float q_scale = scale_of_peak(block_peak(q_peak, warps));
  const float k_scale = scale_of_peak(block_peak(k_peak, warps));
  if (threadIdx.x == 0) {
    args.q_scale[blockIdx.x] = q_scale;
    args.k_scale[blockIdx.x] = k_scale;
  }
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    const int at = step * kRows + row;
    if (at >= count) continue;
    const int64_t target = (first + at) * kHeadDim + column;
    *reinterpret_cast<uint2*>(args.q8 + target) = pack_vector(q[step], q_scale);
    *reinterpret_cast<uint2*>(args.k8 + target) = pack_vector(k[step], k_scale);
  }
  // block_peak has synchronised: `values` is complete.
  const int64_t width = static_cast<int64_t>(cells) * kPiece;
  uint8_t* v8 = args.v8 + static_cast<int64_t>(head_row) * kHeadDim * width + cell * kPiece;
  for (int i = static_cast<int>(threadIdx.x); i < kHeadDim * (kPiece / 16); i += kThreads) {
    const int channel = i / (kPiece / 16);
    const int part = i % (kPiece / 16) * 16;
    *reinterpret_cast<uint4*>(v8 + channel * width + part) =
        *reinterpret_cast<const uint4*>(&values[channel * kPitch + part]);
  }
}

template <class Element, int kHeadDim>
cudaError_t launch(const QuantizeArgs& args, cudaStream_t stream) {
  const Geometry& g = args.geometry;
  const int heads = g.batch * g.heads;
  measure_patches<Element, kHeadDim><<<heads * measured_runs(g), kThreads, 0, stream>>>(args);
  finish_scales<kHeadDim><<<heads, 1024, 0, stream>>>(args);
  quantize_cell<Element, kHeadDim><<<heads * cells_of(g), kThreads, 0, stream>>>(args);
  return cudaPeekAtLastError();
}

}  // namespace

cudaError_t launch_quantize(const QuantizeArgs& args, int head_dim, bool bfloat16,
                            cudaStream_t stream) {
  if (head_dim == 128) {
    return bfloat16 ? launch<__nv_bfloat16, 128>(args, stream) : launch<__half, 128>(args, stream);
  }
  return bfloat16 ? launch<__nv_bfloat16, 64>(args, stream) : launch<__half, 64>(args, stream);
}

}  // namespace covis
