#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "block_select/cuda/kernels.h"
#include "cuda/host_device.h"

namespace covis {
namespace {

struct Strides {
  int64_t batch, head, token;
};

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// One thread per channel, one CTA per block of tokens: consecutive channels of a token are one
// memory transaction.
template <class Element>
__global__ void pool_tokens(SelectGeometry g, const Element* source, Strides stride, bool use_max,
                            int block, int blocks, bool transposed, float* target) {
  const int index = static_cast<int>(blockIdx.x);
  const int head_row = static_cast<int>(blockIdx.y);
  const int first = index * block;
  const int last = min(first + block, g.total_patches);
  const Element* base =
      source + head_row / g.heads * stride.batch + head_row % g.heads * stride.head;
  for (int channel = static_cast<int>(threadIdx.x); channel < g.head_dim; channel += blockDim.x) {
    float pooled = use_max ? -INFINITY : 0.0f;
#pragma unroll 8
    for (int patch = first; patch < last; ++patch) {
      const int frame = patch / g.patches;
      const int64_t token = static_cast<int64_t>(frame) * g.frame_tokens + g.special_first +
                            (patch - frame * g.patches);
      const float value = widen(base[token * stride.token + channel]);
      pooled = use_max ? fmaxf(pooled, value) : pooled + value;
    }
    if (!use_max) pooled /= static_cast<float>(last - first);
    const int64_t head = static_cast<int64_t>(head_row) * blocks * g.head_dim;
    const int64_t place = transposed ? static_cast<int64_t>(channel) * blocks + index
                                     : static_cast<int64_t>(index) * g.head_dim + channel;
    target[head + place] = pooled;
  }
}

}  // namespace

cudaError_t launch_pool(const SelectGeometry& g, const void* source, int data_type, int pool,
                        const int64_t (&stride)[3], int block, int blocks, bool transposed,
                        float* target, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(g.batch * g.heads));
  const int threads = min_int(256, ceil_div(g.head_dim, 32) * 32);
  const Strides strides{stride[0], stride[1], stride[2]};
  const bool use_max = pool == kCovisPoolMax;
  if (data_type == kCovisSelectFloat16) {
    pool_tokens<<<grid, threads, 0, stream>>>(g, static_cast<const __half*>(source), strides,
                                              use_max, block, blocks, transposed, target);
  } else if (data_type == kCovisSelectBfloat16) {
    pool_tokens<<<grid, threads, 0, stream>>>(g, static_cast<const __nv_bfloat16*>(source), strides,
                                              use_max, block, blocks, transposed, target);
  } else {
    pool_tokens<<<grid, threads, 0, stream>>>(g, static_cast<const float*>(source), strides,
                                              use_max, block, blocks, transposed, target);
  }
  return cudaPeekAtLastError();
}

}  // namespace covis
