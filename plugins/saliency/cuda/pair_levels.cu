#include "saliency/cuda/kernels.h"
#include "saliency/cuda/pair_rule.h"

namespace covis {
namespace {

constexpr int kThreads = 256;  // one a bin
constexpr int kCtas = 4;       // of a multiprocessor: with no number the compiler spills for eight

struct Search {
  uint32_t counts[kThreads];
  Descent descent;
};

// The descent to key number `keep` (from 1) of those `views` that `searched` says, from the digit
// at `shift` down. Called by the whole CTA.
template <class Key, class Searched>
__device__ __forceinline__ Descent find_last(Search& shared, uint64_t keep, int shift, int views,
                                             Key key, Searched searched) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread == 0) {
    shared.descent = Descent{};
    shared.descent.shift = shift;
  }
  for (; shift >= 0; shift -= 8) {
    shared.counts[thread] = 0;
    __syncthreads();
    const Descent now = shared.descent;
    for (int j = thread; j < views; j += kThreads) {
      if (!searched(j)) continue;
      const uint32_t own = key(j);
      if (undecided(now, own)) atomicAdd(&shared.counts[own >> now.shift & 255], 1u);
    }
    __syncthreads();
    if (thread == 0) descend_by_count(shared.descent, shared.counts, keep, 255, 0);
    __syncthreads();
  }
  return shared.descent;
}

// One CTA for each view and map: the view's last neighbour, then the levels of its row.
__global__ void __launch_bounds__(kThreads, kCtas)
    level_pairs(const __grid_constant__ CovisPairLevelsParams p) {
  __shared__ __align__(alignof(Search)) uint8_t raw[sizeof(Search)];
  Search& shared = *reinterpret_cast<Search*>(raw);
  const int views = static_cast<int>(p.views);
  const int view = static_cast<int>(blockIdx.x);
  const PairRule rule = pair_rule(p, static_cast<int>(blockIdx.y));
  const float* row = p.similarity + static_cast<int64_t>(view) * views;
  LastNeighbour last;
  if (const int count = neighbour_count(rule, views); count > 0) {
    const auto key = [row](int j) { return score_key(row[j]); };
    const Descent similar = find_last(shared, static_cast<uint64_t>(count), 24, views, key,
                                      [view](int j) { return j != view; });
    const uint32_t nearest = similar.prefix;
    __syncthreads();  // all have read the first descent
    const Descent first =
        find_last(shared, static_cast<uint64_t>(count) - similar.taken, kIndexShift, views,
                  index_key, [=](int j) { return j != view && key(j) == nearest; });
    last = {nearest, first.prefix};
  }
  int8_t* out = p.level + (static_cast<int64_t>(blockIdx.y) * views + view) * views;
  for (int j = static_cast<int>(threadIdx.x); j < views; j += kThreads) {
    const bool neighbour = j != view && last.keeps(score_key(row[j]), j);
    out[j] = pair_level(rule, view, j, row[j], p.anchor_rank[j], neighbour);
  }
}

}  // namespace

cudaError_t launch_pair_levels(const CovisPairLevelsParams& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.views), static_cast<unsigned>(p.maps));
  level_pairs<<<grid, kThreads, 0, stream>>>(p);
  return cudaPeekAtLastError();
}

}  // namespace covis
