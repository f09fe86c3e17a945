#include "farthest_first/cuda/kernels.h"
#include "farthest_first/cuda/traversal.h"

namespace covis {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kRun = 32;  // numbers that are added in float32; runs are added in float64

struct FarthestArgs {
  const float* similarity;
  const int64_t* given;
  const int64_t* count;
  int32_t* rank;
  int32_t views;
};

// Sum of `count` numbers, `stride` apart.
__device__ __forceinline__ double sum_of(const float* values, int64_t stride, int count) {
  double total = 0.0;
  for (int first = 0; first < count; first += kRun) {
    const int last = min(first + kRun, count);
    float run = 0.0f;
#pragma unroll 8
    for (int i = first; i < last; ++i) run += values[i * stride];
    total += run;
  }
  return total;
}

// Each view's mean of (K_ij + K_ji) / 2: columns by one thread each, so that a warp reads whole
// lines, then rows by one warp each.
__device__ __forceinline__ void score_by_mean(const FarthestArgs& args, float* scores,
                                              double* columns) {
  const int views = args.views;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  for (int base = 0; base < views; base += kThreads) {
    const int column = base + static_cast<int>(threadIdx.x);
    if (column < views) columns[threadIdx.x] = sum_of(args.similarity + column, views, views);
    __syncthreads();
    for (int row = base + warp; row < min(base + kThreads, views); row += kWarps) {
      const float* values = args.similarity + static_cast<int64_t>(row) * views + lane;
      double sum = sum_of(values, 32, (views - lane + 31) / 32);
      for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
      if (lane == 0) scores[row] = central_score((sum + columns[row - base]) / (2.0 * views));
    }
    __syncthreads();
  }
}

// The largest key of all threads, in every thread. `slots` may be used again two calls later.
__device__ __forceinline__ uint64_t largest(uint64_t key, uint64_t* slots) {
  const auto of_warp = [](uint64_t value) {
    for (int step = 16; step > 0; step /= 2) {
      const uint64_t other = __shfl_xor_sync(0xffffffffu, value, step);
      value = other > value ? other : value;
    }
    return value;
  };
  key = of_warp(key);
  if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = key;
  __syncthreads();
  return of_warp(slots[threadIdx.x % 32]);
}
static_assert(kWarps == 32);  // one slot a lane

// Each thread keeps the views thread, thread + kThreads, ...; no other thread reads their scores.
__global__ void __launch_bounds__(kThreads)
    traverse_views(const __grid_constant__ FarthestArgs args) {
  extern __shared__ float scores[];  // (views)
  __shared__ double columns[kThreads];
  __shared__ uint64_t slots[2][kWarps];
  const int views = args.views;
  const int thread = static_cast<int>(threadIdx.x);
  const int steps = step_count(*args.count, views);
  for (int view = thread; view < views; view += kThreads) args.rank[view] = views;
  if (steps == 0) return;
  int64_t given = args.given[0];
  if (given >= 0 && given < views) {
    for (int view = thread; view < views; view += kThreads) scores[view] = 0.0f;
  } else {
    score_by_mean(args, scores, columns);
  }
  for (int step = 0; step < steps; ++step) {
    uint64_t key = 0;
    for (int view = thread; view < views; view += kThreads) {
      const uint64_t own = choice_key(scores[view], view, given);
      key = own > key ? own : key;
    }
    const int chosen = chosen_view(largest(key, slots[step % 2]));
    if (step + 1 < steps) given = args.given[step + 1];  // arrives while similarities do
    const float* row = args.similarity + static_cast<int64_t>(chosen) * views;
    const float* column = args.similarity + chosen;
    for (int view = thread; view < views; view += kThreads) {
      const float score = scores[view];
      if (view == chosen) {
        args.rank[view] = step;
        scores[view] = taken_score();
      } else if (!is_taken(score)) {
        const float reverse = column[static_cast<int64_t>(view) * views];
        scores[view] = next_score(score, step, row[view], reverse);
      }
    }
  }
}

}  // namespace

cudaError_t launch_farthest(const CovisFarthestParams& p, cudaStream_t stream) {
  const FarthestArgs args{p.similarity, p.given, p.count, p.rank, static_cast<int32_t>(p.views)};
  const int bytes = static_cast<int>(p.views * sizeof(float));
  const cudaError_t status =
      cudaFuncSetAttribute(&traverse_views, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  traverse_views<<<1, kThreads, bytes, stream>>>(args);
  return cudaPeekAtLastError();
}

}  // namespace covis
