// A consumer warpgroup: one query piece against the key tiles of its list.
#pragma once

#include <cutlass/numeric_conversion.h>

#include "block_sparse_attention/cuda/hopper_low.cuh"
#include "block_sparse_attention/cuda/hopper_traits.cuh"
#include "block_sparse_attention/cuda/mask.cuh"
#include "block_sparse_attention/cuda/softmax.cuh"

namespace covis {

template <class Traits_>
struct Consumer {
  using Traits = Traits_;
  using Element = typename Traits::Element;
  using Shared = typename Traits::Shared;
  static constexpr int kScores = kPiece * kKeysPerStage / 128;  // a thread's scores
  static_assert(kScores == 2 * 32);
  static constexpr int kOutputs = kPiece * Traits::kHeadDim / 128;  // a thread's outputs
  static constexpr int kOrderBarrier = 1;                           // ids of named barriers
  static constexpr int kEpilogueBarrier = kOrderBarrier + Traits::kConsumers;

  const HopperArgs& args;
  Shared& shared;
  int warpgroup;  // 0 .. kConsumers - 1
  int thread;     // 0 .. 127
  RingPosition<Traits::kStages> k_ring;
  RingPosition<2>
      work_ring;  // of tiles: the queries have one slot, so their parity is its lowest bit

  __device__ __forceinline__ const TileWork& work() const {
    return shared.control.work[work_ring.slot()];
  }

  __device__ __forceinline__ void release(uint64_t* barrier) {
    __syncwarp();
    if (thread % 32 == 0) ptx::barrier_arrive(barrier);
  }

  // Turns: a warpgroup issues its products after the others have issued theirs.
  __device__ __forceinline__ void take_turn() {
    if constexpr (Traits::kRow.ordered) {
      ptx::named_sync(kOrderBarrier + warpgroup, 128 * Traits::kConsumers);
    }
  }
  __device__ __forceinline__ void pass_turn() {
    if constexpr (Traits::kRow.ordered) {
#pragma unroll
      for (int other = 0; other < Traits::kConsumers; ++other) {
        if (other != warpgroup) {
          ptx::named_arrive(kOrderBarrier + other, 128 * Traits::kConsumers);
        }
      }
    }
  }
  // Warpgroup i starts as if all later ones had just passed their turn.
  __device__ __forceinline__ void open_turns() {
    if constexpr (Traits::kRow.ordered) {
#pragma unroll
      for (int other = 0; other < Traits::kConsumers; ++other) {
        if (other < warpgroup) ptx::named_arrive(kOrderBarrier + other, 128 * Traits::kConsumers);
      }
    }
  }

  // Flags of both chunks, the second's in the upper half.
  __device__ __forceinline__ int wait_keys() {
    ptx::barrier_wait(&shared.control.k_full[k_ring.slot()], k_ring.phase());
    const int4& note = shared.control.note[k_ring.slot()];
    return note.y | note.w << 16;
  }
  __device__ __forceinline__ void release_keys() {
    release(&shared.control.k_empty[k_ring.slot()]);
    k_ring.next();
  }
  // The value ring needs no counter: each finished tile has added one end note to the key ring.
  // `lag` is the number of key tiles of this tile that are released beyond the value tile.
  __device__ __forceinline__ RingPosition<Traits::kStages> v_ring(int lag) const {
    return {k_ring.count - work_ring.count - lag};
  }
  __device__ __forceinline__ void wait_values(int lag) {
    const auto ring = v_ring(lag);
    ptx::barrier_wait(&shared.control.v_full[ring.slot()], ring.phase());
  }
  __device__ __forceinline__ void release_values(int lag) {
    release(&shared.control.v_empty[v_ring(lag).slot()]);
  }

  // A warpgroup without a piece in this tile only advances the rings and takes its turns.
  __device__ __forceinline__ void idle_tile() {
    for (bool first = true;; first = false) {
      const int flags = wait_keys();
      release_keys();
      if ((flags & kNoteEnd) != 0) break;
      if (!first) {
        take_turn();
        pass_turn();
      }
      wait_values(1);
      release_values(1);
    }
    ptx::barrier_wait(&shared.control.q_full, work_ring.count & 1);
    release(&shared.control.q_empty);
  }

  // Finds the pairs of a key tile that the element rule excludes. Computed before its products are
  // issued, while the registers of the scores are free, and stored in shared memory until then.
  __device__ __forceinline__ void apply_rule(int flags) {
    if ((flags & (kNotePartial | kNotePartial << 16)) == 0) return;
    const int4 note = shared.control.note[k_ring.slot()];
#pragma unroll 1
    for (int half = 0; half < 2; ++half) {
      const int chunk_flags = half == 0 ? note.y : note.w;
      uint32_t skipped = 0;
      if ((chunk_flags & kNotePartial) != 0) {
        skipped = skipped_by_rule(args.kernel.geometry, work().level, work().pieces[warpgroup],
                                  half == 0 ? note.x : note.z, chunk_flags & kNoteCount, thread);
      }
      shared.skipped[warpgroup][half][thread] = skipped;
    }
  }

  // Keys beyond a chunk's count, and pairs that the element rule excludes, get weight 0.
  template <class Scores>
  __device__ __forceinline__ void mask(Scores& scores, int flags) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int chunk_flags = half == 0 ? flags : flags >> 16;
      // Compared with the columns of thread 0: 64 constants instead of 64 sums.
      const int limit = (chunk_flags & kNoteCount) - 2 * (thread % 4);
      const uint32_t skipped =
          (chunk_flags & kNotePartial) != 0 ? shared.skipped[warpgroup][half][thread] : 0;
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        const bool behind = score_column(0, i) >= limit;
        if (behind || (skipped >> i & 1) != 0) scores(32 * half + i) = -INFINITY;
      }
    }
  }

  __device__ __forceinline__ static bool needs_mask(int flags) {
    return flags != (kPiece | kPiece << 16);  // two whole chunks without a rule to apply
  }

  template <class Outputs>
  __device__ __forceinline__ void write(Outputs& outputs, const float (&inverse)[2]) {
    using namespace cute;
    const KernelArgs& kernel = args.kernel;
    const Geometry& g = kernel.geometry;
    auto rounded = make_tensor<Element>(outputs.layout());
    CUTE_UNROLL
    for (int i = 0; i < kOutputs; i += 2) {
      const float scale = inverse[i / 2 % 2];
      cutlass::Array<float, 2> pair{outputs(i) * scale, outputs(i + 1) * scale};
      const auto out = cutlass::NumericArrayConverter<Element, float, 2>::convert(pair);
      rounded(i) = out[0];
      rounded(i + 1) = out[1];
    }
    if (thread == 0) ptx::store_wait_read();  // of the previous tile, from the same staging buffer
    ptx::named_sync(kEpilogueBarrier + warpgroup, 128);
    auto staged = make_tensor(make_smem_ptr(shared.o[warpgroup]), typename Traits::LayoutQ{});
    auto copy_out =
        make_tiled_copy_C(Copy_Atom<SM90_U32x4_STSM_N, Element>{}, typename Traits::MmaPv{});
    auto slice = copy_out.get_thread_slice(thread);
    copy(copy_out, slice.retile_S(rounded), slice.partition_D(staged));
    ptx::async_proxy_fence();
    ptx::named_sync(kEpilogueBarrier + warpgroup, 128);

    const Piece piece = work().pieces[warpgroup];
    const bool special = work().special != 0;
    const int head = work().head;
    const int batch = work().batch;
    const bool clipped = piece.count == kPiece || piece.row + piece.count == g.patches;
    if (!special && clipped) {
      if (thread == 0) {
        CUTE_UNROLL
        for (int box = 0; box < Traits::kBoxes; ++box) {
          ptx::store_box(&args.maps.o, &shared.o[warpgroup][box * Traits::kBoxElements],
                         box * Traits::kColumns, piece.row, piece.frame, head, batch);
        }
        ptx::store_commit();
      }
      return;
    }
    // Specials have separate storage, and a piece that ends inside a frame must not write past its
    // end.
    constexpr int kVectors = Traits::kHeadDim / 8;  // 16 bytes each
    Element* base =
        static_cast<Element*>(kernel.o) + batch * kernel.o_stride[0] + head * kernel.o_stride[1];
    for (int index = thread; index < piece.count * kVectors; index += 128) {
      const int row = index / kVectors;
      const int column = index % kVectors * 8;
      const int64_t token = query_token(g, special, piece, row);
      *reinterpret_cast<uint4*>(base + token * kernel.o_stride[2] + column) =
          *reinterpret_cast<const uint4*>(&staged(row, column));
    }
  }

  template <bool kFromZero, class Mma, class A, class B, class C>
  __device__ __forceinline__ static void issue(Mma& mma, A const& a, B const& b, C& c) {
    using namespace cute;
    warpgroup_fence_operand(c);
    warpgroup_arrive();
    mma.accumulate_ = kFromZero ? GMMA::ScaleOut::Zero : GMMA::ScaleOut::One;
    CUTE_UNROLL
    for (int k = 0; k < size<2>(a); ++k) {
      gemm(mma, a(_, _, k), b(_, _, k), c);
      mma.accumulate_ = GMMA::ScaleOut::One;
    }
    warpgroup_commit_batch();
  }

  template <class Scores, class Weights>
  __device__ __forceinline__ static void round(const Scores& scores, Weights& weights) {
    // Pairs as words: separate halves would be split and joined again.
    auto words = cute::recast<uint32_t>(weights);
    CUTE_UNROLL
    for (int i = 0; i < kScores; i += 2) {
      cutlass::Array<float, 2> pair{scores(i), scores(i + 1)};
      const auto out = cutlass::NumericArrayConverter<Element, float, 2>::convert(pair);
      words(i / 2) = __builtin_bit_cast(uint32_t, out);
    }
  }

  __device__ __forceinline__ void compute_tile() {
    using namespace cute;
    typename Traits::MmaQk mma_qk;
    typename Traits::MmaPv mma_pv;
    auto s_q = make_tensor(make_smem_ptr(shared.q[warpgroup]), typename Traits::LayoutQ{});
    auto s_k = make_tensor(make_smem_ptr(shared.k[0]), typename Traits::LayoutK{});
    auto s_vt = make_tensor(make_smem_ptr(shared.v[0]), typename Traits::LayoutVt{});
    auto slice_qk = mma_qk.get_thread_slice(thread);
    auto slice_pv = mma_pv.get_thread_slice(thread);
    auto q_operand = slice_qk.partition_fragment_A(s_q);
    auto k_operand = slice_qk.partition_fragment_B(s_k);
    auto v_operand = slice_pv.partition_fragment_B(s_vt);
    using ScoreShape = Shape<typename Traits::Rows, typename Traits::Keys>;
    using OutputShape = Shape<typename Traits::Rows, typename Traits::Dim>;
    auto outputs = partition_fragment_C(mma_pv, OutputShape{});
    // A 16-deep slice of P in wgmma's register layout: the scores in their own order.
    auto weights =
        make_tensor<Element>(Layout<Shape<Shape<_2, _2, _2>, _1, Int<kKeysPerStage / 16>>>{});
    static_assert(decltype(size(outputs))::value == kOutputs);
    static_assert(decltype(size(weights))::value == kScores);

    const float scale_log2 = args.kernel.scale_log2;
    Softmax<Traits::kRow.polynomial_of_16> softmax;
    softmax.reset();
    clear(outputs);
    float decay[2];

    ptx::barrier_wait(&shared.control.q_full, work_ring.count & 1);
    int flags = wait_keys();
    bool after_low = false;
    if constexpr (Traits::kFp8) {
      after_low = (flags & kNoteLow) != 0;
      if (after_low) {
        LowPhase<Consumer> low{*this};
        flags = low.run(flags, outputs, softmax);
      }
    }
    const bool wide = (flags & kNoteEnd) == 0;  // 16-bit tiles follow
    if (wide) {
      {
        apply_rule(flags);
        auto scores = partition_fragment_C(mma_qk, ScoreShape{});
        if (after_low) take_turn();  // each tile of a list except the first has one
        issue<true>(mma_qk, q_operand, k_operand(_, _, _, k_ring.slot()), scores);
        if (after_low) pass_turn();
        warpgroup_wait<0>();
        warpgroup_fence_operand(scores);
        if (needs_mask(flags)) mask(scores, flags);
        release_keys();
        softmax.template step<kScores>(scores, scale_log2, decay);
        if constexpr (Traits::kFp8) {
          CUTE_UNROLL
          for (int i = 0; i < kOutputs; ++i) outputs(i) *= decay[i / 2 % 2];
        }
        round(scores, weights);
      }
      for (;;) {
        flags = wait_keys();
        if ((flags & kNoteEnd) != 0) break;
        apply_rule(flags);
        auto scores = partition_fragment_C(mma_qk, ScoreShape{});
        take_turn();
        issue<true>(mma_qk, q_operand, k_operand(_, _, _, k_ring.slot()), scores);
        wait_values(1);
        issue<false>(mma_pv, weights, v_operand(_, _, _, v_ring(1).slot()), outputs);
        pass_turn();
        warpgroup_wait<1>();
        warpgroup_fence_operand(scores);
        if (needs_mask(flags)) mask(scores, flags);
        release_keys();
        softmax.template step<kScores>(scores, scale_log2, decay);
        warpgroup_wait<0>();
        warpgroup_fence_operand(outputs);
        release_values(2);
        CUTE_UNROLL
        for (int i = 0; i < kOutputs; ++i) outputs(i) *= decay[i / 2 % 2];
        round(scores, weights);
      }
    }
    release(&shared.control.q_empty);
    if (wide) {
      wait_values(1);
      issue<false>(mma_pv, weights, v_operand(_, _, _, v_ring(1).slot()), outputs);
      warpgroup_wait<0>();
      warpgroup_fence_operand(outputs);
      release_values(1);
    }
    release_keys();  // the end note
    float inverse[2];
    softmax.finish(inverse);
    write(outputs, inverse);
  }

  __device__ __forceinline__ void run() {
    open_turns();
    for (;;) {
      auto& control = shared.control;
      ptx::barrier_wait(&control.work_full[work_ring.slot()], work_ring.phase());
      if (work().active < 0) break;
      if (work().pieces[warpgroup].count == 0)
        idle_tile();
      else
        compute_tile();
      release(&control.work_empty[work_ring.slot()]);
      work_ring.next();
    }
    if (thread == 0) ptx::store_wait_read();  // the last store must have read shared memory
  }
};

}  // namespace covis
