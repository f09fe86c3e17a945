#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/host_device.h"
#include "saliency/cuda/kernels.h"

namespace covis {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTile = 32;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// Sum of the tokens of a run of a view's patches, each scaled to unit length: one warp per token
// and one accumulator per warp, added in warp order, so that equal inputs give equal bits.
template <class Element>
__global__ void __launch_bounds__(kThreads)
    sum_tokens(const Element* tokens, int patches, int channels, float* partial) {
  extern __shared__ float sums[];  // (kWarps, channels)
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int i = static_cast<int>(threadIdx.x); i < kWarps * channels; i += kThreads) sums[i] = 0.0f;
  __syncthreads();
  const int64_t view = blockIdx.y;
  const int first = static_cast<int>(int64_t{patches} * blockIdx.x / kSaliencyRuns);
  const int last = static_cast<int>(int64_t{patches} * (blockIdx.x + 1) / kSaliencyRuns);
  float* mine = sums + warp * channels;
  for (int patch = first + warp; patch < last; patch += kWarps) {
    const Element* token = tokens + (view * patches + patch) * channels;
    float square = 0.0f;
#pragma unroll 8
    for (int c = lane; c < channels; c += 32) {
      const float value = widen(token[c]);
      square = fmaf(value, value, square);
    }
    for (int step = 16; step > 0; step /= 2) square += __shfl_xor_sync(0xffffffffu, square, step);
    const float scale = 1.0f / fmaxf(sqrtf(square), 1e-12f);
#pragma unroll 8
    for (int c = lane; c < channels; c += 32) mine[c] = fmaf(widen(token[c]), scale, mine[c]);
  }
  __syncthreads();
  float* out = partial + (view * kSaliencyRuns + blockIdx.x) * channels;
  for (int c = static_cast<int>(threadIdx.x); c < channels; c += kThreads) {
    float total = 0.0f;
    for (int w = 0; w < kWarps; ++w) total += sums[w * channels + c];
    out[c] = total;
  }
}

// Mean over a view's patches, scaled to unit length.
__global__ void __launch_bounds__(kThreads)
    finish_descriptors(const float* partial, int patches, int channels, float* descriptors) {
  __shared__ float squares[kWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const float* runs = partial + static_cast<int64_t>(blockIdx.x) * kSaliencyRuns * channels;
  float* out = descriptors + static_cast<int64_t>(blockIdx.x) * channels;
  float square = 0.0f;
  for (int c = thread; c < channels; c += kThreads) {
    float total = 0.0f;
    for (int run = 0; run < kSaliencyRuns; ++run) total += runs[run * channels + c];
    total /= static_cast<float>(patches);
    out[c] = total;
    square = fmaf(total, total, square);
  }
  for (int step = 16; step > 0; step /= 2) square += __shfl_xor_sync(0xffffffffu, square, step);
  if (thread % 32 == 0) squares[thread / 32] = square;
  __syncthreads();
  float total = 0.0f;
  for (int w = 0; w < kWarps; ++w) total += squares[w];
  const float scale = 1.0f / fmaxf(sqrtf(total), 1e-12f);
  for (int c = thread; c < channels; c += kThreads) out[c] *= scale;
}

// similarity = descriptors descriptors^T, tiles of 32 x 32 in float32.
__global__ void __launch_bounds__(kTile* kWarps)
    compare_views(const float* descriptors, int views, int channels, float* similarity) {
  __shared__ float rows[kTile][kTile + 1];
  __shared__ float cols[kTile][kTile + 1];
  const int x = static_cast<int>(threadIdx.x) % kTile;
  const int y = static_cast<int>(threadIdx.x) / kTile;
  const int row = static_cast<int>(blockIdx.y) * kTile;
  const int col = static_cast<int>(blockIdx.x) * kTile;
  float sums[kTile / kWarps] = {};
  for (int c = 0; c < channels; c += kTile) {
    for (int i = y; i < kTile; i += kWarps) {
      const bool inside = c + x < channels;
      rows[i][x] = inside && row + i < views
                       ? descriptors[static_cast<int64_t>(row + i) * channels + c + x]
                       : 0.0f;
      cols[i][x] = inside && col + i < views
                       ? descriptors[static_cast<int64_t>(col + i) * channels + c + x]
                       : 0.0f;
    }
    __syncthreads();
    for (int k = 0; k < kTile; ++k) {
#pragma unroll
      for (int i = 0; i < kTile / kWarps; ++i) {
        sums[i] = fmaf(rows[y + i * kWarps][k], cols[x][k], sums[i]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kTile / kWarps; ++i) {
    const int r = row + y + i * kWarps;
    if (r < views && col + x < views) {
      similarity[static_cast<int64_t>(r) * views + col + x] = sums[i];
    }
  }
}

template <class Element>
cudaError_t sum_all(const CovisSimilarityParams& p, const SimilarityPlan& plan, float* partial,
                    cudaStream_t stream) {
  const int bytes = kWarps * plan.channels * static_cast<int>(sizeof(float));
  const cudaError_t status = cudaFuncSetAttribute(
      &sum_tokens<Element>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  const dim3 grid(kSaliencyRuns, static_cast<unsigned>(plan.views));
  sum_tokens<<<grid, kThreads, bytes, stream>>>(static_cast<const Element*>(p.tokens), plan.patches,
                                                plan.channels, partial);
  return cudaPeekAtLastError();
}

}  // namespace

cudaError_t launch_similarity(const CovisSimilarityParams& p, const SimilarityPlan& plan,
                              cudaStream_t stream) {
  auto* workspace = static_cast<uint8_t*>(p.workspace);
  auto* partial = reinterpret_cast<float*>(workspace + plan.partial);
  auto* descriptors = reinterpret_cast<float*>(workspace + plan.descriptors);
  cudaError_t status = p.data_type == 0   ? sum_all<__half>(p, plan, partial, stream)
                       : p.data_type == 1 ? sum_all<__nv_bfloat16>(p, plan, partial, stream)
                                          : sum_all<float>(p, plan, partial, stream);
  if (status != cudaSuccess) return status;
  finish_descriptors<<<plan.views, kThreads, 0, stream>>>(partial, plan.patches, plan.channels,
                                                          descriptors);
  const auto tiles = static_cast<unsigned>(ceil_div(plan.views, kTile));
  compare_views<<<dim3(tiles, tiles), kTile * kWarps, 0, stream>>>(descriptors, plan.views,
                                                                   plan.channels, p.similarity);
  return cudaPeekAtLastError();
}

}  // namespace covis
