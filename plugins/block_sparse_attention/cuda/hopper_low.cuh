// The FP8 phase of a consumer warpgroup: the leading key tiles of a list, those of level 1.
//
// Units. Scores are in units of scale(Q cell) * scale(K cell), without Q times K's mean; weights
// are multiplied by 256; outputs are in units of scale(V channel). leave_low() converts all three
// to the units of the 16-bit phase, so that both phases share one maximum, one sum and one output.
#pragma once

#include "block_sparse_attention/cuda/hopper_traits.cuh"
#include "block_sparse_attention/cuda/mask.cuh"
#include "block_sparse_attention/cuda/quantize.h"
#include "block_sparse_attention/cuda/softmax.cuh"

namespace covis {

inline constexpr int kWeightLift = 8;
static_assert(1 << kWeightLift == static_cast<int>(kWeightScale));

// Index of the score that becomes weight `v` of the 32-deep slice `slice` of P. A thread holds
// columns 8 j + 2 t + e of the scores, and columns 4 t + i of an 8-bit operand; V is stored
// permuted to match.
constexpr int low_weight_source(int slice, int v) {
  return 4 * (4 * slice + 2 * (v / 8) + v % 4 / 2) + 2 * (v / 4 % 2) + v % 2;
}

// Checked against CuTe's own layouts: weight and score belong to the same row, and the weight's
// slot stores the score's key.
template <class MmaQk, class MmaPv>
constexpr bool weights_match_values() {
  constexpr int kThreads[] = {0, 1, 2, 3, 6, 29, 75, 127};
  for (const int thread : kThreads) {
    for (int v = 0; v < 16; ++v) {
      // One product of 64 keys gives half of a stage's scores, which are two slices; slice 1 is the
      // second.
      const int score = typename MmaQk::LayoutC_TV{}(thread, low_weight_source(1, v));
      const int weight = typename MmaPv::LayoutA_TV{}(thread, v);
      const int slot = weight / kPiece;
      if (score % kPiece != weight % kPiece) return false;
      if (score / kPiece != 32 + slot / 16 * 16 + value_key(slot % 16)) return false;
    }
  }
  return true;
}

// The same check for the tiles: load_low copies each number to the address where wgmma reads it,
// apart from the swizzle of 64- or 128-byte rows.
template <class Traits>
constexpr bool tiles_match_copies() {
  constexpr int kDim = Traits::kHeadDim;
  constexpr auto kKeys = typename Traits::LowLayoutK{}.layout_b();
  constexpr auto kValues = typename Traits::LowLayoutV{}.layout_b();
  constexpr int kRows[] = {0, 1, 9, 63, 64, 127};
  for (const int key : kRows) {
    for (const int d : {0, 17, kDim - 1}) {
      for (const int slot : {0, 2}) {
        const int tile = slot * kKeysPerStage * kDim + key / kPiece * Traits::kLowChunk;
        if (int(kKeys(key, d, slot)) != tile + key % kPiece * kDim + d) return false;
        if (int(kValues(d, key, slot)) != tile + d * kPiece + key % kPiece) return false;
      }
    }
  }
  return true;
}

// Four floats to e4m3, saturating; the first in the lowest byte.
__device__ __forceinline__ uint32_t pack_e4m3(float a, float b, float c, float d) {
  uint32_t packed;
  asm("{\n"
      ".reg .b16 low, high;\n"
      "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
      "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
      "mov.b32 %0, {low, high};\n"
      "}\n"
      : "=r"(packed)
      : "f"(a), "f"(b), "f"(c), "f"(d));
  return packed;
}

template <class Consumer>
struct LowPhase {
  using Traits = typename Consumer::Traits;
  using Low = typename Traits::Low;
  static constexpr int kScores = Consumer::kScores;
  static constexpr int kOutputs = Consumer::kOutputs;
  static_assert(tiles_match_copies<Traits>());
  static_assert(weights_match_values<typename Traits::LowMmaQk, typename Traits::LowMmaPv>());

  Consumer& self;
  float q_scale[2];  // of this thread's two rows

  __device__ __forceinline__ int64_t head_row() const {
    const TileWork& work = self.work();
    return static_cast<int64_t>(work.batch) * self.args.kernel.geometry.heads + work.head;
  }
  // The running patch number of row r, clamped to the tensor for rows beyond a piece's end.
  __device__ __forceinline__ int patch(int r) const {
    const int row = score_row(self.thread, 2 * r);
    return min_int(self.work().pieces[self.warpgroup].patch + row,
                   self.args.kernel.geometry.total_patches - 1);
  }

  __device__ __forceinline__ void load_scales() {
    const int64_t cells = ceil_div(self.args.kernel.geometry.total_patches, kPiece);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      q_scale[r] = self.args.low.q[head_row() * cells + patch(r) / kPiece];
    }
  }

  // Keys outside [first, count) of their cell get weight 0.
  template <class Scores>
  __device__ __forceinline__ void mask(Scores& scores, int flags) {
    constexpr int kWhole = kNoteLow | kPiece;
    if (flags == (kWhole | kWhole << 16)) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int chunk = half == 0 ? flags : flags >> 16;
      const int shift = 2 * (self.thread % 4);  // compared with columns of thread 0: constants
      const int first = (chunk >> kNoteFirstShift & kNoteFirst) - shift;
      const int limit = (chunk & kNoteCount) - shift;
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        const int column = score_column(0, i);
        if (column < first || column >= limit) scores(32 * half + i) = -INFINITY;
      }
    }
  }

  template <class Scores, class Weights>
  __device__ __forceinline__ static void round(const Scores& scores, Weights& weights) {
    auto words = cute::recast<uint32_t>(weights);
#pragma unroll
    for (int w = 0; w < kScores / 4; ++w) {
      const int slice = w / 4;
      const int v = w % 4 * 4;
      words(w) = pack_e4m3(
          scores(low_weight_source(slice, v)), scores(low_weight_source(slice, v + 1)),
          scores(low_weight_source(slice, v + 2)), scores(low_weight_source(slice, v + 3)));
    }
  }

  // Products with one chunk of keys. The halves are issued separately, because the second half can
  // reuse the registers of the last products with V.
  template <int kHalf, class Mma, class Q, class K, class Scores>
  __device__ __forceinline__ static void issue_half(Mma& mma, const Q& q, const K& k,
                                                    Scores& scores) {
    using namespace cute;
    auto half = scores(_, 0, kHalf);
    warpgroup_fence_operand(half);
    warpgroup_arrive();
    mma.accumulate_ = GMMA::ScaleOut::Zero;
    CUTE_UNROLL
    for (int i = 0; i < size<2>(q); ++i) {
      gemm(mma, q(_, 0, i), k(_, kHalf, i), half);
      mma.accumulate_ = GMMA::ScaleOut::One;
    }
    warpgroup_commit_batch();
  }

  template <class Scores, class Weights, class Running>
  __device__ __forceinline__ void settle(Scores& scores, Weights& weights, Running& softmax,
                                         int flags, float (&decay)[2]) {
    const float2 k_scale = self.shared.control.low_scale[self.k_ring.slot()];
    mask(scores, flags);
    self.release_keys();
    // Never 0: a masked score is -infinity and must stay -infinity.
    const float factor[2][2] = {
        {fmaxf(q_scale[0] * k_scale.x, 1e-37f), fmaxf(q_scale[0] * k_scale.y, 1e-37f)},
        {fmaxf(q_scale[1] * k_scale.x, 1e-37f), fmaxf(q_scale[1] * k_scale.y, 1e-37f)}};
    softmax.template step_low<kScores, kWeightLift>(scores, factor, self.args.kernel.scale_log2,
                                                    decay);
    round(scores, weights);
  }

  template <class Outputs, class Running>
  __device__ __forceinline__ void leave_low(Outputs& outputs, Running& softmax) {
    const int64_t head = head_row();
    const int patches = self.args.kernel.geometry.total_patches;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      softmax.top[r] += self.args.low.q_dot_mean[head * patches + patch(r)];
      softmax.sum[r] *= 1.0f / kWeightScale;
    }
    const float* v_scale = self.args.low.v + head * Traits::kHeadDim + score_column(self.thread, 0);
#pragma unroll
    for (int i = 0; i < kOutputs; i += 4) {
      const float2 scale = *reinterpret_cast<const float2*>(v_scale + score_column(0, i));
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        outputs(i + j) *= (j % 2 == 0 ? scale.x : scale.y) * (1.0f / kWeightScale);
      }
    }
  }

  // Computes tiles as long as they are low; `flags` describes the first one. Returns the flags of
  // the first tile that is not low. Products with V use separate registers and are added to the
  // outputs in float32, because the tensor cores keep only about 14 bits of an FP8 sum.
  template <class Outputs, class Running>
  __device__ __forceinline__ int run(int flags, Outputs& outputs, Running& softmax) {
    using namespace cute;
    typename Traits::LowMmaQk mma_qk;
    typename Traits::LowMmaPv mma_pv;
    auto& shared = self.shared;
    auto s_q =
        make_tensor(make_smem_ptr(shared.low_q[self.warpgroup]), typename Traits::LowLayoutQ{});
    auto s_k = make_tensor(make_smem_ptr(reinterpret_cast<Low*>(shared.k[0])),
                           typename Traits::LowLayoutK{});
    auto s_v = make_tensor(make_smem_ptr(reinterpret_cast<Low*>(shared.v[0])),
                           typename Traits::LowLayoutV{});
    auto slice_qk = mma_qk.get_thread_slice(self.thread);
    auto slice_pv = mma_pv.get_thread_slice(self.thread);
    auto q_operand = slice_qk.partition_fragment_A(s_q);
    auto k_operand = slice_qk.partition_fragment_B(s_k);
    auto v_operand = slice_pv.partition_fragment_B(s_v);
    using ScoreShape = Shape<typename Traits::Rows, typename Traits::Keys>;
    using OutputShape = Shape<typename Traits::Rows, typename Traits::Dim>;
    auto weights =
        make_tensor<Low>(Layout<Shape<Shape<_4, _2, _2>, _1, Int<kKeysPerStage / 32>>>{});
    static_assert(decltype(size(weights))::value == kScores);
    static_assert(decltype(size(partition_fragment_C(mma_qk, ScoreShape{})))::value == kScores);
    float decay[2];
    load_scales();
    {
      auto scores = partition_fragment_C(mma_qk, ScoreShape{});
      const auto keys = k_operand(_, _, _, 2 * self.k_ring.slot());
      issue_half<0>(mma_qk, q_operand, keys, scores);
      issue_half<1>(mma_qk, q_operand, keys, scores);
      warpgroup_wait<0>();
      warpgroup_fence_operand(scores);
      settle(scores, weights, softmax, flags, decay);
    }
    for (;;) {
      flags = self.wait_keys();
      if ((flags & kNoteLow) == 0) break;
      auto scores = partition_fragment_C(mma_qk, ScoreShape{});
      auto products = partition_fragment_C(mma_pv, OutputShape{});
      self.take_turn();
      self.wait_values(1);
      Consumer::template issue<true>(mma_pv, weights, v_operand(_, _, _, 2 * self.v_ring(1).slot()),
                                     products);
      const auto keys = k_operand(_, _, _, 2 * self.k_ring.slot());
      issue_half<0>(mma_qk, q_operand, keys, scores);
      warpgroup_wait<1>();
      warpgroup_fence_operand(products);
      self.release_values(1);
      add(outputs, products, decay);
      issue_half<1>(mma_qk, q_operand, keys, scores);
      self.pass_turn();
      warpgroup_wait<0>();
      warpgroup_fence_operand(scores);
      settle(scores, weights, softmax, flags, decay);
    }
    auto products = partition_fragment_C(mma_pv, OutputShape{});
    self.wait_values(1);
    Consumer::template issue<true>(mma_pv, weights, v_operand(_, _, _, 2 * self.v_ring(1).slot()),
                                   products);
    warpgroup_wait<0>();
    warpgroup_fence_operand(products);
    self.release_values(1);
    add(outputs, products, decay);
    leave_low(outputs, softmax);
    return flags;
  }

  template <class Outputs, class Products>
  __device__ __forceinline__ static void add(Outputs& outputs, const Products& products,
                                             const float (&decay)[2]) {
#pragma unroll
    for (int i = 0; i < kOutputs; ++i) {
      outputs(i) = fmaf(outputs(i), decay[i / 2 % 2], products(i));
    }
  }
};

}  // namespace covis
