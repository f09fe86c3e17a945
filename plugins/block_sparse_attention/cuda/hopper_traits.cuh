// Types and shared-memory layouts of one row of the tile table.
#pragma once

#include <cute/tensor.hpp>

#include "block_sparse_attention/cuda/hopper_control.cuh"

namespace covis {

template <class Element_, int kHeadDim_, bool kPolynomial_, bool kFp8_>
struct HopperTraits {
  using Element = Element_;
  static constexpr bool kFp8 = kFp8_;
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr TileRow kRow = hopper_row(kHeadDim, kPolynomial_);
  static constexpr int kConsumers = kRow.consumers;
  static constexpr int kStages = kRow.stages;
  static constexpr int kThreads = 128 * (1 + kConsumers);
  static constexpr int kColumns = 64;  // of a TMA box: 128 bytes, the swizzle's width
  static constexpr int kBoxes = kHeadDim / kColumns;
  static constexpr int kBoxElements = kPiece * kColumns;

  using Keys = cute::Int<kKeysPerStage>;
  using Dim = cute::Int<kHeadDim>;
  using Rows = cute::Int<kPiece>;
  using MmaQk = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Element, Element, float, cute::Shape<Rows, Keys, Dim>>()));
  using MmaPv = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Element, Element, float, cute::Shape<Rows, Dim, Keys>,
                                 cute::GMMA::Major::K, cute::GMMA::Major::MN>()));
  using Atom = cute::GMMA::Layout_K_SW128_Atom<Element>;
  using LayoutQ = decltype(cute::tile_to_shape(Atom{}, cute::Shape<Rows, Dim>{}));
  using LayoutK =
      decltype(cute::tile_to_shape(Atom{}, cute::Shape<Keys, Dim, cute::Int<kStages>>{}));
  // The same values seen as (D, keys): wgmma reads V with D contiguous.
  using LayoutVt = decltype(cute::composition(
      LayoutK{},
      cute::make_layout(cute::Shape<Dim, Keys, cute::Int<kStages>>{},
                        cute::Stride<Keys, cute::_1, cute::Int<kKeysPerStage * kHeadDim>>{})));

  // FP8 tiles lie in the first half of the 16-bit slots: chunk by chunk, K as (keys, D), V as
  // (D, keys). A row of V is 64 keys, half the swizzle of a row of 128 numbers.
  using Low = cute::float_e4m3_t;
  using LowMmaQk = decltype(cute::make_tiled_mma(
      cute::GMMA::ss_op_selector<Low, Low, float, cute::Shape<Rows, Rows, Dim>>()));
  using LowMmaPv = decltype(cute::make_tiled_mma(
      cute::GMMA::rs_op_selector<Low, Low, float, cute::Shape<Rows, Dim, Keys>>()));
  using LowAtomV = cute::GMMA::Layout_K_SW64_Atom<Low>;
  using LowAtom =
      cute::conditional_t<kHeadDim == 64, LowAtomV, cute::GMMA::Layout_K_SW128_Atom<Low>>;
  using LowSlots = cute::Int<2 * kStages>;
  using LowLayoutQ = decltype(cute::tile_to_shape(LowAtom{}, cute::Shape<Rows, Dim>{}));
  using LowLayoutK = decltype(cute::tile_to_shape(LowAtom{}, cute::Shape<Keys, Dim, LowSlots>{}));
  using LowLayoutV = decltype(cute::tile_to_shape(LowAtomV{}, cute::Shape<Dim, Keys, LowSlots>{}));
  static constexpr int kLowChunk = kPiece * kHeadDim;  // bytes of a chunk of K or V

  using Control = HopperControl<kStages>;

  struct alignas(1024) Shared {
    Element q[kConsumers][kPiece * kHeadDim];
    Element o[kConsumers][kPiece * kHeadDim];
    Element k[kStages][kKeysPerStage * kHeadDim];
    Element v[kStages][kKeysPerStage * kHeadDim];
    Low low_q[kFp8 ? kConsumers : 1][kFp8 ? kPiece * kHeadDim : 16];
    uint32_t skipped[kConsumers][2][128];  // of each thread: its scores that the rule leaves out
    Control control;
  };
  static_assert(sizeof(Control) <= kHopperControlBytes);
  static_assert(sizeof(Shared) <= hopper_shared_bytes(kRow, kFp8));
};

}  // namespace covis
