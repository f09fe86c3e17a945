#include <algorithm>

#include "block_sparse_attention/cuda/prepare.h"
#include "block_sparse_attention/cuda/walk.h"

namespace covis {
namespace {

constexpr int kClasses = 32;
constexpr int kSortThreads = 256;

// One warp per row of the level map: the number of key units that it computes.
__global__ void __launch_bounds__(256)
    measure_rows(Geometry g, const int8_t* level, int level_heads, int rows, uint32_t* lengths) {
  const int row = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (row >= rows) return;
  const int per_head = rows_per_head(g);
  const int map_head = row / per_head;
  const int group = row - map_head * per_head;
  if (group < g.special_groups) {
    if (lane == 0) lengths[row] = static_cast<uint32_t>(g.units) + 1;
    return;
  }
  int begin;
  int end;
  group_patches(g, group - g.special_groups, &begin, &end);
  LevelRows regions;
  regions.level = level_of(g, level, map_head / level_heads, map_head % level_heads);
  regions.first = static_cast<int>(g.q_block_div(begin));
  regions.last = static_cast<int>(g.q_block_div(end - 1));
  uint32_t count = 0;
#pragma unroll 4
  for (int unit = lane; unit < g.units; unit += 32) {
    count += classify(g, regions, unit) != Unit::kSkip;
  }
  count = __reduce_add_sync(0xffffffffu, count);
  if (lane == 0) lengths[row] = count;
}

__device__ uint32_t length_of_row(const Geometry& g, const uint32_t* lengths, int level_batch,
                                  int level_heads, int row) {
  const int per_head = rows_per_head(g);
  const int head_row = row / per_head;
  const int batch = head_row / g.heads;
  const int head = head_row - batch * g.heads;
  const int map_head = (level_batch > 1 ? batch : 0) * level_heads + (level_heads > 1 ? head : 0);
  return lengths[static_cast<int64_t>(map_head) * per_head + row - head_row * per_head];
}

__device__ int length_class(uint32_t length, uint32_t longest) {
  if (length == 0) return kClasses - 1;
  const float octaves = log2f(static_cast<float>(longest) / static_cast<float>(length));
  return min(kClasses - 1, static_cast<int>(4.0f * octaves));
}

// One block: a stable counting sort of all rows by class. Each thread owns a run of rows, so that
// rows of a class stay in ascending order.
__global__ void __launch_bounds__(kSortThreads)
    sort_rows(Geometry g, const uint32_t* lengths, int level_batch, int level_heads, int rows,
              uint32_t* order) {
  __shared__ uint32_t starts[kClasses][kSortThreads];
  __shared__ uint32_t class_start[kClasses];
  __shared__ uint32_t longest;
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) longest = 0;
  for (int c = 0; c < kClasses; ++c) starts[c][thread] = 0;
  __syncthreads();
  const int measured = rows_per_head(g) * level_batch * level_heads;
  uint32_t mine = 0;
  for (int i = thread; i < measured; i += kSortThreads) mine = max(mine, lengths[i]);
  atomicMax(&longest, mine);
  __syncthreads();

  const int run = (rows + kSortThreads - 1) / kSortThreads;
  const int first = min(rows, thread * run);
  const int last = min(rows, first + run);
  for (int row = first; row < last; ++row) {
    const uint32_t length = length_of_row(g, lengths, level_batch, level_heads, row);
    ++starts[length_class(length, longest)][thread];
  }
  __syncthreads();
  if (thread < kClasses) {
    uint32_t total = 0;
    for (int i = 0; i < kSortThreads; ++i) {
      const uint32_t count = starts[thread][i];
      starts[thread][i] = total;
      total += count;
    }
    class_start[thread] = total;
  }
  __syncthreads();
  if (thread == 0) {
    uint32_t total = 0;
    for (int c = 0; c < kClasses; ++c) {
      const uint32_t count = class_start[c];
      class_start[c] = total;
      total += count;
    }
  }
  __syncthreads();
  for (int row = first; row < last; ++row) {
    const uint32_t length = length_of_row(g, lengths, level_batch, level_heads, row);
    const int c = length_class(length, longest);
    order[class_start[c] + starts[c][thread]++] = static_cast<uint32_t>(row);
  }
}

// One 16-byte vector per thread.
__global__ void __launch_bounds__(256)
    gather_specials(Geometry g, const uint4* source, int64_t batch_stride, int64_t head_stride,
                    int64_t token_stride, int vectors, int64_t total, uint4* target) {
  for (int64_t index = blockIdx.x * int64_t{256} + threadIdx.x; index < total;
       index += int64_t{256} * gridDim.x) {
    const int vector = static_cast<int>(index % vectors);
    const int64_t row = index / vectors;
    const int special = static_cast<int>(row % g.specials);
    const int64_t head_row = row / g.specials;
    const int64_t token = special_token(g, special);
    target[index] = source[head_row / g.heads * batch_stride + head_row % g.heads * head_stride +
                           token * token_stride + vector];
  }
}

}  // namespace

cudaError_t launch_order(const Geometry& g, const int8_t* level, int level_batch, int level_heads,
                         uint32_t* lengths, uint32_t* order, cudaStream_t stream) {
  const int measured = rows_per_head(g) * level_batch * level_heads;
  measure_rows<<<(measured + 7) / 8, 256, 0, stream>>>(g, level, level_heads, measured, lengths);
  const int rows = rows_per_head(g) * g.batch * g.heads;
  sort_rows<<<1, kSortThreads, 0, stream>>>(g, lengths, level_batch, level_heads, rows, order);
  return cudaPeekAtLastError();
}

cudaError_t launch_gather(const Geometry& g, const void* source, const int64_t (&stride)[3],
                          int head_dim, void* target, cudaStream_t stream) {
  const int vectors = head_dim / 8;
  const int64_t total = static_cast<int64_t>(g.batch) * g.heads * g.specials * vectors;
  const int blocks = static_cast<int>(std::min<int64_t>((total + 255) / 256, 4096));
  gather_specials<<<blocks, 256, 0, stream>>>(g, static_cast<const uint4*>(source), stride[0] / 8,
                                              stride[1] / 8, stride[2] / 8, vectors, total,
                                              static_cast<uint4*>(target));
  return cudaPeekAtLastError();
}

}  // namespace covis
