// The data that the warps of a Hopper CTA share: arguments, rings, barriers, notes.
#pragma once

#include "block_sparse_attention/cuda/hopper_args.h"
#include "block_sparse_attention/cuda/hopper_ptx.cuh"
#include "block_sparse_attention/cuda/tiles.h"
#include "block_sparse_attention/cuda/walk.h"

namespace covis {

// The flags of a chunk, 16 bits: its valid keys [kNoteFirst, kNoteCount), and its kind.
inline constexpr int kNoteCount = 0x7f;
inline constexpr int kNoteFirstShift = 7;
inline constexpr int kNoteFirst = 0x3f;  // shifted down
inline constexpr int kNotePartial = 1 << 13;
inline constexpr int kNoteLow = 1 << 14;  // both chunks of a stage are low, or none is
inline constexpr int kNoteEnd = 1 << 15;
inline constexpr int kNoteSpecial = 1 << 16;  // used by the loaders only
static_assert(kPiece <= kNoteCount && kPiece - 1 <= kNoteFirst);

inline constexpr int kListSlots = 8;  // stages that the walk of a list may run ahead of the loads

// Position in a ring of kSlots (a power of two): one register for the slot and the parity of the
// round.
template <int kSlots>
struct RingPosition {
  static_assert((kSlots & (kSlots - 1)) == 0);
  uint32_t count = 0;
  __device__ __forceinline__ int slot() const { return static_cast<int>(count % kSlots); }
  __device__ __forceinline__ uint32_t phase() const { return count / kSlots & 1; }
  __device__ __forceinline__ void next() { ++count; }
};

// A query tile as decoded by the lister; the other warps have no registers to decode it again.
inline constexpr int kMaxConsumers = 3;
struct TileWork {
  int32_t active;  // pieces; -1 = no more tiles
  int32_t batch, head, special;
  const int8_t* level;  // of the batch and head
  Piece pieces[kMaxConsumers];
};

// Everything in shared memory that is not a tile. Every ring has a full and an empty barrier per
// slot; a note beside each key slot passes the loader's description of the key tile to the
// consumers.
template <int kStages>
struct HopperControl {
  uint64_t q_full, q_empty;
  uint64_t k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
  uint64_t work_full[2], work_empty[2];
  uint64_t list_full[kListSlots], list_empty[kListSlots];
  int4 list[kListSlots][2];   // of each chunk: row, frame, patch, flags
  int4 note[kStages];         // patch and flags of both chunks
  float2 low_scale[kStages];  // FP8: K's scale of both chunks
  TileWork work[2];
  WalkScratch walk;
};

}  // namespace covis
