#include "block_select/cuda/choose.h"
#include "block_select/cuda/kernels.h"

namespace covis {
namespace {

constexpr int kThreads = 512;

struct ChooseShared {
  uint64_t masses[kSelectBins];
  uint32_t counts[kSelectBins];
  Descent descent;
  float reduced[kThreads / 32];
  uint32_t tie_base;
  uint32_t tie_counts[kThreads / 32];
};
static_assert(sizeof(ChooseShared) <= kSelectBins * 12 + 512);

struct ChooseArgs {
  SelectGeometry g;
  int rows_per_cta;
  const float* pooled_q;  // (B, H, Rq, D)
  const float* pooled_k;  // (B, H, D, Rk)
  const int8_t* pair;
  const float* keep_ratio;
  const float* cdf;
  int8_t* level;
};

// One row: its scores are in shared memory, -inf where the block is not a candidate.
struct Row {
  const ChooseArgs& args;
  ChooseShared& shared;
  float* scores;
  int thread;

  template <class Reduce>
  __device__ __forceinline__ float reduce(float value, Reduce&& combine) {
    for (int step = 16; step > 0; step /= 2) {
      value = combine(value, __shfl_xor_sync(0xffffffffu, value, step));
    }
    __syncthreads();
    if (thread % 32 == 0) shared.reduced[thread / 32] = value;
    __syncthreads();
    value = shared.reduced[0];
    for (int i = 1; i < kThreads / 32; ++i) value = combine(value, shared.reduced[i]);
    return value;
  }

  __device__ __forceinline__ void clear_bins() {
    __syncthreads();
    for (int bin = thread; bin < kSelectBins; bin += kThreads) {
      shared.counts[bin] = 0;
      shared.masses[bin] = 0;
    }
    __syncthreads();
  }

  __device__ __forceinline__ bool candidate(int col) const { return scores[col] != -INFINITY; }

  // Histogram of the undecided keys' next digit; masses too where `scale` is not 0.
  __device__ __forceinline__ void fill_bins(float high, float scale) {
    clear_bins();
    const Descent descent = shared.descent;
    for (int col = thread; col < args.g.cols; col += kThreads) {
      if (!candidate(col)) continue;
      const uint32_t key = score_key(scores[col]);
      if (!undecided(descent, key)) continue;
      const int bin = static_cast<int>(key >> descent.shift & 255);
      atomicAdd(&shared.counts[bin], 1u);
      if (scale != 0.0f) {
        const uint64_t mass = fixed_mass(expf(scores[col] - high) * scale);
        atomicAdd(reinterpret_cast<unsigned long long*>(&shared.masses[bin]),
                  static_cast<unsigned long long>(mass));
      }
    }
    __syncthreads();
  }

  // The first warp finds the eight bins in which the descent continues; one lane searches them.
  template <bool kByMass>
  __device__ __forceinline__ void descend(uint64_t limit) {
    if (thread < 32) {
      const int high = 255 - 8 * thread;
      uint64_t count = 0;
      uint64_t mass = 0;
      for (int bin = high; bin > high - 8; --bin) {
        count += shared.counts[bin];
        mass += shared.masses[bin];
      }
      uint64_t counts_to_here = count;
      uint64_t mass_to_here = mass;
      for (int step = 1; step < 32; step *= 2) {
        const uint64_t c = __shfl_up_sync(0xffffffffu, counts_to_here, step);
        const uint64_t m = __shfl_up_sync(0xffffffffu, mass_to_here, step);
        if (thread >= step) {
          counts_to_here += c;
          mass_to_here += m;
        }
      }
      Descent descent = shared.descent;
      __syncwarp();  // all lanes read before one writes; a ballot does not order memory
      const bool inside =
          kByMass ? descent.mass + mass_to_here > limit : descent.taken + counts_to_here >= limit;
      const uint32_t hits = __ballot_sync(0xffffffffu, inside);
      const int owner = hits == 0 ? 31 : __ffs(static_cast<int>(hits)) - 1;
      if (thread == owner) {
        if (hits == 0) {
          descent.taken += counts_to_here;
          descent.mass += mass_to_here;
          descent.done = true;
        } else {
          descent.taken += counts_to_here - count;
          descent.mass += mass_to_here - mass;
          if (kByMass) {
            descend_by_mass(descent, shared.counts, shared.masses, limit, high, high - 7);
          } else {
            descend_by_count(descent, shared.counts, limit, high, high - 7);
          }
        }
        shared.descent = descent;
      }
    }
    __syncthreads();
  }

  template <bool kByMass>
  __device__ __forceinline__ Descent search(uint64_t limit, float high, float scale) {
    __syncthreads();
    if (thread == 0) shared.descent = Descent{};
    for (int digit = 0; digit < 4; ++digit) {
      fill_bins(high, scale);
      descend<kByMass>(limit);
      if (shared.descent.done) break;
    }
    const Descent result = shared.descent;
    __syncthreads();
    return result;
  }

  // Levels of the candidates above `threshold`, and of the first `ties` equal to it.
  __device__ __forceinline__ void write(int row, int head_row, uint32_t threshold, uint32_t ties) {
    const SelectGeometry& g = args.g;
    const int f0 = row * g.q_block / g.patches;
    const int f1 = (min(row * g.q_block + g.q_block, g.total_patches) - 1) / g.patches;
    int8_t* out = args.level + (static_cast<int64_t>(head_row) * g.rows + row) * g.cols;
    if (thread == 0) shared.tie_base = 0;
    __syncthreads();
    for (int first = 0; first < g.cols; first += kThreads) {
      const int col = first + thread;
      const bool valid = col < g.cols && candidate(col);
      const uint32_t key = valid ? score_key(scores[col]) : 0;
      const bool tie = valid && key == threshold;
      const uint32_t tied = __ballot_sync(0xffffffffu, tie);
      if (thread % 32 == 0) shared.tie_counts[thread / 32] = __popc(tied);
      __syncthreads();
      uint32_t rank = shared.tie_base + __popc(tied & ((1u << (thread % 32)) - 1));
      uint32_t total = 0;
      for (int i = 0; i < kThreads / 32; ++i) {
        if (i < thread / 32) rank += shared.tie_counts[i];
        total += shared.tie_counts[i];
      }
      __syncthreads();
      if (thread == 0) shared.tie_base += total;
      if (col < g.cols) {
        const bool kept = valid && (key > threshold || (tie && rank < ties));
        const int g0 = col * g.k_block / g.patches;
        const int g1 = (min(col * g.k_block + g.k_block, g.total_patches) - 1) / g.patches;
        out[col] = kept ? block_level(args.pair, g.pair_frames, f0, f1, g0, g1) : int8_t{0};
      }
      __syncthreads();
    }
  }

  __device__ __forceinline__ void choose(int row, int head_row) {
    const SelectGeometry& g = args.g;
    float high = -INFINITY;
    float n = 0.0f;
    for (int col = thread; col < g.cols; col += kThreads) {
      if (!candidate(col)) continue;
      high = fmaxf(high, scores[col]);
      n += 1.0f;  // exact: fewer than 2^24 blocks fit shared memory
    }
    high = reduce(high, [](float a, float b) { return fmaxf(a, b); });
    n = reduce(n, [](float a, float b) { return a + b; });
    float sum = 0.0f;
    for (int col = thread; col < g.cols; col += kThreads) {
      if (candidate(col)) sum += expf(scores[col] - high);
    }
    sum = reduce(sum, [](float a, float b) { return a + b; });
    if (n == 0.0f) {
      write(row, head_row, 0xffffffffu, 0);
      return;
    }
    const Descent within = search<true>(mass_limit(*args.cdf), high, 1.0f / sum);
    const uint64_t keep = kept_count(*args.keep_ratio, static_cast<uint64_t>(n), within.taken);
    const Descent last = search<false>(keep, high, 0.0f);
    write(row, head_row, last.prefix, static_cast<uint32_t>(keep - last.taken));
  }
};

// CTAs per multiprocessor. Without a limit the compiler uses 58 registers, which allow two; with
// the registers of three it spills on 8.0.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr int kChooseCtas = 3;
#else
constexpr int kChooseCtas = 1;
#endif

__global__ void __launch_bounds__(kThreads, kChooseCtas)
    choose_blocks(const __grid_constant__ ChooseArgs args) {
  extern __shared__ __align__(16) uint8_t raw[];
  ChooseShared& shared = *reinterpret_cast<ChooseShared*>(raw);
  float* queries = reinterpret_cast<float*>(raw + sizeof(ChooseShared));
  const SelectGeometry& g = args.g;
  float* scores = queries + args.rows_per_cta * g.head_dim;
  const int thread = static_cast<int>(threadIdx.x);
  const int head_row = static_cast<int>(blockIdx.y);
  const int first_row = static_cast<int>(blockIdx.x) * args.rows_per_cta;
  const int rows = min(args.rows_per_cta, g.rows - first_row);
  const float* q =
      args.pooled_q + (static_cast<int64_t>(head_row) * g.rows + first_row) * g.head_dim;
  const float* k = args.pooled_k + static_cast<int64_t>(head_row) * g.head_dim * g.cols;
  for (int i = thread; i < rows * g.head_dim; i += kThreads) queries[i] = q[i];
  __syncthreads();

  const float scale = rsqrtf(static_cast<float>(g.head_dim));
  for (int col = thread; col < g.cols; col += kThreads) {
    float sums[kSelectMaxRows] = {};
    for (int d = 0; d < g.head_dim; ++d) {
      const float value = k[static_cast<int64_t>(d) * g.cols + col];
#pragma unroll
      for (int r = 0; r < kSelectMaxRows; ++r) {
        if (r < rows) sums[r] = fmaf(queries[r * g.head_dim + d], value, sums[r]);
      }
    }
    const int g0 = col * g.k_block / g.patches;
    const int g1 = (min(col * g.k_block + g.k_block, g.total_patches) - 1) / g.patches;
#pragma unroll
    for (int r = 0; r < kSelectMaxRows; ++r) {
      if (r >= rows) continue;
      const int f0 = (first_row + r) * g.q_block / g.patches;
      const int f1 =
          (min((first_row + r) * g.q_block + g.q_block, g.total_patches) - 1) / g.patches;
      const bool candidate = block_level(args.pair, g.pair_frames, f0, f1, g0, g1) > 0;
      // A score of -inf would mean "not a candidate"; the most negative finite number ranks last.
      scores[r * g.cols + col] = candidate ? fmaxf(sums[r] * scale, -3.0e38f) : -INFINITY;
    }
  }
  __syncthreads();
  for (int r = 0; r < rows; ++r) {
    Row row{args, shared, scores + r * g.cols, thread};
    row.choose(first_row + r, head_row);
    __syncthreads();
  }
}

}  // namespace

cudaError_t launch_choose(const SelectLaunchPlan& plan, const float* pooled_q,
                          const float* pooled_k, const int8_t* pair, const float* keep_ratio,
                          const float* cdf, int8_t* level, cudaStream_t stream) {
  const SelectGeometry& g = plan.geometry;
  const ChooseArgs args{g, plan.rows_per_cta, pooled_q, pooled_k, pair, keep_ratio, cdf, level};
  const int bytes = static_cast<int>(select_shared_bytes(plan.rows_per_cta, g.cols, g.head_dim));
  const cudaError_t status =
      cudaFuncSetAttribute(&choose_blocks, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  const dim3 grid(static_cast<unsigned>(ceil_div(g.rows, plan.rows_per_cta)),
                  static_cast<unsigned>(g.batch * g.heads));
  choose_blocks<<<grid, kThreads, bytes, stream>>>(args);
  return cudaPeekAtLastError();
}

}  // namespace covis
