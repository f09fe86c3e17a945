// BlockSparseAttention on sm_90a: one producer warpgroup walks the key list of a query tile and
// feeds key and value tiles through TMA; each consumer warpgroup owns one query piece (64 rows) and
// runs S = Q K^T and O += P V on wgmma, the next S issued before the current softmax. With kFp8 the
// chunks of level 1 come first and are computed in e4m3, the others in Element, in one softmax.
// CTAs are persistent and take tiles, longest rows first, from a counter.
#pragma once

#include "block_sparse_attention/cuda/hopper_consumer.cuh"
#include "block_sparse_attention/cuda/hopper_producer.cuh"

namespace covis {

template <class Element, int kHeadDim, bool kPolynomial, bool kFp8>
__global__ void __launch_bounds__(HopperTraits<Element, kHeadDim, kPolynomial, kFp8>::kThreads, 1)
    hopper_attention(const __grid_constant__ HopperArgs args) {
  using Traits = HopperTraits<Element, kHeadDim, kPolynomial, kFp8>;
  using Shared = typename Traits::Shared;
  // The kernel has no static shared memory, so the dynamic part starts at offset 0: all addresses
  // are constants, which saves registers everywhere.
  extern __shared__ __align__(1024) uint8_t raw[];
  if (ptx::shared_address(raw) % 1024 != 0) __trap();  // 128-byte swizzling needs this alignment
  Shared& shared = *reinterpret_cast<Shared*>(raw);
  auto& control = shared.control;

  if (threadIdx.x == 0) {
    constexpr int kWarps = 4 * Traits::kConsumers;  // one arrival per warp
    ptx::barrier_init(&control.q_full, 1);
    ptx::barrier_init(&control.q_empty, kWarps);
    for (int i = 0; i < Traits::kStages; ++i) {
      ptx::barrier_init(&control.k_full[i], 1);
      ptx::barrier_init(&control.k_empty[i], kWarps);
      ptx::barrier_init(&control.v_full[i], 1);
      ptx::barrier_init(&control.v_empty[i], kWarps);
    }
    for (int i = 0; i < 2; ++i) {
      ptx::barrier_init(&control.work_full[i], 1);
      ptx::barrier_init(&control.work_empty[i], kWarps + 2);  // and the loaders
    }
    for (int i = 0; i < kListSlots; ++i) {
      ptx::barrier_init(&control.list_full[i], 1);
      ptx::barrier_init(&control.list_empty[i], 2);
    }
    ptx::barrier_init_fence();
  }
  __syncthreads();

  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  if (warpgroup == 0) {
    ptx::registers_decrease<Traits::kRow.producer_registers>();
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < 32) {
      Lister<Traits> lister{args.kernel, control};
      lister.run();
    } else if (thread == 32) {
      Loader<Traits, true> loader{args, shared};
      loader.run();
    } else if (thread == 64) {
      Loader<Traits, false> loader{args, shared};
      loader.run();
    }
  } else {
    ptx::registers_increase<Traits::kRow.consumer_registers>();
    Consumer<Traits> consumer{args, shared, warpgroup - 1, static_cast<int>(threadIdx.x) % 128};
    consumer.run();
  }
}

}  // namespace covis
